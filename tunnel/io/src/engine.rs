//! The packet loop.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use tombolo_tunnel_core::offload::coalesce::Coalescer;
use tombolo_tunnel_core::offload::{VNET_HEADER_LEN, VnetHeader, segment};
use tombolo_tunnel_core::{Device, DeviceUpdate, RxBatch, TxBatch, uapi as protocol};
use zeroize::Zeroizing;

use crate::sys::{Tun, UdpSocket};
use crate::uapi::{Request, Requests};

/// How often sessions are looked after.
const TICK: Duration = Duration::from_millis(250);
/// Room for encrypted datagrams: what one super-packet of tiny segments can become, twice.
const TX_BYTES: usize = 512 << 10;
/// Encrypted bytes after which a batch is sent without waiting for more.
const TX_FULL: usize = 128 << 10;
const RX_BYTES: usize = 512 << 10;
/// Decrypted bytes after which a batch is handed to the kernel without waiting for more.
const RX_FULL: usize = 128 << 10;
/// A whole super-packet with its device header.
const READ_BYTES: usize = VNET_HEADER_LEN + 65_536;

/// Owns the device, its TUN end and its sockets.
pub struct Engine {
    device: Device,
    tun: Tun,
    sockets: Sockets,
    requests: Requests,
    tx: TxBatch,
    rx: RxBatch,
    coalescer: Coalescer,
    read: Box<[u8]>,
    scratch: Box<[u8]>,
    next_tick: Instant,
}

/// The UDP sockets of both families, on one port.
struct Sockets {
    v4: UdpSocket,
    /// Absent where the kernel has no IPv6.
    v6: Option<UdpSocket>,
}

impl Engine {
    /// Binds to a port of the kernel's choice until told otherwise.
    pub fn new(tun: Tun, requests: Requests) -> io::Result<Self> {
        let sockets = Sockets::bind(0, 0)?;
        let mut device = Device::new();
        device.set_listen_port(sockets.v4.port());
        Ok(Self {
            device,
            tun,
            sockets,
            requests,
            tx: TxBatch::new(TX_BYTES),
            rx: RxBatch::new(RX_BYTES),
            coalescer: Coalescer::default(),
            read: vec![0; READ_BYTES].into_boxed_slice(),
            scratch: vec![0; READ_BYTES].into_boxed_slice(),
            next_tick: Instant::now(),
        })
    }

    /// Moves packets until a termination signal arrives.
    pub fn run(mut self, signals: &SignalFd) -> io::Result<()> {
        loop {
            let [tun, v4, v6, request, signal] = self.wait(signals)?;
            if signal {
                return Ok(());
            }
            let now = Instant::now();
            if v4 || v6 {
                self.drain_network(now)?;
            }
            if tun {
                self.drain_tun(now)?;
            }
            if request {
                self.serve_requests(now);
            }
            if now >= self.next_tick {
                self.device.handle_timeout(now, &mut self.tx);
                self.next_tick = now + TICK;
            }
            self.send();
        }
    }

    /// Which of TUN, IPv4 socket, IPv6 socket, UAPI and signals are readable.
    fn wait(&self, signals: &SignalFd) -> io::Result<[bool; 5]> {
        let v6 = self.sockets.v6.as_ref().unwrap_or(&self.sockets.v4);
        let of = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = [
            of(self.tun.as_fd()),
            of(self.sockets.v4.as_fd()),
            of(v6.as_fd()),
            of(self.requests.wake.as_fd()),
            of(signals.as_fd()),
        ];
        let left = self.next_tick.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(fds.map(|fd| fd.any().unwrap_or(false)))
    }

    /// Encrypts what the kernel wants sent, until the batch is full or nothing is left.
    fn drain_tun(&mut self, now: Instant) -> io::Result<()> {
        let Self { device, tx, tun, read, scratch, .. } = self;
        while tx.room() > TX_BYTES - TX_FULL {
            let len = match tun.read(read) {
                Ok(len) => len,
                Err(error) if is_transient(&error) => break,
                Err(error) => return Err(error),
            };
            let Some((header, _)) = read.get(..len).and_then(VnetHeader::split) else { continue };
            let Some(packet) = read.get_mut(VNET_HEADER_LEN..len) else { continue };
            let done =
                segment::segment(header, packet, scratch, |wire| device.handle_ip_packet(wire, now, tx));
            if done.is_none() {
                tracing::debug!("dropped a packet whose offload header does not fit it");
            }
        }
        self.send();
        Ok(())
    }

    /// Decrypts what has arrived, until the batch is full or nothing is left.
    fn drain_network(&mut self, now: Instant) -> io::Result<()> {
        let Self { device, tx, rx, sockets, read, .. } = self;
        for socket in [Some(&sockets.v4), sockets.v6.as_ref()].into_iter().flatten() {
            while rx.room() > RX_BYTES - RX_FULL && tx.room() > TX_BYTES - TX_FULL {
                // Nothing left, or the error of an earlier send, which is reported here once; the socket goes
                // on, and poll tells when there is more.
                let Ok(received) = socket.receive(read) else { break };
                for datagram in read.get(..received.len).unwrap_or_default().chunks(received.segment) {
                    device.handle_datagram(received.from, datagram, now, tx, rx);
                }
            }
        }
        for group in self.coalescer.join(&self.rx) {
            let vnet = group.vnet.to_bytes();
            let parts = [vnet.as_slice(), group.head()].into_iter().chain(group.parts(&self.rx));
            match self.tun.write(parts) {
                Ok(_) => {}
                // The kernel refuses packets while the device is down (EIO) or when they are malformed.
                Err(error) => tracing::debug!("the kernel refused a packet: {error}"),
            }
        }
        self.rx.clear();
        self.send();
        Ok(())
    }

    fn send(&mut self) {
        for (to, size, bytes) in self.tx.runs() {
            self.sockets.send(to, bytes, size);
        }
        self.tx.clear();
    }

    fn serve_requests(&mut self, now: Instant) {
        // Only the queue counts; a spurious wake-up does no harm.
        let _ = self.requests.wake.read();
        while let Ok(request) = self.requests.queue.try_recv() {
            match request {
                Request::Get(reply) => {
                    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                    let text = protocol::format_get(&self.device, now, since_epoch);
                    // A client that has gone needs no reply, here and below.
                    let _ = reply.try_send(Zeroizing::new(text));
                }
                Request::Set(update, reply) => {
                    let _ = reply.try_send(self.configure(&update));
                }
            }
        }
        self.next_tick = now;
    }

    /// What may fail comes first, so that a refused request changes nothing. Returns an errno.
    fn configure(&mut self, update: &DeviceUpdate) -> i32 {
        let mark = update.fwmark.unwrap_or(self.device.fwmark());
        let port = update.listen_port.filter(|port| *port != self.device.listen_port());
        let changed = match port {
            Some(port) => Sockets::bind(port, mark).map(|sockets| self.sockets = sockets),
            None => self.sockets.set_mark(mark),
        };
        if let Err(error) = changed {
            tracing::warn!("refused a UAPI request: listen_port {port:?}, fwmark {mark}: {error}");
            return error.raw_os_error().unwrap_or(libc::EIO);
        }
        self.device.apply(update);
        self.device.set_listen_port(self.sockets.v4.port());
        0
    }
}

impl Sockets {
    fn bind(port: u16, mark: u32) -> io::Result<Self> {
        let v4 = UdpSocket::bind(false, port, mark)?;
        let v6 = match UdpSocket::bind(true, v4.port(), mark) {
            Ok(socket) => Some(socket),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => None,
            Err(error) => return Err(error),
        };
        Ok(Self { v4, v6 })
    }

    fn set_mark(&self, mark: u32) -> io::Result<()> {
        self.v4.set_mark(mark)?;
        self.v6.as_ref().map_or(Ok(()), |socket| socket.set_mark(mark))
    }

    fn send(&self, to: SocketAddr, bytes: &[u8], segment: usize) {
        let socket = if to.is_ipv4() { Some(&self.v4) } else { self.v6.as_ref() };
        let Some(Err(error)) = socket.map(|socket| socket.send(to, bytes, segment)) else { return };
        // Devices without checksum offload refuse segmentation (EIO); too large a segment is EINVAL.
        if bytes.len() > segment && matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL)) {
            for datagram in bytes.chunks(segment) {
                let _ = socket.map(|socket| socket.send(to, datagram, segment));
            }
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
