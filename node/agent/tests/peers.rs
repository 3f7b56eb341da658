//! The UAPI client against a peer that speaks the protocol as its specification has it.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixListener,
    path::Path,
    sync::mpsc,
    thread,
};

use tombolo_node::{key, targets::Peers, uapi::Uapi};
use tombolo_node_core::{reconcile::Target, tunnel::TunnelPeer};

/// Answers one request after the other with the given answers, and tells the requests.
fn answer(path: &Path, answers: Vec<String>) -> mpsc::Receiver<String> {
    let listener = UnixListener::bind(path).unwrap();
    let (told, requests) = mpsc::channel();
    thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                let line = line.unwrap();
                if line.is_empty() {
                    break;
                }
                request.push_str(&line);
                request.push('\n');
            }
            told.send(request).unwrap();
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    requests
}

#[test]
fn requests_are_those_of_the_protocol() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("wg.sock");
    let ok = "errno=0\n\n".to_owned();
    let refused = "errno=22\n\n".to_owned();
    let public = "ab".repeat(32);
    // The peer has moved to another port, as peers behind NAT do.
    let listing = format!("public_key={public}\nendpoint=192.0.2.7:999\nallowed_ip=10.2.0.0/24\nerrno=0\n\n");
    let requests =
        answer(&socket, vec![ok.clone(), ok.clone(), listing, ok.clone(), ok, refused, String::new()]);
    let uapi = Uapi::new(&socket);
    let private = key::load_or_create(dir.path()).unwrap();

    uapi.set_interface(&private, 51871).unwrap();
    let request = requests.recv().unwrap();
    assert!(request.starts_with("set=1\nprivate_key=") && request.ends_with("\nlisten_port=51871\n"));

    let mut peers = Peers::new(uapi.clone());
    let peer = TunnelPeer {
        endpoint: ("192.0.2.7".parse().unwrap(), 51871),
        allowed_ips: ["10.2.0.0/24".parse().unwrap()].into(),
    };
    peers.update(&[0xab; 32], &peer).unwrap();
    let request = requests.recv().unwrap();
    let expected = format!(
        "set=1\npublic_key={public}\nendpoint=192.0.2.7:51871\nreplace_allowed_ips=true\nallowed_ip=10.2.0.0/24\n"
    );
    assert_eq!(request, expected);

    assert_eq!(peers.list().unwrap()[&[0xab; 32]], peer, "roaming is no drift");
    assert_eq!(requests.recv().unwrap(), "get=1\n");
    peers.update(&[0xab; 32], &peer).unwrap();
    assert!(!requests.recv().unwrap().contains("endpoint="), "an endpoint that was learnt is kept");
    peers.delete(&[0xab; 32]).unwrap();
    assert_eq!(requests.recv().unwrap(), format!("set=1\npublic_key={public}\nremove=true\n"));

    let error = uapi.remove_peer(&[1; 32]).unwrap_err();
    assert!(error.to_string().contains("22"), "{error}");
    let error = uapi.get().unwrap_err();
    assert!(error.to_string().contains("wg.sock"), "{error}");
    let error = Uapi::new(&dir.path().join("none")).get().unwrap_err();
    assert!(error.to_string().contains("none"), "{error}");
}
