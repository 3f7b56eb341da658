//! Conditions in the Kubernetes convention (API conventions, "Typical status properties").

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// `Accepted`: the object is valid and in force.
pub const ACCEPTED: &str = "Accepted";
/// `Joined`: the cluster is a member of the mesh.
pub const JOINED: &str = "Joined";
/// `Ready`: it works.
pub const READY: &str = "Ready";

/// What a condition says, without when it began to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// One of the constants of this module.
    pub kind: &'static str,
    /// Whether it holds; none when that is not known yet.
    pub holds: Option<bool>,
    /// Why, in one word of CamelCase.
    pub reason: &'static str,
    /// Why, in a sentence.
    pub message: String,
}

impl Finding {
    /// The condition, with `now` as the time of its last transition unless `before` holds it already with the
    /// same status.
    pub fn into_condition(self, before: &[Condition], generation: Option<i64>, now: Time) -> Condition {
        let status = match self.holds {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        };
        let since = before.iter().find(|c| c.type_ == self.kind && c.status == status);
        Condition {
            last_transition_time: since.map_or(now, |c| c.last_transition_time.clone()),
            message: self.message,
            observed_generation: generation,
            reason: self.reason.to_owned(),
            status: status.to_owned(),
            type_: self.kind.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn finding(holds: bool) -> Finding {
        Finding { kind: READY, holds: Some(holds), reason: "Tested", message: String::new() }
    }

    #[test]
    fn transition_time_moves_with_the_status_only() {
        let at = |s| Time(Timestamp::from_second(s).unwrap());
        let first = finding(true).into_condition(&[], Some(1), at(1));
        let same = finding(true).into_condition(std::slice::from_ref(&first), Some(2), at(2));
        let other = finding(false).into_condition(std::slice::from_ref(&same), Some(3), at(3));
        assert_eq!((&same.last_transition_time, same.observed_generation), (&at(1), Some(2)));
        assert_eq!((other.last_transition_time, other.status.as_str()), (at(3), "False"));
    }
}
