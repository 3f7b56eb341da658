//! Attaching programs, to pods as filters and elsewhere by pinned links, and replacing them in place.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use crate::{
    Datapath, LoadError, device,
    filter::{self, Direction, Filter},
    object::SOCK_LB_PROGRAMS,
    pins,
    sys::{self, TCX_EGRESS, TCX_INGRESS},
};

/// A program cannot be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The kernel refuses, the device for instance is gone.
    #[error("program {program} cannot be attached to {target}: {source}")]
    Attach {
        /// The program.
        program: &'static str,
        /// Device or cgroup.
        target: String,
        /// Why.
        source: io::Error,
    },
    /// The kernel refuses filters, the device for instance is gone.
    #[error("programs cannot be attached to the pod's device {ifindex}: {source}")]
    Filter {
        /// The device's index.
        ifindex: u32,
        /// Why.
        source: io::Error,
    },
    /// The device cannot be looked at, it is gone for instance.
    #[error("device {ifindex} cannot be looked at: {source}")]
    Device {
        /// The device's index.
        ifindex: u32,
        /// Why.
        source: io::Error,
    },
    /// The cgroup cannot be opened.
    #[error("cgroup {path}: {source}")]
    Cgroup {
        /// Its directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The pinned link cannot be changed.
    #[error("pinned link {path}: {source}")]
    Pin {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program is not loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// A place of a device that a program is attached to by a link.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// The first part of the link's name.
    link: &'static str,
    attach_type: u32,
    /// The program for packets that begin with an Ethernet header.
    ethernet: &'static str,
    /// The one for those that begin with the IP header.
    raw: &'static str,
}

impl Place {
    const fn program(&self, raw: bool) -> &'static str {
        if raw { self.raw } else { self.ethernet }
    }
}

const NET: [Place; 2] = [
    Place { link: "net_ingress", attach_type: TCX_INGRESS, ethernet: "net_ingress", raw: "net_ingress_raw" },
    Place { link: "net_egress", attach_type: TCX_EGRESS, ethernet: "net_egress", raw: "net_egress_raw" },
];
const MESH: [Place; 1] =
    [Place { link: "mesh_ingress", attach_type: TCX_INGRESS, ethernet: "mesh_ingress", raw: "mesh_ingress" }];

impl Datapath {
    /// Attaches to a pod for as long as its device exists, given the index of the host's end of its veth in the
    /// caller's network namespace. If something of ours is attached there already, it is replaced in one step.
    ///
    /// # Errors
    /// The device does not exist or the kernel refuses.
    pub fn attach_pod(&self, ifindex: u32) -> Result<(), AttachError> {
        filter::attach(ifindex, &self.pod_filters()?)
            .map_err(|source| AttachError::Filter { ifindex, source })
    }

    /// Puts back what somebody has removed from a pod that [`Self::attach_pod`] was called for; tells how many programs that
    /// were. What is there stays.
    ///
    /// # Errors
    /// The device does not exist or the kernel refuses.
    pub fn restore_pod(&self, ifindex: u32) -> Result<usize, AttachError> {
        filter::restore(ifindex, &self.pod_filters()?)
            .map_err(|source| AttachError::Filter { ifindex, source })
    }

    fn pod_filters(&self) -> Result<[Filter<'_>; 2], LoadError> {
        let filter =
            |name, direction| Ok::<_, LoadError>(Filter { direction, name, program: self.fd(name)? });
        // What the node sends into the device is what enters the pod.
        Ok([filter("pod_ingress", Direction::Egress)?, filter("pod_egress", Direction::Ingress)?])
    }

    /// Attaches to a device of the caller's network namespace that leads to other hosts, with an Ethernet header or without,
    /// until [`Self::detach`]. What of ours is attached there already is replaced in one step; tells how many programs were
    /// not attached before.
    ///
    /// # Errors
    /// The device does not exist or the kernel refuses.
    pub fn attach_device(&self, ifindex: u32) -> Result<usize, AttachError> {
        self.attach_to_device(&NET, ifindex)
    }

    /// Attaches to the tunnel device, which has no Ethernet header; otherwise as [`Self::attach_device`].
    ///
    /// # Errors
    /// The device does not exist or the kernel refuses.
    pub fn attach_mesh(&self, ifindex: u32) -> Result<usize, AttachError> {
        self.attach_to_device(&MESH, ifindex)
    }

    /// Attaches the socket programs to a cgroup (a directory of the unified hierarchy), replacing those of ours in
    /// one step each.
    ///
    /// # Errors
    /// The cgroup does not exist or the kernel refuses.
    pub fn attach_cgroup(&self, cgroup: &Path) -> Result<(), AttachError> {
        let open = fs::File::open(cgroup);
        let directory = open.map_err(|source| AttachError::Cgroup { path: cgroup.to_owned(), source })?;
        let target = sys::raw(directory.as_fd());
        for (program, attach_type) in SOCK_LB_PROGRAMS {
            let pin = cgroup_pin(&self.pin_dir, program);
            attach(self.fd(program)?, &pin, target, attach_type).map_err(|source| AttachError::Attach {
                program,
                target: format!("cgroup {}", cgroup.display()),
                source,
            })?;
        }
        Ok(())
    }

    /// Detaches everything of ours from a device that is not a pod's, whether or not it still exists.
    ///
    /// # Errors
    /// A pinned link cannot be removed.
    pub fn detach(&self, ifindex: u32) -> Result<(), AttachError> {
        for place in NET.iter().chain(&MESH) {
            remove(&device_pin(&self.pin_dir, place.link, ifindex))?;
        }
        Ok(())
    }

    /// Indices of the devices that something of ours is (or was, if they are gone) attached to, in ascending order;
    /// without those of pods.
    ///
    /// # Errors
    /// The directory of links cannot be read.
    pub fn attached_devices(&self) -> Result<Vec<u32>, AttachError> {
        let directory = pins::links(&self.pin_dir);
        let failed = |source| AttachError::Pin { path: directory.clone(), source };
        let mut devices = Vec::new();
        for entry in fs::read_dir(&directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            devices.extend(
                name.to_str().and_then(|n| n.rsplit_once('-')).and_then(|(_, i)| i.parse::<u32>().ok()),
            );
        }
        devices.sort_unstable();
        devices.dedup();
        Ok(devices)
    }

    /// Replaces the programs of all devices that are not pods' by those of this version, whatever devices these are.
    pub(crate) fn replace_everywhere(&self) -> Result<(), AttachError> {
        for ifindex in self.attached_devices()? {
            // Of a device that is gone all links are idle.
            let raw = match device::is_raw(ifindex) {
                Err(e) if e.raw_os_error() == Some(libc::ENODEV) => false,
                raw => raw.map_err(|source| AttachError::Device { ifindex, source })?,
            };
            for place in NET.iter().chain(&MESH) {
                let path = device_pin(&self.pin_dir, place.link, ifindex);
                let replaced = match sys::open_pin(&path) {
                    Ok(link) => sys::link_update(link.as_fd(), self.fd(place.program(raw))?),
                    Err(e) => Err(e),
                };
                match replaced {
                    // Nothing there, or its device is gone.
                    Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOLINK)) => {}
                    Err(source) => return Err(AttachError::Pin { path, source }),
                    Ok(()) => {}
                }
            }
        }
        Ok(())
    }

    fn attach_to_device(&self, places: &[Place], ifindex: u32) -> Result<usize, AttachError> {
        let raw = device::is_raw(ifindex).map_err(|source| AttachError::Device { ifindex, source })?;
        let mut new = 0;
        for place in places {
            let program = place.program(raw);
            let pin = device_pin(&self.pin_dir, place.link, ifindex);
            let attached = attach(self.fd(program)?, &pin, ifindex, place.attach_type);
            new += usize::from(attached.map_err(|source| AttachError::Attach {
                program,
                target: format!("device {ifindex}"),
                source,
            })?);
        }
        Ok(new)
    }
}

fn device_pin(pin_dir: &Path, link: &str, ifindex: u32) -> PathBuf {
    pins::links(pin_dir).join(format!("{link}-{ifindex}"))
}

/// The link of one of the cgroup programs.
pub(crate) fn cgroup_pin(pin_dir: &Path, program: &str) -> PathBuf {
    pins::links(pin_dir).join(format!("sock_lb-{program}"))
}

/// Replaces the program of the pinned link, or makes a new link where there is none, or none any more, and tells which.
fn attach(program: BorrowedFd<'_>, pin: &Path, target: u32, attach_type: u32) -> io::Result<bool> {
    match sys::open_pin(pin) {
        Ok(link) => match sys::link_update(link.as_fd(), program) {
            Ok(()) => return Ok(false),
            // Somebody has detached it, or what it was attached to is gone; the index may belong to another device now.
            Err(e) if e.raw_os_error() == Some(libc::ENOLINK) => fs::remove_file(pin)?,
            Err(e) => return Err(e),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let link = sys::link_create(program, target, attach_type)?;
    sys::pin(link.as_fd(), pin)?;
    Ok(true)
}

fn remove(pin: &Path) -> Result<(), AttachError> {
    pins::unless_gone(fs::remove_file(pin))
        .map_err(|source| AttachError::Pin { path: pin.to_owned(), source })
}
