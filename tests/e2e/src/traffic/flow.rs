//! What became of one flow of traffic, and how much harm it took in a window of time.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, ensure};

/// A datagram counts as lost when it got no answer for so many milliseconds, unless its client says otherwise.
const LOST_AFTER: f64 = 1000.0;

/// A request that takes so long, in seconds, is a pause; the other clients print theirs from here on, too.
const SLOW: f64 = 0.1;
/// At most so many lines of what went wrong in a window are shown.
const SHOWN: usize = 8;
/// A client may notice so many seconds late what went wrong in a window.
const LATE: f64 = 2.0;

/// Where a flow goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It stays in the cluster.
    Local,
    /// To a host that is no node.
    Outside,
    /// To another cluster.
    Between,
    /// Nowhere: a policy keeps the pair apart.
    Denied,
}

/// A span of time, in seconds of the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    /// Its begin.
    pub from: f64,
    /// Its end.
    pub to: f64,
}

impl Window {
    /// The time from so long ago until now.
    pub fn last(length: Duration) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        Self { from: now - length.as_secs_f64(), to: now }
    }

    /// How much of it lies in another one.
    fn overlap(self, other: Self) -> f64 {
        (self.to.min(other.to) - self.from.max(other.from)).max(0.0)
    }

    fn touches(self, other: Self) -> bool {
        self.from <= other.to && other.from <= self.to
    }
}

/// What a client noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// An answer took long.
    Pause,
    /// A datagram or a request got no answer.
    Loss,
    /// A connection ended.
    Break,
}

/// Something that a client noticed, and from when to when.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Event {
    /// What it was.
    pub happened: Happened,
    /// When.
    pub window: Window,
}

/// What became of one kind of traffic of one client.
#[derive(Debug, Clone, PartialEq)]
pub struct Flow {
    /// Client and kind.
    pub name: String,
    /// Where it goes.
    pub class: Class,
    /// Lines, datagrams or requests sent.
    pub sent: u64,
    /// How many of them were answered.
    pub answered: u64,
    /// What was noticed, in the order of time.
    pub events: Vec<Event>,
    words: Vec<(f64, String)>,
}

/// What a flow took in a window of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Harm {
    /// Datagrams and requests without an answer.
    pub lost: u64,
    /// Connections that ended.
    pub broken: u64,
    /// The longest time without an answer, without what the machine itself paused then.
    pub longest: Duration,
}

/// How much harm a flow may take. No connection may ever end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Most datagrams or requests without an answer.
    pub lost: u64,
    /// The longest pause.
    pub longest: Duration,
}

/// Nothing is lost, and no answer takes longer than a busy machine makes it.
pub const UNHARMED: Bounds = Bounds { lost: 0, longest: Duration::from_millis(800) };

impl Bounds {
    /// Whether this much harm is allowed.
    pub fn allow(&self, harm: &Harm) -> bool {
        harm.lost <= self.lost && harm.broken == 0 && harm.longest <= self.longest
    }
}

impl Harm {
    /// Of each kind the greater.
    pub fn worse(self, other: Self) -> Self {
        Self {
            lost: self.lost.max(other.lost),
            broken: self.broken.max(other.broken),
            longest: self.longest.max(other.longest),
        }
    }
}

impl Flow {
    /// Reads a client's log, of which each line begins with its time as RFC 3339 has it. Fails without a line of totals.
    pub fn read(name: String, class: Class, log: &str) -> anyhow::Result<Self> {
        let lines: Vec<(f64, &str)> = log.lines().filter_map(timed).collect();
        let total = lines.iter().rev().find_map(|(_, line)| line.strip_prefix("total "));
        let total =
            total.with_context(|| format!("{name} printed no total: {:?}", log.lines().next_back()))?;
        let first = |keys: &[&str]| keys.iter().find_map(|key| number(total, key));
        let sent = first(&["sent", "requests"]).with_context(|| format!("{name}: {total}"))? as u64;
        let failed = first(&["failed", "lost", "broken"]).with_context(|| format!("{name}: {total}"))? as u64;
        let events: Vec<Event> = lines.iter().filter_map(|(at, line)| event(*at, line)).collect();
        // A line that is missing is harm that nobody judges.
        let noticed = events.iter().filter(|event| event.happened != Happened::Pause).count() as u64;
        ensure!(noticed == failed, "{name} printed {noticed} failures, and then {total}");
        // Who must not talk has talked, however late the answer came.
        let late = lines.iter().filter(|(_, line)| line.starts_with("late ")).count() as u64;
        let late = if class == Class::Denied { late } else { 0 };
        let told =
            |line: &str| ["gap ", "break ", "lost ", "fail "].iter().any(|word| line.starts_with(word));
        let words =
            lines.iter().filter(|(_, line)| told(line)).map(|(at, line)| (*at, (*line).to_owned())).collect();
        Ok(Self { name, class, sent, answered: sent.saturating_sub(failed) + late, events, words })
    }

    /// What it took in a window. A pause counts without what `shared`, the machine's own pauses, has of it.
    pub fn harm(&self, window: Window, shared: &[Window]) -> Harm {
        let mut harm = Harm::default();
        for event in self.events.iter().filter(|event| event.window.touches(window)) {
            match event.happened {
                Happened::Loss => harm.lost += 1,
                Happened::Break => harm.broken += 1,
                Happened::Pause => {}
            }
            let of_the_machine: f64 = shared.iter().map(|pause| pause.overlap(event.window)).sum();
            let own = (event.window.to - event.window.from - of_the_machine).max(0.0);
            harm.longest = harm.longest.max(Duration::from_secs_f64(own));
        }
        harm
    }

    /// The first lines of a window that say what went wrong, as the client printed them.
    pub fn words(&self, window: Window) -> Vec<String> {
        let of_window = self.words.iter().filter(|(at, _)| (window.from..=window.to + LATE).contains(at));
        of_window.take(SHOWN).map(|(at, line)| format!("{at:.3} {line}")).collect()
    }
}

/// The time of a line and what it says.
fn timed(line: &str) -> Option<(f64, &str)> {
    let (time, rest) = line.split_once(' ')?;
    let time: k8s_openapi::jiff::Timestamp = time.parse().ok()?;
    Some((time.as_duration().as_secs_f64(), rest))
}

/// A request that is answered well and in time is no event.
fn event(at: f64, line: &str) -> Option<Event> {
    let is_well = number(line, "status") == Some(200.0);
    let happened = match line.split(' ').next()? {
        "gap" => Happened::Pause,
        "ok" if is_well => Happened::Pause,
        "ok" | "lost" | "fail" => Happened::Loss,
        "break" => Happened::Break,
        _ => return None,
    };
    let waited = if line.starts_with("lost ") { LOST_AFTER } else { 0.0 };
    let took = number(line, "ms").unwrap_or(waited) / 1000.0;
    if happened == Happened::Pause && line.starts_with("ok ") && took < SLOW {
        return None;
    }
    Some(Event { happened, window: Window { from: at - took, to: at } })
}

/// The value of `key=number` in a line.
fn number(line: &str, key: &str) -> Option<f64> {
    line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
}

impl fmt::Display for Harm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} lost, {} broken, longest {} ms", self.lost, self.broken, self.longest.as_millis())
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} lost, longest {} ms", self.lost, self.longest.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: &str = "2026-01-01T00:00:0";

    fn flow(log: &[&str]) -> Flow {
        let log: Vec<String> = log.iter().map(|line| format!("{AT}{line}")).collect();
        Flow::read("x".into(), Class::Local, &log.join("\n")).unwrap()
    }

    fn window(from: f64, to: f64) -> Window {
        let begin = timed(&format!("{AT}0Z x")).unwrap().0;
        Window { from: begin + from, to: begin + to }
    }

    #[test]
    fn totals_of_each_kind_are_read() {
        let stream = flow(&["1Z connected local=a", "9Z total sent=9 received=9 longest_ms=700 broken=0"]);
        assert_eq!((stream.sent, stream.answered), (9, 9));
        let udp = flow(&["1Z lost seq=2", "9Z total sent=4 received=3 lost=1 longest_ms=9"]);
        assert_eq!((udp.sent, udp.answered), (4, 3));
        let denied =
            format!("{AT}1Z lost seq=1\n{AT}2Z late seq=2\n{AT}3Z lost seq=2\n{AT}9Z total sent=2 lost=2");
        assert_eq!(Flow::read("x".into(), Class::Denied, &denied).unwrap().answered, 1);
        let get = flow(&["1Z ok status=200 ms=1.5 body=x", "9Z total requests=2 failed=0"]);
        assert_eq!((get.sent, get.answered, get.events.len()), (2, 2, 0));
        assert!(Flow::read("x".into(), Class::Local, "2026-01-01T00:00:01Z ok status=200").is_err());
        let short = "2026-01-01T00:00:01Z total requests=2 failed=1";
        assert!(Flow::read("x".into(), Class::Local, short).is_err());
    }

    #[test]
    fn harm_is_what_touches_the_window() {
        let flow = flow(&[
            "2.0Z gap seq=3 ms=700",
            "3.0Z fail ms=300.0 error=x",
            "4.0Z ok status=200 ms=450.0 body=x",
            "5.0Z break seq=9 error=x",
            "6.0Z lost seq=3",
            "7.0Z ok status=503 ms=1.0 body=x",
            "9Z total requests=9 failed=4",
        ]);
        let harm = |from, to, shared: &[Window]| flow.harm(window(from, to), shared);
        let ms = Duration::from_millis;
        assert_eq!(harm(0.0, 1.0, &[]), Harm::default());
        assert_eq!(harm(1.5, 1.6, &[]).longest.as_millis(), 700);
        assert_eq!((harm(2.8, 4.0, &[]).lost, harm(2.8, 4.0, &[]).broken), (1, 0));
        assert_eq!(harm(4.5, 6.0, &[]).broken, 1);
        // It was sent a second before it was given up.
        assert_eq!((harm(5.1, 5.5, &[]).lost, harm(6.5, 8.0, &[]).lost), (1, 1));
        let paused = harm(1.5, 1.6, &[window(1.4, 1.9)]);
        assert!(paused.longest > ms(195) && paused.longest < ms(205), "{paused}");
        assert!(!UNHARMED.allow(&harm(4.5, 6.0, &[])) && UNHARMED.allow(&harm(1.5, 1.6, &[])));
    }
}
