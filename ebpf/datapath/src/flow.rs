//! Connection tracking: which packets are replies, and to which frontend they belong.

use tombolo_abi::{
    Account, Address, Config, DropReason, FlowFlags, FlowKey, FlowValue, PodConnections, PodKey, Scope,
};

use crate::{Headers, Tables, Tuple, translation::Translation};

/// What the table says about a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Seen {
    /// Nothing yet.
    New,
    /// It goes the way the connection was opened.
    Original,
    /// It goes the other way.
    Reply,
    /// A reply of which the translation is to be undone.
    TranslatedReply,
    /// A translated reply from a pod to itself.
    HairpinReply,
    /// The table holds another connection with the same addresses and ports.
    Conflict,
}

impl Seen {
    /// Whether it answers an earlier packet.
    pub const fn is_reply(self) -> bool {
        matches!(self, Self::Reply | Self::TranslatedReply | Self::HairpinReply)
    }
}

/// A [`Seen`], and whether the connection was judged under the policies of now; in one number: what a BPF function can
/// return.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Observed(u8);

impl Observed {
    const JUDGED: u8 = 0x80;
    const NEW: Self = Self::new(Seen::New, false);

    #[inline(always)]
    const fn new(seen: Seen, judged: bool) -> Self {
        Self(seen as u8 | if judged { Self::JUDGED } else { 0 })
    }

    /// What the packet is in its connection.
    #[inline(always)]
    pub const fn seen(self) -> Seen {
        const ALL: [Seen; 5] =
            [Seen::Original, Seen::Reply, Seen::TranslatedReply, Seen::HairpinReply, Seen::Conflict];
        let mut i = 0;
        while i < ALL.len() {
            if self.0 & !Self::JUDGED == ALL[i] as u8 {
                return ALL[i];
            }
            i += 1;
        }
        Seen::New
    }

    /// Whether no rule has to be asked.
    #[inline(always)]
    pub const fn is_judged(self) -> bool {
        self.0 & Self::JUDGED != 0
    }
}

/// What takes part in a connection besides its addresses.
#[derive(Clone, Copy)]
pub struct Local {
    /// Number of the endpoint that sends the packet; 0 when that is not a pod of this node, or not known.
    pub sender: u32,
    /// Number of the endpoint that it goes to, likewise.
    pub receiver: u32,
    /// The policy epoch, as it was before any rule was asked.
    pub epoch: u32,
    /// Whether the node itself sends it, which no limit keeps from its pods.
    pub is_from_node: bool,
}

const FIN: u8 = 0x01;
const RST: u8 = 0x04;

/// Looks up the connection of a packet, which has been translated as `translation` says, and notes the packet in it. For a
/// translated reply, `translation` says thereafter what is to be undone. The connection of a pod that had one of the
/// addresses before is none.
#[inline(never)]
pub fn observe<T: Tables>(
    tables: &T,
    headers: &Headers,
    translation: &mut Translation,
    local: &Local,
) -> Observed {
    let (key, from_source) = connection_key(&headers.tuple);
    let now = tables.now();
    tables
        .flow(&key, |flow| note(flow, headers, translation, local, from_source, now))
        .unwrap_or(Observed::NEW)
}

/// Whether there is an entry for the connection, and still counts.
#[inline(always)]
pub fn is_known<T: Tables>(tables: &T, tuple: &Tuple) -> bool {
    let now = tables.now();
    tables.flow(&connection_key(tuple).0, |flow| is_alive(flow, tuple.protocol, now)) == Some(true)
}

/// Notes that the connection of the packet was judged by the rules of its local endpoints. An error notes nothing.
#[inline(never)]
pub fn set_judged<T: Tables>(tables: &T, headers: &Headers, local: &Local) {
    if headers.is_error() {
        return;
    }
    let (key, from_source) = connection_key(&headers.tuple);
    tables.flow(&key, |flow| {
        if flow.flags().contains(FlowFlags::FROM_SOURCE) == from_source {
            flow.judge_again(local.sender, local.receiver, local.epoch);
        } else {
            flow.judge_again(local.receiver, local.sender, local.epoch);
        }
    });
}

/// Records a new connection in the direction of the packet.
///
/// # Errors
/// [`DropReason::ConnectionLimit`] and [`DropReason::FlowTableFull`].
#[inline(never)]
pub fn open<T: Tables>(
    tables: &T,
    headers: &Headers,
    translation: &Translation,
    local: &Local,
    hairpin: bool,
) -> Result<(), DropReason> {
    if headers.is_error() {
        return Ok(());
    }
    charge(tables, translation, local)?;
    let (key, from_source) = connection_key(&headers.tuple);
    let mut flags = if from_source { FlowFlags::FROM_SOURCE } else { FlowFlags::NONE };
    if hairpin {
        flags = flags.with(FlowFlags::HAIRPIN);
    }
    let mut flow = if translation.exists {
        FlowValue::new(tables.now(), flags.with(FlowFlags::TRANSLATED))
            .translated(translation.backend, translation.frontend, translation.frontend_port)
            .with_client_port(translation.client_port)
    } else {
        FlowValue::new(tables.now(), flags)
    };
    if headers.tcp_flags & RST != 0 {
        flow.touch(tables.now(), FlowFlags::RESET);
    }
    store(tables, &key, &flow.judged(local.sender, local.receiver, local.epoch))
}

/// Charges a connection, and what remembers its translation, to the pod that opens it, or else to the one that it goes to.
///
/// # Errors
/// [`DropReason::ConnectionLimit`].
#[inline(never)]
fn charge<T: Tables>(tables: &T, translation: &Translation, local: &Local) -> Result<(), DropReason> {
    let (pod, account) =
        if local.sender != 0 { (local.sender, Account::Opened) } else { (local.receiver, Account::Accepted) };
    let pod = PodKey::new(pod);
    let limit = if local.is_from_node { 0 } else { tables.config().map_or(0, Config::connection_limit) };
    let entries = if translation.exists { 2 } else { 1 };
    let now = tables.now();
    match tables.pod_connections(&pod, |connections| connections.admit(account, entries, limit, now)) {
        Some(true) => {}
        Some(false) => return Err(DropReason::ConnectionLimit),
        None => {
            let mut first = PodConnections::new(0, 0, now);
            first.admit(account, entries, 0, now);
            tables.set_pod_connections(&pod, &first);
        }
    }
    Ok(())
}

/// Records a connection that the receiver of the packet has opened before, as another table says, and which the packet
/// answers.
///
/// # Errors
/// [`DropReason::FlowTableFull`].
#[inline(never)]
pub fn open_answered<T: Tables>(tables: &T, headers: &Headers, local: &Local) -> Result<(), DropReason> {
    if headers.is_error() {
        return Ok(());
    }
    let (key, from_source) = connection_key(&headers.tuple);
    let opener = if from_source { FlowFlags::NONE } else { FlowFlags::FROM_SOURCE };
    let progress = tcp_progress(headers.tcp_flags, FlowFlags::FIN_REPLY);
    let flow = FlowValue::new(tables.now(), opener.with(FlowFlags::REPLIED).with(progress));
    store(tables, &key, &flow.judged(local.receiver, local.sender, local.epoch))
}

/// Adds or replaces an entry.
///
/// # Errors
/// [`DropReason::FlowTableFull`].
#[inline(always)]
pub fn store<T: Tables>(tables: &T, key: &FlowKey, flow: &FlowValue) -> Result<(), DropReason> {
    if tables.set_flow(key, flow) { Ok(()) } else { Err(DropReason::FlowTableFull) }
}

/// Whether an entry still counts. Another CPU may have noted a later tick since `now` was read.
#[inline(always)]
pub fn is_alive(flow: &FlowValue, number: u8, now: u64) -> bool {
    now.saturating_sub(flow.last_seen()) < flow.lifetime(number)
}

/// The key of the connection, and whether the sender stands as source in it.
#[inline(always)]
fn connection_key(t: &Tuple) -> (FlowKey, bool) {
    key_between(&t.source, t.source_port, &t.destination, t.destination_port, t.protocol)
}

/// The key of a connection between two ends, and whether the first stands as source in it.
#[inline(always)]
pub fn key_between(a: &Address, a_port: u16, b: &Address, b_port: u16, number: u8) -> (FlowKey, bool) {
    let a_is_source = is_before(a, a_port, b, b_port);
    let (s, s_port, d, d_port) = if a_is_source { (a, a_port, b, b_port) } else { (b, b_port, a, a_port) };
    (FlowKey::new(Scope::Connection, *s, s_port, *d, d_port, number), a_is_source)
}

/// Any order will do; the last bytes differ most often.
#[inline(always)]
fn is_before(a: &Address, a_port: u16, b: &Address, b_port: u16) -> bool {
    let mut i = a.len();
    while i > 0 {
        i -= 1;
        if a[i] != b[i] {
            return a[i] < b[i];
        }
    }
    a_port <= b_port
}

#[inline(always)]
fn note(
    flow: &mut FlowValue,
    headers: &Headers,
    translation: &mut Translation,
    local: &Local,
    from_source: bool,
    now: u64,
) -> Observed {
    let flags = flow.flags();
    if !is_alive(flow, headers.tuple.protocol, now) || (headers.opens() && flags.is_closed()) {
        return Observed::NEW;
    }
    let (sender, receiver) = if flags.contains(FlowFlags::FROM_SOURCE) == from_source {
        (flow.opener(), flow.answerer())
    } else {
        (flow.answerer(), flow.opener())
    };
    if is_another(sender, local.sender) || is_another(receiver, local.receiver) {
        return Observed::NEW;
    }
    let asked = was_asked(sender, local.sender) && was_asked(receiver, local.receiver);
    let judged = asked && flow.epoch() == local.epoch && local.epoch != 0;
    let seen = progress(flow, headers, translation, from_source, now);
    Observed::new(seen, judged && !matches!(seen, Seen::New | Seen::Conflict))
}

/// Whether the rules of an endpoint were among those that the connection was judged by.
#[inline(always)]
const fn was_asked(noted: u32, endpoint: u32) -> bool {
    endpoint == 0 || noted == endpoint
}

/// Whether both numbers are known, and are those of two endpoints.
#[inline(always)]
pub const fn is_another(noted: u32, endpoint: u32) -> bool {
    noted != 0 && endpoint != 0 && noted != endpoint
}

#[inline(always)]
fn progress(
    flow: &mut FlowValue,
    headers: &Headers,
    translation: &mut Translation,
    from_source: bool,
    now: u64,
) -> Seen {
    let flags = flow.flags();
    let translated = flags.contains(FlowFlags::TRANSLATED);
    if flags.contains(FlowFlags::FROM_SOURCE) == from_source {
        if translated != translation.exists || (translated && !is_translated_alike(flow, translation)) {
            return Seen::Conflict;
        }
        if !headers.is_error() {
            flow.touch(now, tcp_progress(headers.tcp_flags, FlowFlags::FIN_ORIGINAL));
        }
        return Seen::Original;
    }
    if translation.exists {
        // Who sends to a frontend answers nobody.
        return Seen::Conflict;
    }
    if !headers.is_error() {
        flow.touch(now, tcp_progress(headers.tcp_flags, FlowFlags::FIN_REPLY).with(FlowFlags::REPLIED));
    }
    if !translated {
        return Seen::Reply;
    }
    translation.begin(&flow.address(), flow.port());
    translation.client_port = flow.client_port();
    if flags.contains(FlowFlags::HAIRPIN) { Seen::HairpinReply } else { Seen::TranslatedReply }
}

/// Whether a translated connection is the one of a packet that was translated on its way there.
#[inline(always)]
fn is_translated_alike(flow: &FlowValue, translation: &Translation) -> bool {
    flow.port() == translation.frontend_port
        && flow.client_port() == translation.client_port
        && flow.address() == translation.frontend
}

#[inline(always)]
const fn tcp_progress(tcp_flags: u8, fin: FlowFlags) -> FlowFlags {
    if tcp_flags & RST != 0 {
        FlowFlags::RESET
    } else if tcp_flags & FIN != 0 {
        fin
    } else {
        FlowFlags::NONE
    }
}
