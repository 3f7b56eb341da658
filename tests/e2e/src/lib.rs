//! End-to-end suites on the playground.
