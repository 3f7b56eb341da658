//! What the end of a test means.

use std::time::Duration;

use crate::registration::Registration;

/// Times its expected time that a test may take before it is reported, and before it fails.
const SLOW: f64 = 1.5;
const TOO_SLOW: f64 = 3.0;
/// Times its expected time after which a test is killed, as it will not end.
const HUNG: u32 = 5;

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As it should.
    Passed,
    /// As it should, but it took more than half as long again as it says.
    Slow,
    /// As it says that it does, since the product lacks something.
    KnownToFail,
    /// As it should not, in one line.
    Failed(String),
}

/// How a test's process ended.
#[derive(Debug, Clone, Copy)]
pub struct Ending<'a> {
    /// What became of it.
    pub exit: Exit,
    /// Everything that it printed.
    pub output: &'a str,
    /// How long it took.
    pub took: Duration,
}

/// What became of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It ended with success.
    Success,
    /// It ended with a failure.
    Failure,
    /// It was killed, as it did not end in time.
    Killed,
}

/// How long a test may take at most before it is killed.
pub fn patience(registration: &Registration) -> Duration {
    Duration::from_secs(u64::from(registration.seconds * HUNG))
}

/// Judges a test by how its process ended.
pub fn judge(registration: &Registration, ending: Ending) -> Verdict {
    let times = ending.took.as_secs_f64() / f64::from(registration.seconds);
    let passed = ending.exit == Exit::Success && ending.output.contains("test result: ok. 1 passed");
    match (&registration.known_to_fail, ending.exit) {
        (_, Exit::Killed) => {
            Verdict::Failed(format!("it did not end in {HUNG} times its {} s", registration.seconds))
        }
        (_, Exit::Success) if !passed => Verdict::Failed("its program did not run it".to_owned()),
        (Some(_), Exit::Success) => Verdict::Failed(
            "it is registered as known to fail and passes: take `known to fail` out of its registration"
                .to_owned(),
        ),
        (Some(sentence), Exit::Failure) if !failed_saying(ending.output, sentence) => {
            Verdict::Failed(format!("it is known to fail, but not like this; it did not say {sentence:?}"))
        }
        (None, Exit::Failure) => Verdict::Failed("it failed".to_owned()),
        _ if times > TOO_SLOW => {
            Verdict::Failed(format!("it took {times:.1} times the {} s that it says", registration.seconds))
        }
        (Some(_), Exit::Failure) => Verdict::KnownToFail,
        _ if times > SLOW => Verdict::Slow,
        _ => Verdict::Passed,
    }
}

/// Whether a test failed by a panic that says this. What a signal ended, or what it said before, is something else.
fn failed_saying(output: &str, sentence: &str) -> bool {
    let panic = output.split_once("panicked at").is_some_and(|(_, after)| after.contains(sentence));
    panic && output.contains("test result: FAILED. 0 passed; 1 failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(reason: &str, exit: Exit, output: &str, seconds: u64) -> Verdict {
        let ending = Ending { exit, output, took: Duration::from_secs(seconds) };
        judge(&Registration::parse(reason).unwrap(), ending)
    }

    const OK: &str = "test result: ok. 1 passed; 0 failed";

    #[test]
    fn time_is_part_of_the_verdict() {
        let of = |seconds| judged("needs root; 10 s", Exit::Success, OK, seconds);
        assert_eq!((of(15), of(16), of(30)), (Verdict::Passed, Verdict::Slow, Verdict::Slow));
        assert!(matches!(of(31), Verdict::Failed(why) if why.contains("3.1 times")));
        assert!(matches!(judged("needs root; 10 s", Exit::Killed, "", 50), Verdict::Failed(_)));
    }

    #[test]
    fn what_did_not_run_has_not_passed() {
        let nothing = "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out";
        assert!(matches!(judged("needs root; 10 s", Exit::Success, nothing, 1), Verdict::Failed(_)));
        assert!(matches!(judged("needs root; 10 s", Exit::Failure, "", 1), Verdict::Failed(_)));
    }

    #[test]
    fn what_is_known_to_fail_fails_for_that_reason_or_is_found_out() {
        let known = "needs root; 10 s; known to fail: the moon is full";
        let end = "\ntest result: FAILED. 0 passed; 1 failed";
        let said = format!("thread 'a' panicked at a.rs:1:1:\nthe moon is full{end}");
        assert_eq!(judged(known, Exit::Failure, &said, 1), Verdict::KnownToFail);
        for other in [
            format!("thread 'a' panicked at a.rs:1:1:\nno such file{end}"),
            format!("the moon is full\nthread 'a' panicked at a.rs:1:1:\nno such file{end}"),
            // What a signal ends does not come to its end.
            "thread 'a' panicked at a.rs:1:1:\nthe moon is full".to_owned(),
        ] {
            let other = judged(known, Exit::Failure, &other, 1);
            assert!(matches!(other, Verdict::Failed(why) if why.contains("not like this")));
        }
        let mended = judged(known, Exit::Success, OK, 1);
        assert!(matches!(mended, Verdict::Failed(why) if why.contains("take `known to fail`")));
    }
}
