//! The servers: HTTP that says who it is, and echoes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::thread;

use crate::{Arguments, say, signals};

/// Most bytes of a request head.
const MAX_HEAD: u64 = 16 * 1024;

/// Answers GET on any path; `/healthz` with `ok`. Connections are kept open.
pub fn http(arguments: &Arguments) -> Result<ExitCode, String> {
    let env = |name: &str| std::env::var(name).unwrap_or_default();
    let name = arguments.options.get("name").cloned().unwrap_or_else(|| env("POD_NAME"));
    let identity = format!("name={name} cluster={} node={}", env("CLUSTER_NAME"), env("NODE_NAME"));
    listen(arguments.port(8080)?, move |stream| answer(stream, &identity))
}

/// Sends back what comes, byte for byte.
pub fn tcp_echo(arguments: &Arguments) -> Result<ExitCode, String> {
    listen(arguments.port(7)?, |mut stream| {
        let mut buffer = [0; 16 * 1024];
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                length => stream.write_all(buffer.get(..length).unwrap_or_default())?,
            }
        }
    })
}

/// Sends back every datagram.
pub fn udp_echo(arguments: &Arguments) -> Result<ExitCode, String> {
    let port = arguments.port(7)?;
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| UdpSocket::bind(("0.0.0.0", port)))
        .map_err(|error| format!("cannot listen on port {port}: {error}"))?;
    signals::catch()?;
    say(&format!("listening port={port}"));
    thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        loop {
            // An ICMP error about an earlier answer says nothing about the next datagram.
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
            let _ = socket.send_to(buffer.get(..length).unwrap_or_default(), from);
        }
    });
    signals::pause(None);
    Ok(ExitCode::SUCCESS)
}

fn listen<F>(port: u16, serve: F) -> Result<ExitCode, String>
where
    F: Fn(TcpStream) -> std::io::Result<()> + Clone + Send + 'static,
{
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind(("0.0.0.0", port)))
        .map_err(|error| format!("cannot listen on port {port}: {error}"))?;
    signals::catch()?;
    say(&format!("listening port={port}"));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            thread::spawn(move || {
                // A client that goes away ends its own connection only.
                let _ = stream.set_nodelay(true).and_then(|()| serve(stream));
            });
        }
    });
    signals::pause(None);
    Ok(ExitCode::SUCCESS)
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
