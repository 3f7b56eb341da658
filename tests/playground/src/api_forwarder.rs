//! The way to a cluster's API servers where there are several: a TCP forwarder that passes over the dead ones.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::{Error, Result};

/// How long a server may take to accept a connection, on a network without delay, before the next one is tried.
const PATIENCE: Duration = Duration::from_secs(1);

/// Accepts connections on `listen` and connects each with one of the servers: the first of them until it is dead,
/// then the next that is not. Goes on until it is killed.
pub fn run(listen: SocketAddr, servers: Vec<SocketAddr>) -> Result<()> {
    if servers.is_empty() {
        return Err(Error::Invalid("no servers given; name at least one".into()));
    }
    let io = |cause| Error::Io { doing: "forward from", path: listen.to_string().into(), cause };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io)?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await.map_err(io)?;
        let servers = Arc::new(Servers { addresses: servers, alive: AtomicUsize::new(0) });
        loop {
            match listener.accept().await {
                Ok((client, _)) => {
                    let servers = Arc::clone(&servers);
                    tokio::spawn(async move { servers.serve(client).await });
                }
                // Too many connections are open, for example; some of them end.
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    })
}

struct Servers {
    addresses: Vec<SocketAddr>,
    /// Which of them accepted the last connection.
    alive: AtomicUsize,
}

impl Servers {
    async fn serve(&self, mut client: TcpStream) {
        // A client that is closed without an answer tries again.
        let Some(mut server) = self.connect().await else { return };
        let _ = client.set_nodelay(true).and(server.set_nodelay(true));
        let _ = copy_bidirectional(&mut client, &mut server).await;
    }

    async fn connect(&self) -> Option<TcpStream> {
        let first = self.alive.load(Ordering::Relaxed);
        for turn in 0..self.addresses.len() {
            let index = (first + turn) % self.addresses.len();
            let address = self.addresses.get(index)?;
            if let Ok(Ok(stream)) = timeout(PATIENCE, TcpStream::connect(address)).await {
                self.alive.store(index, Ordering::Relaxed);
                return Some(stream);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::thread;

    use super::*;

    /// Says its name to so many clients, and does not exist any more when the last of them hears it.
    fn server(name: &'static str, clients: usize) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let mut listener = Some(listener);
            for client in 1..=clients {
                let (mut stream, _) = listener.as_ref().unwrap().accept().unwrap();
                listener = listener.filter(|_| client < clients);
                stream.read_exact(&mut [0]).unwrap();
                stream.write_all(name.as_bytes()).unwrap();
            }
        });
        address
    }

    fn ask(forwarder: SocketAddr) -> String {
        let mut answer = String::new();
        for _ in 0..100 {
            if let Ok(mut stream) = TcpStream::connect(forwarder) {
                stream.write_all(b"?").unwrap();
                stream.read_to_string(&mut answer).unwrap();
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        answer
    }

    #[test]
    fn the_next_one_takes_over_when_one_is_dead() {
        let servers = vec![server("first", 2), server("second", 4)];
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        thread::spawn(move || run(free, servers));
        let answers: Vec<String> = (0..4).map(|_| ask(free)).collect();
        assert_eq!(answers, ["first", "first", "second", "second"]);
    }

    #[test]
    fn without_servers_there_is_nothing_to_do() {
        assert!(
            run((Ipv4Addr::LOCALHOST, 0).into(), Vec::new()).unwrap_err().to_string().contains("no servers")
        );
    }
}
