//! Requests that the kernel carries out one after the other, sent at once.
//!
//! The kernel does the work inside of the call that sends it. So does a batch, on the thread and in the namespace of
//! its caller, without the detour over a task; it takes tenths of a millisecond unless a link is removed.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
};

use rtnetlink::{
    AddressMessageBuilder, LinkMessageBuilder, LinkUnspec, LinkVeth,
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
        NetlinkPayload,
    },
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::AddressHeaderFlags,
        link::{InfoData, InfoKind, InfoVeth},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

use super::{Link, NetlinkError, RouteSpec, VethSpec, route};

/// Requests to send together.
#[derive(Debug, Default)]
pub struct Batch {
    requests: Vec<Asked>,
}

/// A request, and what it is for.
#[derive(Debug)]
struct Asked {
    what: String,
    message: NetlinkMessage<RouteNetlinkMessage>,
}

impl Batch {
    /// Makes a veth pair in one step of the kernel: it is there as a whole or not at all. Both ends are down.
    pub fn create_veth(&mut self, spec: &VethSpec<'_>) -> &mut Self {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(spec.peer)
            .mtu(spec.mtu)
            .address(spec.peer_mac.to_vec())
            .setns_by_fd(spec.netns.as_raw_fd())
            .build();
        let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(spec.name)
            .mtu(spec.mtu)
            .address(spec.mac.to_vec())
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        self.add(
            format!("cannot create the veth pair {} - {}", spec.name, spec.peer),
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL | NLM_F_ECHO,
        )
    }

    /// Removes a link by its name.
    pub fn delete_link(&mut self, name: &str) -> &mut Self {
        let message = LinkMessageBuilder::<LinkUnspec>::new().name(name).build();
        self.add(format!("cannot delete the interface {name}"), RouteNetlinkMessage::DelLink(message), 0)
    }

    /// Sets a link up.
    pub fn set_up(&mut self, index: u32) -> &mut Self {
        let message = LinkMessageBuilder::<LinkUnspec>::new().index(index).up().build();
        let what = format!("cannot set up the interface with index {index}");
        self.add(what, RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Gives an address with the prefix of a single host to a link; one that it has already is no error.
    pub fn add_address(&mut self, index: u32, address: IpAddr) -> &mut Self {
        let message = match address {
            IpAddr::V4(a) => AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(a, 32).build(),
            IpAddr::V6(a) => {
                let mut message =
                    AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(a, 128).build();
                // No other host can have it, and nothing can use it while the kernel asks.
                message.header.flags.insert(AddressHeaderFlags::Nodad);
                message
            }
        };
        let what = format!("cannot give the address {address} to an interface");
        self.add(what, RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Ties an address to a link-layer address for good.
    pub fn set_neighbour(&mut self, index: u32, address: IpAddr, mac: [u8; 6]) -> &mut Self {
        let mut message = NeighbourMessage::default();
        let (family, destination) = match address {
            IpAddr::V4(a) => (AddressFamily::Inet, NeighbourAddress::Inet(a)),
            IpAddr::V6(a) => (AddressFamily::Inet6, NeighbourAddress::Inet6(a)),
        };
        message.header.family = family;
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::Destination(destination));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        let what = format!("cannot add a neighbour entry for {address}");
        self.add(what, RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Makes a route, or replaces the one to the same destination.
    pub fn set_route(&mut self, spec: &RouteSpec) -> Result<&mut Self, NetlinkError> {
        let what = format!("cannot set the route to {}", spec.destination);
        match route::message(spec) {
            Ok(message) => {
                Ok(self.add(what, RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE))
            }
            Err(e) => Err(NetlinkError::broken(what, e)),
        }
    }

    /// Sends all, from the namespace of the calling thread. The kernel goes on after a request that fails; the first
    /// failure is returned, and without one the links that were made.
    pub fn run(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let requests = std::mem::take(&mut self.requests);
        let socket = open().and_then(|socket| {
            socket.send(&serialize(&requests), 0)?;
            Ok(socket)
        });
        let socket = socket.map_err(|source| {
            let what = requests.first().map_or_else(String::new, |request| request.what.clone());
            NetlinkError::Refused { what, source }
        })?;
        collect(&socket, &requests)
    }

    fn add(&mut self, what: String, message: RouteNetlinkMessage, flags: u16) -> &mut Self {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        self.requests.push(Asked { what, message });
        self
    }
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // All answers are there when the requests are sent: there is nothing to wait for.
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// All messages behind each other; each is as long as a multiple of four.
fn serialize(requests: &[Asked]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for request in requests {
        let mut message = request.message.clone();
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..]);
    }
    bytes
}

/// Takes the answers: the kernel acknowledges each request, in their order.
fn collect(socket: &Socket, requests: &[Asked]) -> Result<Vec<Link>, NetlinkError> {
    let (mut made, mut failure) = (Vec::new(), None);
    let mut open = requests.iter();
    while let Some(request) = open.as_slice().first() {
        let failed = |source| NetlinkError::Refused { what: request.what.clone(), source };
        let (bytes, _) = socket.recv_from_full().map_err(failed)?;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes)
            .map_err(|e| NetlinkError::broken(request.what.clone(), e.to_string()))?;
        match answer.payload {
            NetlinkPayload::Error(error) => {
                open.next();
                if error.code.is_some() {
                    failure.get_or_insert_with(|| failed(error.to_io()));
                }
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                made.push(super::link::link(&link));
            }
            _ => {}
        }
    }
    failure.map_or(Ok(made), Err)
}
