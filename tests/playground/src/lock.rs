//! One playground operation at a time on one machine.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::thread;
use std::time::{Duration, Instant};

use crate::progress::Progress;
use crate::{Error, Result};

/// The abstract socket name that is the lock: unlike a file it holds across checkouts, is released
/// however its owner dies, and leaves nothing behind.
const NAME: &str = "tombolo-playground";

/// Held while a playground is brought up, changed or ended.
#[derive(Debug)]
pub struct Lock {
    _socket: UnixListener,
}

impl Lock {
    /// Takes the lock, waiting up to `patience` for another process to release it.
    pub fn take(patience: Duration, progress: Progress) -> Result<Self> {
        let address = SocketAddr::from_abstract_name(NAME).map_err(Error::io("name", NAME))?;
        let started = Instant::now();
        let mut told = false;
        loop {
            match UnixListener::bind_addr(&address) {
                Ok(socket) => return Ok(Self { _socket: socket }),
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(Error::io("take the lock", NAME)(error)),
            }
            if started.elapsed() >= patience {
                return Err(Error::Occupied(
                    "another playground command is at work on this machine; wait for it or end it".into(),
                ));
            }
            if !told {
                progress.say("waiting for another playground command to finish");
                told = true;
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}
