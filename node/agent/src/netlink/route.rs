//! Routes of the main table.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures::TryStreamExt;
use rtnetlink::{
    RouteMessageBuilder,
    packet_route::route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
        RouteType,
    },
};
use tombolo_model::{Address, Prefix};

use super::{Netlink, NetlinkError, ROUTE_PROTOCOL};

/// A route to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteSpec {
    /// Where to.
    pub destination: Prefix,
    /// The next hop; none means that the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Index of the device; 0 lets the kernel find it by the gateway.
    pub device: u32,
    /// The source address of what the node itself sends.
    pub source: Option<IpAddr>,
    /// Path MTU in bytes; none means that of the device.
    pub mtu: Option<u32>,
}

/// A route that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// What it says.
    pub spec: RouteSpec,
    /// Its metric; the smallest wins.
    pub priority: u32,
    /// Who made it; [`ROUTE_PROTOCOL`] for the agent.
    pub protocol: u8,
}

impl Netlink {
    /// Makes a route, or replaces the one to the same destination.
    pub async fn set_route(&self, spec: &RouteSpec) -> Result<(), NetlinkError> {
        let what = || format!("cannot set the route to {}", spec.destination);
        let message = message(spec).map_err(|e| NetlinkError::broken(what(), e))?;
        self.handle.route().add(message).replace().execute().await.map_err(|e| NetlinkError::new(what(), &e))
    }

    /// Removes the agent's route to a destination; one that is gone already is no error.
    pub async fn delete_route(&self, destination: Prefix) -> Result<(), NetlinkError> {
        let what = || format!("cannot delete the route to {destination}");
        let spec = RouteSpec { destination, gateway: None, device: 0, source: None, mtu: None };
        let mut message = message(&spec).map_err(|e| NetlinkError::broken(what(), e))?;
        // To the kernel, "nowhere" is any scope.
        message.header.scope = RouteScope::NoWhere;
        match self.handle.route().del(message).execute().await {
            Ok(()) => Ok(()),
            Err(e) => {
                let error = NetlinkError::new(what(), &e);
                if error.is_gone() { Ok(()) } else { Err(error) }
            }
        }
    }

    /// All unicast routes of the main table, of both families.
    pub async fn routes(&self) -> Result<Vec<Route>, NetlinkError> {
        let _listing = self.listing.lock().await;
        let mut routes = Vec::new();
        for query in
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
        {
            let all: Result<Vec<_>, _> = self.handle.route().get(query).execute().try_collect().await;
            let all = all.map_err(|e| NetlinkError::new("cannot list the routes", &e))?;
            routes.extend(all.iter().filter_map(route));
        }
        Ok(routes)
    }

    /// The devices that routes to other hosts lead to, in all tables, without those that only neighbours are reached by.
    pub async fn routed_devices(&self) -> Result<BTreeSet<u32>, NetlinkError> {
        let _listing = self.listing.lock().await;
        let mut devices = BTreeSet::new();
        for query in
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
        {
            let all: Result<Vec<_>, _> = self.handle.route().get(query).execute().try_collect().await;
            let all = all.map_err(|e| NetlinkError::new("cannot list the routes", &e))?;
            all.iter()
                .filter(|message| leads_out(message))
                .for_each(|message| add_devices(message, &mut devices));
        }
        Ok(devices)
    }
}

fn leads_out(message: &RouteMessage) -> bool {
    let link_local = message.attributes.iter().any(|attribute| {
        matches!(attribute, RouteAttribute::Destination(RouteAddress::Inet6(v6)) if v6.is_unicast_link_local())
    });
    message.header.kind == RouteType::Unicast && !link_local
}

fn add_devices(message: &RouteMessage, devices: &mut BTreeSet<u32>) {
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => _ = devices.insert(*index),
            RouteAttribute::MultiPath(hops) => devices.extend(hops.iter().map(|hop| hop.interface_index)),
            _ => {}
        }
    }
}

/// The request to make or remove a route.
pub(super) fn message(spec: &RouteSpec) -> Result<RouteMessage, String> {
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(spec.destination.address().to_ip(), spec.destination.family_bits())
        .map_err(|e| e.to_string())?
        .protocol(RouteProtocol::Other(ROUTE_PROTOCOL));
    if let Some(gateway) = spec.gateway {
        builder = builder.gateway(gateway).map_err(|e| e.to_string())?;
    } else if spec.device != 0 {
        builder = builder.scope(RouteScope::Link);
    }
    if spec.device != 0 {
        builder = builder.output_interface(spec.device);
    }
    if let Some(source) = spec.source {
        builder = builder.pref_source(source).map_err(|e| e.to_string())?;
    }
    let mut message = builder.build();
    if let Some(mtu) = spec.mtu {
        message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
    }
    Ok(message)
}

fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    if header.kind != RouteType::Unicast || header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let v4 = header.address_family == rtnetlink::packet_route::AddressFamily::Inet;
    let mut destination: IpAddr =
        if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let bits = header.destination_prefix_length.checked_add(if v4 { 96 } else { 0 })?;
    let mut spec = RouteSpec {
        destination: Prefix::new(destination.into(), bits),
        gateway: None,
        device: 0,
        source: None,
        mtu: None,
    };
    let mut priority = 0;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(a) => destination = ip(a)?,
            RouteAttribute::Gateway(a) => spec.gateway = ip(a),
            RouteAttribute::PrefSource(a) => spec.source = ip(a),
            RouteAttribute::Oif(index) => spec.device = *index,
            RouteAttribute::Priority(p) => priority = *p,
            RouteAttribute::Metrics(metrics) => {
                spec.mtu = metrics
                    .iter()
                    .find_map(|m| if let RouteMetric::Mtu(mtu) = m { Some(*mtu) } else { None });
            }
            _ => {}
        }
    }
    spec.destination = Prefix::new(Address::from(destination), bits);
    Some(Route { spec, priority, protocol: header.protocol.into() })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}
