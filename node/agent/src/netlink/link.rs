//! Links and their addresses.

use std::{net::IpAddr, os::fd::BorrowedFd};

use futures::TryStreamExt;
use rtnetlink::{
    LinkMessageBuilder, LinkUnspec, LinkVeth,
    packet_route::{
        address::{AddressAttribute, AddressMessage},
        link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    },
};
use std::os::fd::AsRawFd;

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
}

impl Netlink {
    /// Makes a veth pair in one step of the kernel: it is there as a whole or not at all. The end here is up; the
    /// kernel refuses that for the other one until both exist.
    pub async fn create_veth(&self, spec: &VethSpec<'_>) -> Result<(), NetlinkError> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(spec.peer)
            .mtu(spec.mtu)
            .setns_by_fd(spec.netns.as_raw_fd())
            .build();
        let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(spec.name)
            .mtu(spec.mtu)
            .up()
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        self.handle.link().add(message).execute().await.map_err(|e| {
            NetlinkError::new(format!("cannot create the veth pair {} - {}", spec.name, spec.peer), &e)
        })
    }

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

    /// Gives an address with the prefix of a single host to a link; one that it has already is no error.
    pub async fn add_address(&self, index: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let request = self.handle.address().add(index, address, bits).replace();
        request
            .execute()
            .await
            .map_err(|e| NetlinkError::new(format!("cannot give the address {address} to an interface"), &e))
    }

    /// Every address with the index of its link.
    pub async fn addresses(&self) -> Result<Vec<(u32, IpAddr)>, NetlinkError> {
        let _listing = self.listing.lock().await;
        let all: Result<Vec<_>, _> = self.handle.address().get().execute().try_collect().await;
        let all = all.map_err(|e| NetlinkError::new("cannot list the addresses", &e))?;
        Ok(all.iter().filter_map(address).collect())
    }

    /// Ties an address to a link-layer address for good.
    pub async fn set_neighbour(&self, index: u32, address: IpAddr, mac: [u8; 6]) -> Result<(), NetlinkError> {
        let request = self.handle.neighbours().add(index, address).link_layer_address(&mac).replace();
        request
            .execute()
            .await
            .map_err(|e| NetlinkError::new(format!("cannot add a neighbour entry for {address}"), &e))
    }
}

fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: [0; 6],
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        veth: false,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
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
