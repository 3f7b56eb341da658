//! Links and their addresses.

use std::{collections::BTreeMap, net::IpAddr, os::fd::BorrowedFd};

use futures::TryStreamExt;
use rtnetlink::{
    LinkMessageBuilder, LinkUnspec,
    packet_route::{
        address::{AddressAttribute, AddressMessage},
        link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    },
};

use super::{Netlink, NetlinkError};

/// A network device, as far as the agent cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address; all zero when it has none.
    pub mac: [u8; 6],
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Whether it is one end of a veth pair.
    pub veth: bool,
    /// The index of the device behind it, for an end of a veth pair that of the other end in its own namespace; 0
    /// when there is none.
    pub peer: u32,
}

/// A veth pair with one end here and the other one in another namespace.
#[derive(Clone, Copy, Debug)]
pub struct VethSpec<'a> {
    /// Name of the end here.
    pub name: &'a str,
    /// Name of the end there.
    pub peer: &'a str,
    /// The other namespace.
    pub netns: BorrowedFd<'a>,
    /// MTU of both ends, bytes.
    pub mtu: u32,
    /// Ethernet address of the end here.
    pub mac: [u8; 6],
    /// Ethernet address of the end there.
    pub peer_mac: [u8; 6],
}

impl Netlink {
    /// The link with this name, if there is one.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut found = self.handle.link().get().match_name(name).execute();
        match found.try_next().await {
            Ok(message) => Ok(message.as_ref().map(link)),
            Err(e) => {
                let error = NetlinkError::new(format!("cannot look up the interface {name}"), &e);
                if error.is_gone() { Ok(None) } else { Err(error) }
            }
        }
    }

    /// All links.
    pub async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let _listing = self.listing.lock().await;
        let all: Result<Vec<_>, _> = self.handle.link().get().execute().try_collect().await;
        let all = all.map_err(|e| NetlinkError::new("cannot list the interfaces", &e))?;
        Ok(all.iter().map(link).collect())
    }

    /// How many packets each link has carried, by its index.
    pub async fn packets(&self) -> Result<BTreeMap<u32, u64>, NetlinkError> {
        let _listing = self.listing.lock().await;
        let all: Result<Vec<_>, _> = self.handle.link().get().execute().try_collect().await;
        let all = all.map_err(|e| NetlinkError::new("cannot list the interfaces", &e))?;
        let packets = all.iter().map(|message| {
            let counted = message.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::Stats64(stats) => Some(stats.rx_packets.saturating_add(stats.tx_packets)),
                _ => None,
            });
            (message.header.index, counted.unwrap_or_default())
        });
        Ok(packets.collect())
    }

    /// Removes a link; one that is gone already is no error.
    pub async fn delete_link(&self, index: u32) -> Result<(), NetlinkError> {
        match self.handle.link().del(index).execute().await {
            Ok(()) => Ok(()),
            Err(e) => {
                let error = NetlinkError::new(format!("cannot delete the interface with index {index}"), &e);
                if error.is_gone() { Ok(()) } else { Err(error) }
            }
        }
    }

    /// Sets a link up, with this MTU (bytes).
    pub async fn set_up(&self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        let message = LinkMessageBuilder::<LinkUnspec>::new().index(index).mtu(mtu).up().build();
        self.handle.link().set(message).execute().await.map_err(|e| {
            NetlinkError::new(format!("cannot set up the interface with index {index} (MTU {mtu})"), &e)
        })
    }

    /// Every address with the index of its link.
    pub async fn addresses(&self) -> Result<Vec<(u32, IpAddr)>, NetlinkError> {
        let _listing = self.listing.lock().await;
        let all: Result<Vec<_>, _> = self.handle.address().get().execute().try_collect().await;
        let all = all.map_err(|e| NetlinkError::new("cannot list the addresses", &e))?;
        Ok(all.iter().filter_map(address).collect())
    }
}

/// What the agent cares about of a link.
pub(super) fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: [0; 6],
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        veth: false,
        peer: 0,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Link(peer) => link.peer = *peer,
            LinkAttribute::LinkInfo(infos) => link.veth = infos.contains(&LinkInfo::Kind(InfoKind::Veth)),
            _ => {}
        }
    }
    link
}

fn address(message: &AddressMessage) -> Option<(u32, IpAddr)> {
    let find = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) if local => Some(*address),
            AddressAttribute::Address(address) if !local => Some(*address),
            _ => None,
        })
    };
    // Of a point-to-point link `Address` is the other side.
    Some((message.header.index, find(true).or_else(|| find(false))?))
}
