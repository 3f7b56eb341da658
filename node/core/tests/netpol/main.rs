//! The connectivity cases of the Kubernetes end-to-end suite `netpol` (test/e2e/network/netpol), judged by the tables
//! as the datapath judges: three namespaces x, y, z with pods a, b, c. In `cases.json` a row is a source, a column a
//! destination; `.` passes, `X` does not, `#` is not judged.
#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod policy;
mod world;

use serde_json::Value;
use tombolo_model::Protocol;
use tombolo_node_core::problem::Problem;

use world::World;

#[test]
fn tables_judge_as_the_suite_expects() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("cases.json")).unwrap();
    assert_eq!(cases.len(), 48);
    let mut wrong = Vec::new();
    for case in &cases {
        let title = case["title"].as_str().unwrap();
        let has_blocks = case.to_string().contains("ipBlock");
        let mut world = World::new();
        for (number, step) in case["steps"].as_array().unwrap().iter().enumerate() {
            for action in step["actions"].as_array().unwrap() {
                act(&mut world, action);
            }
            world.write_tables();
            let reported = world.problems().any(|problem| matches!(problem, Problem::IpBlock { .. }));
            assert_eq!(reported, has_blocks, "{title}, step {number}: ipBlock is reported");
            for mistake in mistakes(&mut world, &step["expect"], has_blocks) {
                wrong.push(format!("{title}, step {number}: {mistake}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn act(world: &mut World, action: &Value) {
    let text = |key: &str| action[key].as_str().unwrap();
    match text("do") {
        "policy" => world.set_policy(policy::from_spec(text("ns"), text("name"), &action["spec"])),
        "del-policy" => world.delete_policy(policy::key(text("ns"), text("name"))),
        "ns" => world.label_namespace(text("ns"), &action["labels"]),
        "pod-labels" => world.label_pod(text("ns"), text("name"), &action["labels"]),
        other => panic!("unknown action {other}"),
    }
}

/// Where the tables say something else than the matrix. What cannot be expressed yet must be reported and closed:
/// then the tables may stop what the matrix lets pass, never the other way round.
fn mistakes(world: &mut World, expect: &Value, closed: bool) -> Vec<String> {
    let pods: Vec<&str> =
        expect["pods"].as_array().unwrap().iter().map(|pod| pod.as_str().unwrap()).collect();
    let mut mistakes = Vec::new();
    for (port, rows) in expect.as_object().unwrap().iter().filter(|(key, _)| *key != "pods") {
        let (number, protocol) = port.split_once('/').unwrap();
        let (number, protocol): (u16, Protocol) = (number.parse().unwrap(), protocol.parse().unwrap());
        let rows: Vec<&str> = rows.as_array().unwrap().iter().map(|row| row.as_str().unwrap()).collect();
        let is_square = rows.len() == pods.len() && rows.iter().all(|row| row.len() == pods.len());
        assert!(is_square, "{port}: {rows:?}");
        for (source, row) in pods.iter().zip(rows) {
            for (destination, mark) in pods.iter().zip(row.chars()) {
                let passes = world.passes(source, destination, protocol, number);
                let right = match mark {
                    '.' => passes || closed,
                    'X' => !passes,
                    _ => true,
                };
                if !right {
                    mistakes
                        .push(format!("{source} -> {destination} {port}: expected {mark}, passes: {passes}"));
                }
            }
        }
    }
    mistakes
}
