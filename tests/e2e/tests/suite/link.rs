//! The link between two clusters is cut and mended.

use std::{
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use tombolo_e2e::{
    Bounds, Class, Cuts, GLOBAL, Scope, Traffic, UNHARMED, Web, Window, command, eventually, say, web_url,
};

/// When a request may last go to a backend behind the cut. Its cluster is out 5 s after it was heard last, which was up to
/// a second before the cut; chance may send no request there for a second; and one that goes there takes its time.
const GONE: RangeInclusive<Duration> = Duration::from_secs(3)..=Duration::from_secs(8);
/// How long the link is cut at least.
const CUT: Duration = Duration::from_secs(16);
/// Time between two requests that look for them.
const INTERVAL: Duration = Duration::from_millis(50);
/// How long each of them tries an address.
const TIMEOUT: Duration = Duration::from_millis(300);
const BOTH: [&str; 2] = ["east", "west"];
const KEEP: (&str, &str) = ("service.tombolo.io/on-cluster-loss", "keep");
const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
#[ignore = "needs 2 clusters, alone; 100 s"]
async fn a_cut_link_harms_only_what_crosses_it() {
    let web = Web::start("cut", &BOTH).await.unwrap();
    web.answered_by(&BOTH).await.unwrap();
    let [east, west] = web.scopes.as_slice() else { panic!("two clusters") };
    special_services(east, west).await.unwrap();
    west_has("web", "2 in cluster 1, 2 in cluster 2").await.unwrap();
    let traffic = Traffic::start(west, east).await.unwrap();

    let begin = Instant::now();
    let cut = Cuts::new([("east", "west")]).unwrap();
    let (in_east, in_west) = tokio::join!(alone(east, begin), alone(west, begin));
    let (in_east, in_west) = (in_east.unwrap(), in_west.unwrap());
    // Long enough for everything that could give up to do so.
    tokio::time::sleep(CUT.saturating_sub(begin.elapsed())).await;
    for cluster in BOTH {
        let status = command::tombolo(cluster, &["status"]).unwrap();
        assert!(!status.status.success(), "{cluster} says that all is well");
        let said = String::from_utf8_lossy(&status.stdout).into_owned();
        assert!(said.contains("no session with cluster"), "{said}");
    }
    // Backends of the silent cluster are out of use, unless that is not wanted or nobody else is left.
    west_has("web", "2 in cluster 2").await.unwrap();
    west_has("kept", "1 in cluster 1, 1 in cluster 2").await.unwrap();
    west_has("eastern", "1 in cluster 1").await.unwrap();
    drop(cut);
    let (mended, away) = (Instant::now(), begin.elapsed());
    web.answered_by(&BOTH).await.unwrap();
    let back = mended.elapsed();
    command::succeeds("east", &["status", "--wait", "--timeout", "30"]).unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;

    let cut = Window::last(begin.elapsed());
    let recording = traffic.finish().await.unwrap();
    say(&format!("remote backends gone after {in_east:.1?} and {in_west:.1?}, back after {back:.1?}"));
    for class in [Class::Local, Class::Outside] {
        assert_eq!(recording.violations(class, cut, UNHARMED), [""; 0]);
    }
    // No connection across the link ends: TCP doubles the time until it sends again, so that it may be silent for as
    // long again. What has no connection is lost while the link is cut, and no longer.
    let patience = Bounds { lost: away.as_secs() * 2, longest: away * 2 };
    assert_eq!(recording.violations(Class::Between, cut, patience), [""; 0]);
    assert!(recording.worst(Class::Between, cut).lost > 5, "the link was not cut");
}

/// Service `kept` keeps the backends of silent clusters, `eastern` has backends in east only.
async fn special_services(east: &Scope, west: &Scope) -> anyhow::Result<()> {
    for scope in [east, west] {
        scope.deployment("kept", 1, &["http", "--port", "8080"]).await?;
        scope.service("kept", &[("http", "TCP", 8080)], &[GLOBAL, KEEP]).await?;
        scope.service("eastern", &[("http", "TCP", 8080)], &[GLOBAL]).await?;
    }
    east.deployment("eastern", 1, &["http", "--port", "8080"]).await?;
    west_has("kept", "1 in cluster 1, 1 in cluster 2").await?;
    west_has("eastern", "1 in cluster 1").await
}

/// Waits until the nodes of west have these backends behind a global service, at each of its addresses.
async fn west_has(service: &str, backends: &str) -> anyhow::Result<()> {
    eventually(LIMIT, || async {
        let list = command::succeeds("west", &["service", "list"])?;
        let of_it = list.lines().filter(|line| line.split_whitespace().take(2).eq(["cut", service]));
        let found: Vec<_> =
            of_it.filter_map(|line| line.split_once(" yes ")).map(|(_, b)| b.trim()).collect();
        ensure!(!found.is_empty() && found.iter().all(|b| *b == backends), "{service}: {list}");
        Ok(())
    })
    .await
}

/// Asks for long enough that a cluster must be answered by itself only, and says when a request last went to the other
/// one: an attempt at one address took all its time, whatever the name's other address answered then.
async fn alone(scope: &Scope, begin: Instant) -> anyhow::Result<Duration> {
    let (own, url) = (&scope.cluster.name, web_url(scope));
    let (interval, timeout) = (INTERVAL.as_millis().to_string(), TIMEOUT.as_millis().to_string());
    let ask = ["get", &url, "-n", "150", "--interval", &interval, "--timeout", &timeout];
    let begun = begin.elapsed();
    let out = scope.exec("client", &ask).await?;
    let (mut at, mut last, mut others) = (begun, Duration::ZERO, 0);
    for line in out.stdout.lines().filter(|line| !line.starts_with("total ")) {
        let ms = line.split_once(" ms=").and_then(|(_, rest)| rest.split(' ').next()?.parse::<f64>().ok());
        let took = Duration::from_secs_f64(ms.with_context(|| format!("no time in {line:?}"))? / 1000.0);
        at += took;
        if took >= TIMEOUT {
            last = at;
        }
        others += usize::from(line.starts_with("ok ") && !line.contains(&format!("name={own} ")));
        at += INTERVAL;
    }
    ensure!(others == 0, "{own} was answered by others {others} times behind the cut");
    ensure!(GONE.contains(&last), "{own}: a request crossed last {last:.1?} after the cut: {}", out.stdout);
    ensure!(at > *GONE.end() + Duration::from_secs(2), "{own}: the requests were over after {at:.1?}");
    Ok(last)
}
