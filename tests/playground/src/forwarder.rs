//! A link with loss and delay, in user space, as not every kernel has sch_netem.
//!
//! The router sends the packets of both directions into a TUN device; what is not lost is written back
//! after its delay, and the router sends it on. Order is kept.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::syscall::create_tun;
use crate::{Error, Result};

/// Most packets that wait; more are lost, as in a full queue of a router.
const QUEUE: usize = 20_000;
/// Larger than any packet of a link with an MTU of 1500 bytes.
const BUFFER: usize = 2048;

/// What the link does to packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Impairment {
    /// How many of a hundred packets are lost, 0 to 100.
    pub loss_percent: u8,
    /// How long each packet is held.
    pub delay: Duration,
}

#[derive(Debug, Default)]
struct Queue {
    packets: Mutex<VecDeque<(Instant, Vec<u8>)>>,
    filled: Condvar,
}

/// Creates the TUN device and forwards until it is killed.
pub fn run(device: &str, impairment: Impairment) -> Result<()> {
    let tun = create_tun(device)?;
    let output = tun.try_clone().map_err(Error::io("open", device))?;
    let queue = Queue::default();
    let failed = thread::scope(|scope| {
        let sender = scope.spawn(|| queue.send(output));
        let received = queue.receive(tun, impairment);
        received.and(sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    failed.map_err(Error::io("forward on", device))
}

impl Queue {
    fn receive(&self, mut tun: File, impairment: Impairment) -> std::io::Result<()> {
        let mut dice = Dice::new(u64::from(std::process::id()));
        let mut buffer = [0; BUFFER];
        loop {
            let length = tun.read(&mut buffer)?;
            if dice.percent() < impairment.loss_percent {
                continue;
            }
            let due = Instant::now() + impairment.delay;
            let mut packets = self.packets.lock().unwrap_or_else(PoisonError::into_inner);
            if packets.len() < QUEUE {
                packets.push_back((due, buffer.get(..length).unwrap_or_default().to_vec()));
                self.filled.notify_one();
            }
        }
    }

    fn send(&self, mut tun: File) -> std::io::Result<()> {
        loop {
            let mut packets = self.packets.lock().unwrap_or_else(PoisonError::into_inner);
            let (due, packet) = loop {
                if let Some(next) = packets.pop_front() {
                    break next;
                }
                packets = self.filled.wait(packets).unwrap_or_else(PoisonError::into_inner);
            };
            drop(packets);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            // The kernel refuses malformed packets and those without a route, as any router does.
            let _ = tun.write(&packet);
        }
    }
}

/// A small generator of equally distributed numbers (xorshift64*), good enough to lose packets by.
struct Dice {
    state: u64,
}

impl Dice {
    fn new(seed: u64) -> Self {
        Self { state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1 }
    }

    /// A number from 0 to 99.
    fn percent(&mut self) -> u8 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let number = self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        u8::try_from(number % 100).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dice_are_fair() {
        let mut dice = Dice::new(7);
        let hits = (0..100_000).filter(|_| dice.percent() < 30).count();
        assert!((29_000..31_000).contains(&hits), "{hits}");
        assert!((0..1000).all(|_| dice.percent() < 100));
    }
}
