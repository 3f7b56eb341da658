//! Requests to rtnetlink(7) and their answers, as far as devices need them. The numbers are those of
//! include/uapi/linux/netlink.h.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};

/// What exists already is replaced.
pub const REPLACE: u16 = 0x100;
/// What exists already is left as it is, which is an error.
pub const ONLY_NEW: u16 = 0x200;
/// What does not exist is made.
pub const CREATE: u16 = 0x400;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLMSG_ERROR: u16 = 2;
const HEADER: usize = 16;

/// A socket that has been asked, with what the kernel has answered.
pub struct Asked(OwnedFd);

/// Sends requests. The kernel has carried out one after the other when this returns, and has answered each.
pub fn send(requests: &[u8]) -> io::Result<Asked> {
    let protocol = SockProtocol::NetlinkRoute;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    nix::sys::socket::send(socket.as_raw_fd(), requests, MsgFlags::empty())?;
    Ok(Asked(socket))
}

impl Asked {
    /// The next answer to a request that something be done.
    pub fn done(&self) -> io::Result<()> {
        let mut bytes = [0; 4096];
        match self.answer(&mut bytes)? {
            (NLMSG_ERROR, _) => Ok(()),
            _ => Err(not_understood()),
        }
    }

    /// The next answer to a question: what follows the header of the message of this kind.
    pub fn message<const N: usize>(&self, kind: u16) -> io::Result<[u8; N]> {
        let mut bytes = [0; 4096];
        match self.answer(&mut bytes)? {
            (found, content) if found == kind => content.first_chunk().copied().ok_or_else(not_understood),
            _ => Err(not_understood()),
        }
    }

    /// Kind and content of the next answer, unless it is an error.
    fn answer<'b>(&self, bytes: &'b mut [u8]) -> io::Result<(u16, &'b [u8])> {
        // What does not fit is cut off.
        let length = recv(self.0.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT)?;
        let answer = bytes.get(..length).unwrap_or_default();
        let kind = answer.get(4..6).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
        let (Some(kind), Some(content)) = (kind, answer.get(HEADER..)) else { return Err(not_understood()) };
        let number = content.first_chunk().copied().map(i32::from_ne_bytes);
        match number {
            Some(number) if kind == NLMSG_ERROR && number != 0 => {
                Err(io::Error::from_raw_os_error(number.wrapping_neg()))
            }
            Some(_) => Ok((kind, content)),
            None => Err(not_understood()),
        }
    }
}

fn not_understood() -> io::Error {
    io::Error::other("the kernel's answer is not understood")
}

/// `struct nlattr` and its content, padded.
pub fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
    let length = 4 + content.len() as u16;
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// `struct nlmsghdr` and its content, whose parts are padded.
pub fn message(kind: u16, flags: u16, target: &[u8], attributes: &[u8]) -> Vec<u8> {
    let length = (HEADER + target.len() + attributes.len()) as u32;
    let flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend([kind.to_ne_bytes(), flags.to_ne_bytes()].concat());
    // Neither sequence number nor sender: a socket is asked once.
    bytes.extend([0; 8]);
    bytes.extend([target, attributes].concat());
    bytes
}
