//! When to try again.

use std::time::Duration;

use rand::Rng;

/// Doubling delays with jitter (each between half and all of the step), so that a thousand nodes that lost their
/// daemon at the same moment do not return at the same moment.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(10))
    }
}

impl Backoff {
    /// From `first` up to `max`.
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, next: first }
    }

    /// Starts over, after a success.
    pub const fn reset(&mut self) {
        self.next = self.first;
    }

    /// Waits for the next delay.
    pub async fn wait(&mut self) {
        let step = self.next;
        self.next = (step * 2).min(self.max);
        let delay = step.mul_f64(rand::rng().random_range(0.5..=1.0));
        tokio::time::sleep(delay).await;
    }
}
