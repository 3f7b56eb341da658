//! Frames to and from bytes.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;
use tombolo_model::{ClusterId, ClusterName};

use super::{
    Change, EndpointFact, EnrollRequest, Frame, Heartbeat, Hello, NodeFacts, Observation, Position, Scope,
    Subscription, Transaction, Version, comparison, limits,
    parse::{self, FieldError, Result},
    proto::{self, frame::Body},
    record,
};
use crate::trust::Pin;

/// Why bytes are not a frame. The session ends with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// More bytes than any frame has.
    #[error("a frame of {0} bytes is longer than the limit of {max}", max = limits::MAX_FRAME)]
    TooLong(usize),
    /// A field is not valid.
    #[error("a frame is not valid: {0}")]
    Field(#[from] FieldError),
}

/// Why something cannot be sent: a receiver would refuse it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// More bytes than allowed.
    #[error("{what} has {len} bytes encoded, the most is {max}")]
    TooLong {
        /// What was to be encoded.
        what: &'static str,
        /// Bytes it has.
        len: usize,
        /// Bytes it may have.
        max: usize,
    },
    /// A field is out of bounds.
    #[error(transparent)]
    Field(#[from] FieldError),
}

/// The frame of these bytes (without length prefix). Never panics; takes memory in proportion to the input.
pub fn decode_frame(bytes: &[u8]) -> std::result::Result<Frame, DecodeError> {
    if bytes.len() > limits::MAX_FRAME {
        return Err(DecodeError::TooLong(bytes.len()));
    }
    let frame = proto::Frame::decode(bytes).map_err(FieldError::from)?;
    Ok(frame.body.map_or(Ok(Frame::Unknown), parse_body)?)
}

/// The bytes of a frame, without length prefix.
pub fn encode_frame(frame: &Frame) -> std::result::Result<Bytes, EncodeError> {
    let body = match frame {
        Frame::Transaction(t) => {
            let changes = t.changes.iter().map(encode_change).collect::<std::result::Result<Vec<_>, _>>()?;
            return within(
                "a frame",
                limits::MAX_FRAME,
                encode_transaction(t.revision, t.changed_unix_ms, t.more, changes),
            );
        }
        Frame::Withdraw(change) => Body::Withdraw(proto::Withdraw {
            change: change.as_ref().map(encode_change).transpose()?.unwrap_or_default(),
        }),
        Frame::Hello(hello) => Body::Hello(hello_message(hello)),
        Frame::Subscribe(s) => Body::Subscribe(proto::Subscribe {
            from: s.from.map(position_message),
            holds_records: s.holds_records,
        }),
        Frame::Digests(digests) => Body::Digests(proto::Digests { digests: digests.clone() }),
        Frame::Want(wanted) => Body::Want(comparison::want_message(wanted)),
        Frame::Obsolete(held) => Body::Obsolete(proto::Obsolete { held: held.clone() }),
        Frame::Begin { position, snapshot } => {
            Body::Begin(proto::Begin { position: Some(position_message(*position)), snapshot: *snapshot })
        }
        Frame::Watermark { position, scope } => Body::Watermark(watermark_message(*position, scope)),
        Frame::Heartbeat(h) => {
            Body::Heartbeat(proto::Heartbeat { revision: h.revision, unix_time_ms: h.unix_time_ms })
        }
        Frame::Observation(o) => Body::Observation(proto::Observation {
            silent: o.silent.iter().map(|id| id.get().into()).collect(),
            membership: o.membership,
        }),
        Frame::NodeFacts(facts) => Body::NodeFacts(facts_message(facts)),
        Frame::EnrollRequest(r) => {
            Body::EnrollRequest(proto::EnrollRequest { token: r.token.clone(), csr_der: r.csr_der.clone() })
        }
        Frame::EnrollResponse(chain) => {
            Body::EnrollResponse(proto::EnrollResponse { chain_der: chain.clone() })
        }
        Frame::Refusal(reason) => {
            Body::Refusal(proto::Refusal { reason: reason.chars().take(limits::MAX_REASON / 4).collect() })
        }
        Frame::Membership(message) => {
            let message = within("a message of the membership", limits::MAX_MEMBERSHIP, message.clone())?;
            Body::Membership(proto::Membership { message })
        }
        Frame::Unknown => return Ok(Bytes::new()),
    };
    let bytes: Bytes = proto::Frame { body: Some(body) }.encode_to_vec().into();
    within("a frame", limits::MAX_FRAME, bytes)
}

/// The change of these bytes; none when it is of an unknown kind.
pub fn decode_change(bytes: &[u8]) -> std::result::Result<Option<Change>, FieldError> {
    if bytes.len() > limits::MAX_RECORD {
        return Err(FieldError::TooLong { field: "change", len: bytes.len(), max: limits::MAX_RECORD });
    }
    proto::Change::decode(bytes)?.body.map_or(Ok(None), record::parse)
}

/// The bytes of a change. What is out of the bounds that a receiver insists on is an error.
pub fn encode_change(change: &Change) -> std::result::Result<Bytes, EncodeError> {
    let bytes = encode_decoded(change)?;
    decode_change(&bytes)?;
    Ok(bytes)
}

/// [`encode_change`] of what was decoded here: its fields are within bounds.
pub(crate) fn encode_decoded(change: &Change) -> std::result::Result<Bytes, EncodeError> {
    within("a record", limits::MAX_RECORD, change_bytes(change))
}

/// The bytes of a change that is known to be within bounds.
pub(crate) fn change_bytes(change: &Change) -> Bytes {
    let body = match change {
        Change::Upsert(record) => record::message(record),
        Change::Remove(key) => proto::change::Body::Remove(record::key_message(key)),
    };
    proto::Change { body: Some(body) }.encode_to_vec().into()
}

/// The bytes of a [`Frame::Transaction`] whose changes come from [`encode_change`].
pub fn encode_transaction(revision: u64, changed_unix_ms: u64, more: bool, changes: Vec<Bytes>) -> Bytes {
    let body = Body::Transaction(proto::Transaction { revision, changed_unix_ms, more, changes });
    proto::Frame { body: Some(body) }.encode_to_vec().into()
}

fn within(what: &'static str, max: usize, bytes: Bytes) -> std::result::Result<Bytes, EncodeError> {
    let len = bytes.len();
    if len > max { Err(EncodeError::TooLong { what, len, max }) } else { Ok(bytes) }
}

fn parse_body(body: Body) -> Result<Frame> {
    Ok(match body {
        Body::Hello(m) => Frame::Hello(parse_hello(m)?),
        Body::Subscribe(m) => Frame::Subscribe(Subscription {
            from: m.from.as_ref().map(parse_position),
            holds_records: m.holds_records,
        }),
        Body::Digests(m) => Frame::Digests(comparison::parse_digests(m)?),
        Body::Want(m) => Frame::Want(comparison::parse_want(&m)?),
        Body::Obsolete(m) => Frame::Obsolete(comparison::parse_obsolete(m)?),
        Body::Begin(m) => {
            Frame::Begin { position: required_position(m.position.as_ref())?, snapshot: m.snapshot }
        }
        Body::Transaction(m) => Frame::Transaction(parse_transaction(&m)),
        Body::Withdraw(m) => Frame::Withdraw(decode_change(&m.change)?),
        Body::Watermark(m) => parse_watermark(m)?,
        Body::Heartbeat(m) => {
            Frame::Heartbeat(Heartbeat { revision: m.revision, unix_time_ms: m.unix_time_ms })
        }
        Body::Observation(m) => Frame::Observation(Observation {
            silent: clusters("observation.silent", m.silent)?,
            membership: m.membership,
        }),
        Body::NodeFacts(m) => Frame::NodeFacts(parse_facts(m)?),
        Body::EnrollRequest(m) => {
            let len = m.csr_der.len();
            if len > limits::MAX_CREDENTIAL {
                return Err(FieldError::TooLong { field: "enroll.csr", len, max: limits::MAX_CREDENTIAL });
            }
            let token = parse::text("enroll.token", m.token, limits::MAX_CREDENTIAL)?;
            Frame::EnrollRequest(EnrollRequest { token, csr_der: m.csr_der })
        }
        Body::EnrollResponse(m) => {
            parse::count("enroll.chain", &m.chain_der, limits::MAX_CHAIN)?;
            Frame::EnrollResponse(m.chain_der)
        }
        Body::Refusal(m) => Frame::Refusal(parse::text("refusal.reason", m.reason, limits::MAX_REASON)?),
        Body::Membership(m) => {
            let (len, max) = (m.message.len(), limits::MAX_MEMBERSHIP);
            if len > max {
                return Err(FieldError::TooLong { field: "membership.message", len, max });
            }
            Frame::Membership(m.message)
        }
    })
}

fn parse_transaction(m: &proto::Transaction) -> Transaction {
    let mut transaction = Transaction {
        revision: m.revision,
        changed_unix_ms: m.changed_unix_ms,
        more: m.more,
        changes: Vec::new(),
        skipped: 0,
        invalid: 0,
        first_invalid: None,
    };
    for bytes in &m.changes {
        match decode_change(bytes) {
            Ok(Some(change)) => transaction.changes.push(change),
            Ok(None) => transaction.skipped += 1,
            Err(error) => {
                transaction.invalid += 1;
                transaction.first_invalid.get_or_insert(error);
            }
        }
    }
    transaction
}

fn hello_message(hello: &Hello) -> proto::Hello {
    proto::Hello {
        major: hello.version.major,
        minor: hello.version.minor,
        features: hello.features.iter().cloned().collect(),
        software: hello.software.clone(),
        cluster: hello.cluster.as_str().to_owned(),
        cluster_id: hello.cluster_id.get().into(),
        unix_time_ms: hello.unix_time_ms,
    }
}

fn parse_hello(m: proto::Hello) -> Result<Hello> {
    let features = parse::list("hello.features", m.features, limits::MAX_FEATURES, |f| {
        parse::text("hello.features", f, limits::MAX_FEATURES)
    })?;
    Ok(Hello {
        version: Version { major: m.major, minor: m.minor },
        features: features.into_iter().collect(),
        software: parse::text("hello.software", m.software, limits::MAX_NAME)?,
        cluster: m.cluster.parse::<ClusterName>().map_err(|_| parse::invalid("hello.cluster", &m.cluster))?,
        cluster_id: parse::cluster("hello.cluster_id", m.cluster_id)?,
        unix_time_ms: m.unix_time_ms,
    })
}

fn position_message(p: Position) -> proto::Position {
    proto::Position { epoch: p.epoch, revision: p.revision }
}

fn parse_position(m: &proto::Position) -> Position {
    Position { epoch: m.epoch, revision: m.revision }
}

fn required_position(m: Option<&proto::Position>) -> Result<Position> {
    m.map(parse_position).ok_or(FieldError::Missing("position"))
}

fn watermark_message(position: Position, scope: &Scope) -> proto::Watermark {
    let (complete, pending) = match scope {
        Scope::Nothing => (false, Vec::new()),
        Scope::AllBut(pending) => (true, pending.iter().map(|c| c.get().into()).collect()),
    };
    proto::Watermark { position: Some(position_message(position)), complete, pending }
}

fn clusters(field: &'static str, ids: Vec<u32>) -> Result<BTreeSet<ClusterId>> {
    let ids = parse::list(field, ids, limits::MAX_CLUSTERS, |id| parse::cluster(field, id))?;
    Ok(ids.into_iter().collect())
}

fn parse_watermark(m: proto::Watermark) -> Result<Frame> {
    let pending = clusters("watermark.pending", m.pending)?;
    Ok(Frame::Watermark {
        position: required_position(m.position.as_ref())?,
        scope: if m.complete { Scope::AllBut(pending) } else { Scope::Nothing },
    })
}

fn facts_message(facts: &NodeFacts) -> proto::NodeFacts {
    let endpoint = |e: &EndpointFact| proto::EndpointFact {
        namespace: e.namespace.clone(),
        name: e.name.clone(),
        uid: e.uid.clone(),
        addresses: parse::octets(&e.addresses),
    };
    proto::NodeFacts {
        tunnel: facts.tunnel.map(record::tunnel_message),
        endpoints: facts.endpoints.iter().map(endpoint).collect(),
        authorities: facts.authorities.iter().map(|pin| pin.0.to_vec()).collect(),
        issuer: facts.issuer.map(|pin| pin.0.to_vec()),
    }
}

fn parse_facts(m: proto::NodeFacts) -> Result<NodeFacts> {
    let endpoint = |e: proto::EndpointFact| {
        Ok(EndpointFact {
            namespace: parse::name("facts.namespace", e.namespace)?,
            name: parse::name("facts.name", e.name)?,
            uid: parse::text("facts.uid", e.uid, limits::MAX_UID)?,
            addresses: parse::addresses("facts.addresses", &e.addresses)?,
        })
    };
    Ok(NodeFacts {
        tunnel: m.tunnel.as_ref().map(record::parse_tunnel).transpose()?,
        endpoints: parse::list("facts.endpoints", m.endpoints, limits::MAX_FACT_ENDPOINTS, endpoint)?,
        authorities: parse::list("facts.authorities", m.authorities, limits::MAX_CHAIN, parse_pin)?,
        issuer: m.issuer.map(parse_pin).transpose()?,
    })
}

fn parse_pin(bytes: Vec<u8>) -> Result<Pin> {
    let len = bytes.len();
    let pin = bytes.try_into().map_err(|_| parse::invalid("facts.pin", &format_args!("of {len} bytes")))?;
    Ok(Pin(pin))
}
