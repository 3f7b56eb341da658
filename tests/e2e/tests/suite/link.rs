//! The link between two clusters is cut and mended.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use anyhow::ensure;
use tombolo_e2e::{Cuts, Scope, Traffic, Web, answers, command, eventually};

/// How soon backends behind the cut must be out of use.
const GONE: Duration = Duration::from_secs(10);
const BOTH: [&str; 2] = ["east", "west"];

#[tokio::test]
async fn a_cut_link_harms_only_what_crosses_it() {
    let web = Web::start("cut", &BOTH).await.unwrap();
    web.answered_by(&BOTH).await.unwrap();
    let [east, west] = web.scopes.as_slice() else { panic!("two clusters") };
    let traffic = Traffic::start(west, east).await.unwrap();

    let begin = Instant::now();
    let cut = Cuts::new([("east", "west")]).unwrap();
    let (in_east, in_west) = tokio::join!(alone(east, begin), alone(west, begin));
    let (in_east, in_west) = (in_east.unwrap(), in_west.unwrap());
    // Long enough for everything that could give up to do so.
    tokio::time::sleep(Duration::from_secs(10)).await;
    for cluster in BOTH {
        let status = command::tombolo(cluster, &["status"]).unwrap();
        assert!(!status.status.success(), "{cluster} says that all is well");
        let said = String::from_utf8_lossy(&status.stdout).into_owned();
        assert!(said.contains("no session with cluster"), "{said}");
    }
    drop(cut);
    let mended = Instant::now();
    web.answered_by(&BOTH).await.unwrap();
    let back = mended.elapsed();
    command::succeeds("east", &["status", "--wait", "--timeout", "30"]).unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;

    let flows = traffic.finish().await.unwrap();
    let mut out = std::io::stderr();
    writeln!(out, "remote backends gone after {in_east:.1?} and {in_west:.1?}, back after {back:.1?}")
        .unwrap();
    for flow in &flows {
        let (sent, failed, longest) = (flow.sent, flow.failed, flow.longest_ms.unwrap_or(0));
        writeln!(out, "  {:<16} sent {sent:>5} failed {failed} longest wait {longest} ms", flow.name)
            .unwrap();
        if flow.is_local() {
            assert!(flow.sent > 50 && flow.failed == 0, "{flow:?}");
        } else if flow.name.ends_with("/stream") {
            assert_eq!(flow.failed, 0, "a connection across the link broke: {flow:?}");
        } else {
            assert!(flow.failed > 0, "the link was not cut: {flow:?}");
        }
    }
}

/// Waits until a cluster is answered by itself only, without a failure, and says how long that took since `begin`.
async fn alone(scope: &Scope, begin: Instant) -> anyhow::Result<Duration> {
    let own = scope.cluster.name.clone();
    eventually(Duration::from_secs(20), || async {
        let by_cluster = answers(scope, 12, Duration::from_millis(300)).await?;
        ensure!(by_cluster.keys().eq([&own]), "{own}: {by_cluster:?}");
        Ok(())
    })
    .await?;
    let took = begin.elapsed();
    ensure!(took <= GONE, "{own}: remote backends were used for {took:?}");
    Ok(took)
}
