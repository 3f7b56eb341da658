//! Waiting for what becomes true.

use std::time::{Duration, Instant};

/// Tries until it succeeds, at most `limit`; the last error when it never does.
pub async fn eventually<T, F: Future<Output = anyhow::Result<T>>>(
    limit: Duration,
    mut attempt: impl FnMut() -> F,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() >= limit => {
                return Err(error.context(format!("still failing after {limit:?}")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}
