//! The tunnel itself: its key and port over UAPI, MTU and state of its device over netlink. The device is made by
//! the tunnel process, never here.

use crate::{
    netlink::{Netlink, NetlinkError},
    sysctl::{self, SysctlError},
    uapi::{PrivateKey, Uapi, UapiError},
};

/// What the tunnel of this node should be.
#[derive(Clone, Debug)]
pub struct Tunnel {
    /// How it is configured.
    pub uapi: Uapi,
    /// Its device.
    pub device: String,
    /// Its key.
    pub key: PrivateKey,
    /// Its UDP port.
    pub port: u16,
    /// MTU of its device, bytes.
    pub mtu: u32,
}

/// Why the tunnel is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The tunnel process.
    #[error(transparent)]
    Uapi(#[from] UapiError),
    /// The kernel.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A setting.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// No device.
    #[error("device {0} does not exist: is tombolo-tunnel running on this node?")]
    NoDevice(String),
}

impl Tunnel {
    /// Brings key, port and device to what they should be; whether the process had lost its configuration, so that
    /// peers and routes must be looked at again.
    pub async fn ensure(&self, netlink: &Netlink) -> Result<bool, TunnelError> {
        let link =
            netlink.link(&self.device).await?.ok_or_else(|| TunnelError::NoDevice(self.device.clone()))?;
        // One request over a local socket to a process that does nothing else: as good as immediate.
        let state = tokio::task::block_in_place(|| self.uapi.get())?;
        let lost = state.private_key.as_ref() != Some(&self.key) || state.listen_port != self.port;
        if lost {
            tokio::task::block_in_place(|| self.uapi.set_interface(&self.key, self.port))?;
        }
        if !link.up || link.mtu != self.mtu {
            netlink.set_up(link.index, self.mtu).await?;
        }
        sysctl::prepare_device(&self.device)?;
        Ok(lost || !link.up)
    }
}
