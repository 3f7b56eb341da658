//! The CNI error code of each error.

use tombolo_cni::{Failure, failure::code};
use tombolo_node_core::ipam::AllocateError;

use crate::{netlink::NetlinkError, netns::NetnsError, pod_link::PodLinkError, store::StoreError};

/// The failure that the runtime is told.
pub trait IntoFailure {
    /// With the code that fits.
    fn failure(&self) -> Failure;
}

impl IntoFailure for PodLinkError {
    fn failure(&self) -> Failure {
        match self {
            Self::Exists(_) => Failure::new(code::INTERFACE_EXISTS, self.to_string()),
            Self::Netns(e) => e.failure(),
            Self::Netlink(e) => e.failure(),
            Self::Sysctl(_) => Failure::new(code::KERNEL, self.to_string()),
            Self::Changed(_) => Failure::new(code::CHECK_FAILED, self.to_string()),
        }
    }
}

impl IntoFailure for NetnsError {
    fn failure(&self) -> Failure {
        let code = match self {
            Self::Gone(_) | Self::NotANamespace(_) => code::INVALID_NETNS,
            Self::Io { .. } => code::IO,
        };
        Failure::new(code, self.to_string())
    }
}

impl IntoFailure for NetlinkError {
    fn failure(&self) -> Failure {
        Failure::new(code::KERNEL, self.to_string())
    }
}

impl IntoFailure for StoreError {
    fn failure(&self) -> Failure {
        Failure::new(code::IO, self.to_string())
    }
}

impl IntoFailure for AllocateError {
    fn failure(&self) -> Failure {
        let code = match self {
            Self::NoPrefix => code::TRY_AGAIN_LATER,
            Self::Exhausted { .. } | Self::Outside(_) | Self::InUse(..) | Self::Resting(..) => {
                code::NO_ADDRESS
            }
        };
        Failure::new(code, self.to_string())
    }
}
