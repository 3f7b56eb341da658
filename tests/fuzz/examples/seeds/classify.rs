//! Stories of packets for the target `classify`, each in both families: what it decodes is in `src/classify.rs`.

/// Numbers of addresses, ports and protocols in the target's tables.
const A: u8 = 0;
const B: u8 = 1;
const C: u8 = 2;
const NODE: u8 = 3;
const OTHER_NODE: u8 = 4;
const SIBLING: u8 = 5;
const REMOTE: u8 = 6;
const REMOTE_UNKNOWN: u8 = 7;
const REMOTE_NODE: u8 = 8;
const OUTSIDE: u8 = 9;
const VIP: [u8; 2] = [12, 13];
const LINK_LOCAL: u8 = 14;
const P53: u8 = 1;
const P80: u8 = 2;
const P443: u8 = 3;
const P1000: u8 = 4;
const P8080: u8 = 5;
const P61000: u8 = 6;
const TCP: u8 = 0;
const UDP: u8 = 1;
const ICMP: u8 = 2;
const SCTP: u8 = 3;
const GRE: u8 = 4;
/// Hooks.
const POD_EGRESS: u8 = 0;
const POD_INGRESS: u8 = 1;
const NET_INGRESS: u8 = 2;
const NET_EGRESS: u8 = 3;
const MESH_INGRESS: u8 = 4;
/// The packet that came out last goes on; is answered with SYN-ACK; is answered by an ICMP error about it; comes again.
const ONWARD: [u8; 1] = [4];
const ANSWER: [u8; 6] = [6, 0, 1, 1, 7, 7];
const ERROR: [u8; 6] = [6, 1, 4, 1, UDP, 7];
const AGAIN: [u8; 1] = [9];
/// 61 seconds go by.
const LATER: [u8; 4] = [15, 9, 5, 0];

fn send(hook: u8, (from, from_port): (u8, u8), (to, to_port): (u8, u8), number: u8) -> Vec<u8> {
    shaped(hook, (from, from_port), (to, to_port), number, &[0])
}

/// A packet with the choices of `Shape` and what they ask for.
fn shaped(hook: u8, from: (u8, u8), to: (u8, u8), number: u8, shape: &[u8]) -> Vec<u8> {
    let ends = [0, hook, from.0, to.0, from.1 | to.1 << 3, number];
    [ends.as_slice(), shape, &[1, 2]].concat()
}

fn change(what: u8, arguments: &[u8]) -> Vec<u8> {
    [[15, what].as_slice(), arguments].concat()
}

/// The same in IPv6: the highest bit of the sender says so.
fn in_v6(story: &[Vec<u8>]) -> Vec<u8> {
    let turn = |step: &Vec<u8>| {
        let mut step = step.clone();
        if step[0] == 0 {
            step[2] |= 0x80;
        }
        step
    };
    story.iter().flat_map(turn).collect()
}

/// All of them.
pub fn inputs() -> Vec<Vec<u8>> {
    let mut inputs: Vec<Vec<u8>> =
        [stories(), mistakes()].concat().iter().flat_map(|story| [story.concat(), in_v6(story)]).collect();
    inputs.extend(changes().iter().map(|story| story.concat()));
    inputs.push([vec![10, 0x20, 60], vec![0x45; 60], vec![10, 0x0c, 60], vec![0x60; 60]].concat());
    for ask in [[11, 1, A, VIP[0], P80 << 3, TCP], [11, 1, 0x80, VIP[0], P53 << 3, UDP]] {
        inputs.push([ask, ask, [11, 1, B, VIP[0], P8080 | P80 << 3, TCP]].concat());
    }
    inputs
}

fn stories() -> Vec<Vec<Vec<u8>>> {
    let (answer, onward, error, again) = (ANSWER.to_vec(), ONWARD.to_vec(), ERROR.to_vec(), AGAIN.to_vec());
    let mut stories = Vec::new();
    let few = [B, C, REMOTE, OUTSIDE];
    let all = [B, C, NODE, OTHER_NODE, SIBLING, REMOTE, REMOTE_UNKNOWN, OUTSIDE];
    for number in [TCP, UDP, ICMP, SCTP, GRE] {
        for to in if number == TCP { all.as_slice() } else { &few } {
            let ask = send(POD_EGRESS, (A, P1000), (*to, P53), number);
            stories.push(vec![ask, onward.clone(), answer.clone(), again.clone(), onward.clone()]);
        }
        let ask = send(NET_INGRESS, (OUTSIDE, P1000), (B, P8080), number);
        stories.push(vec![ask, answer.clone(), onward.clone()]);
        let ask = send(MESH_INGRESS, (REMOTE, P1000), (B, P53), number);
        stories.push(vec![ask, answer.clone(), error.clone()]);
        let ask = send(POD_INGRESS, (NODE, P1000), (C, P80), number);
        stories.push(vec![ask, answer.clone()]);
        let out = send(NET_EGRESS, (A, P1000), (OUTSIDE, P443), number);
        stories.push(vec![out, answer.clone(), again.clone(), error.clone()]);
    }
    stories.push(vec![send(NET_EGRESS, (A, P1000), (REMOTE, P443), TCP)]);
    // Of these two, each is the backend of a service.
    for (client, vip, port, number) in [
        (A, VIP[0], P80, TCP),
        (B, VIP[0], P80, TCP),
        (A, VIP[0], P53, UDP),
        (A, VIP[1], P80, TCP),
        (B, VIP[1], P80, TCP),
        (A, VIP[1], P443, TCP),
    ] {
        let ask = send(POD_EGRESS, (client, P1000), (vip, port), number);
        stories.push(vec![ask.clone(), answer.clone(), ask.clone(), error.clone()]);
        let chance = change(10, &[0, 0, 0, 1]);
        stories.push(vec![chance, ask.clone(), change(7, &[0, 4, 0, 1, 3, P443]), ask, answer.clone()]);
    }
    let fragment = |byte| shaped(POD_EGRESS, (A, P1000), (OUTSIDE, P53), UDP, &[16, byte]);
    stories.push(vec![fragment(0x0c), onward.clone(), fragment(0x0d), onward.clone(), fragment(0x15)]);
    let options = shaped(POD_EGRESS, (A, P1000), (OUTSIDE, P53), UDP, &[8, 3, 0, 1, 2]);
    stories.push(vec![options, onward.clone(), answer.clone()]);
    stories.push(vec![shaped(POD_EGRESS, (A, P1000), (B, P8080), TCP, &[2, 0])]);
    stories.push(vec![
        send(POD_EGRESS, (B, P1000), (A, P8080), TCP),
        answer.clone(),
        LATER.to_vec(),
        answer.clone(),
    ]);
    stories.push(vec![send(POD_EGRESS | 0x30, (B, P1000), (A, P8080), TCP)]);
    stories.push(vec![send(POD_EGRESS, (LINK_LOCAL, 0), (B, 0), ICMP)]);
    let rule = change(4, &[1, TCP, 16, P8080, 0b1, 0b10]);
    let ask = send(POD_EGRESS, (A, P1000), (B, P8080), TCP);
    stories.push(vec![ask.clone(), rule, ask.clone(), answer.clone()]);
    stories
}

/// Changes of each kind between a packet and its answer.
fn changes() -> Vec<Vec<Vec<u8>>> {
    let ask = send(POD_EGRESS, (A, P1000), (B, P8080), TCP);
    let between =
        |what| vec![ask.clone(), change(what, &[0, 1, 2, 3, 4, 5]), ANSWER.to_vec(), ONWARD.to_vec()];
    [0, 1, 2, 3, 6, 12, 13, 14, 15].map(between).to_vec()
}

/// What a datapath that has one of the usual mistakes gets wrong.
fn mistakes() -> Vec<Vec<Vec<u8>>> {
    let syn_ack = |from, to| shaped(POD_EGRESS, from, to, TCP, &[1, 1]);
    let ack = shaped(POD_EGRESS, (A, P1000), (VIP[0], P80), TCP, &[1, 0]);
    let to_service = send(POD_EGRESS, (A, P1000), (VIP[0], P80), TCP);
    let no_egress_of_c = change(4, &[6, 0, 0, 0, 0, 0]);
    let other_backend = |number| change(7, &[0, 4, 0, number, 3, P443]);
    vec![
        // Its own pods are let in from outside, and a pod's packet to a node of another cluster leaves in clear.
        vec![send(NET_INGRESS, (A, P1000), (B, P8080), TCP)],
        vec![send(NET_EGRESS, (A, P1000), (REMOTE_NODE, P443), TCP)],
        // What was refused can be answered, and so can what was asked too long ago.
        vec![
            no_egress_of_c,
            send(MESH_INGRESS, (REMOTE, P1000), (C, P53), TCP),
            syn_ack((C, P53), (REMOTE, P1000)),
        ],
        vec![send(POD_EGRESS, (C, P1000), (A, P80), TCP), LATER.to_vec(), syn_ack((A, P80), (C, P1000))],
        // Two pods leave by one port.
        vec![
            send(NET_EGRESS, (A, P61000), (OUTSIDE, P443), UDP),
            send(NET_EGRESS, (B, P61000), (OUTSIDE, P443), UDP),
        ],
        // A connection changes its backend in midstream; the next one, of the same port, may have another.
        vec![
            to_service.clone(),
            other_backend(0),
            other_backend(1),
            ack.clone(),
            ack.clone(),
            ack,
            to_service,
        ],
    ]
}
