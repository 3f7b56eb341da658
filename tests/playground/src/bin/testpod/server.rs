//! The servers: HTTP that says who it is, and echoes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::thread;

use crate::arguments::Arguments;
use crate::{say, signals};

/// Most bytes of a request head.
const MAX_HEAD: u64 = 16 * 1024;

/// Answers GET on any path; `/healthz` with `ok`. Connections are kept open.
pub fn http(arguments: &Arguments) -> Result<ExitCode, String> {
    let env = |name: &str| std::env::var(name).unwrap_or_default();
    let name = arguments.option("name").map_or_else(|| env("POD_NAME"), str::to_owned);
    let identity = format!("name={name} cluster={} node={}", env("CLUSTER_NAME"), env("NODE_NAME"));
    listen(arguments, 8080, move |stream| answer(stream, &identity))
}

/// Sends back what comes, byte for byte.
pub fn tcp_echo(arguments: &Arguments) -> Result<ExitCode, String> {
    listen(arguments, 7, |mut stream| {
        let mut buffer = [0; 16 * 1024];
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                length => stream.write_all(buffer.get(..length).unwrap_or_default())?,
            }
        }
    })
}

/// Sends back every datagram, after the name and a space if a name was given.
pub fn udp_echo(arguments: &Arguments) -> Result<ExitCode, String> {
    let prefix = arguments.option("name").map_or_else(Vec::new, |name| format!("{name} ").into_bytes());
    let sockets = bind(arguments, 7, UdpSocket::bind, UdpSocket::local_addr)?;
    for socket in sockets {
        let prefix = prefix.clone();
        thread::spawn(move || {
            let mut buffer = vec![0; 65536];
            loop {
                // An ICMP error about an earlier answer says nothing about the next datagram.
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                let payload = buffer.get(..length).unwrap_or_default();
                let _ = socket.send_to(&[&prefix, payload].concat(), from);
            }
        });
    }
    signals::pause(None);
    Ok(ExitCode::SUCCESS)
}

/// Serves every connection by a thread of its own, until SIGTERM.
pub fn listen<F>(arguments: &Arguments, default: u16, serve: F) -> Result<ExitCode, String>
where
    F: Fn(TcpStream) -> std::io::Result<()> + Clone + Send + 'static,
{
    for listener in bind(arguments, default, TcpListener::bind, TcpListener::local_addr)? {
        let serve = serve.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serve = serve.clone();
                thread::spawn(move || {
                    // A client that goes away ends its own connection only.
                    let _ = stream.set_nodelay(true).and_then(|()| serve(stream));
                });
            }
        });
    }
    signals::pause(None);
    Ok(ExitCode::SUCCESS)
}

/// One socket for all addresses of both families (of IPv4 only where there is no IPv6), or one for each of
/// `--address`: a datagram socket for all would answer from another address than it was asked on where a machine
/// has several. Prints `listening port=` for each; port 0 is any free one.
fn bind<S>(
    arguments: &Arguments,
    default: u16,
    open: impl Fn(SocketAddr) -> std::io::Result<S>,
    local: impl Fn(&S) -> std::io::Result<SocketAddr>,
) -> Result<Vec<S>, String> {
    let port = arguments.port(default)?;
    let fail = |error| format!("cannot listen on port {port}: {error}");
    let addresses = arguments.addresses()?;
    let sockets: std::io::Result<Vec<S>> = if addresses.is_empty() {
        open((Ipv6Addr::UNSPECIFIED, port).into())
            .or_else(|_| open((Ipv4Addr::UNSPECIFIED, port).into()))
            .map(|socket| vec![socket])
    } else {
        addresses.into_iter().map(|address| open((address, port).into())).collect()
    };
    let sockets = sockets.map_err(fail)?;
    signals::catch()?;
    for socket in &sockets {
        say(&format!("listening port={}", local(socket).map_err(fail)?.port()));
    }
    Ok(sockets)
}

fn answer(stream: TcpStream, identity: &str) -> std::io::Result<()> {
    let remote = stream.peer_addr()?.ip().to_canonical();
    let local = stream.local_addr()?.ip().to_canonical();
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = Vec::new();
            let length = reader.by_ref().take(MAX_HEAD).read_until(b'\n', &mut line)?;
            if length == 0 || head.len() as u64 > MAX_HEAD {
                return Ok(());
            }
            if line == b"\r\n" || line == b"\n" {
                break;
            }
            head.extend(line);
        }
        let body = if head.starts_with(b"GET /healthz ") {
            "ok\n".to_owned()
        } else {
            format!("{identity} remote={remote} local={local}\n")
        };
        let length = body.len();
        write!(
            writer,
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        if head.contains("\nconnection: close") || head.contains("http/1.0\r\n") {
            return Ok(());
        }
    }
}
