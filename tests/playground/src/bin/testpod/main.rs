//! `testpod`: what the pods of the end-to-end suites run. One static program without dependencies, so
//! that an image needs nothing else. Every line of output starts with a word that says what it is,
//! followed by `key=value` pairs.

mod client;
mod exchange;
mod server;
mod signals;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

const HELP: &str = "\
usage: testpod COMMAND

  pause                                 wait for SIGTERM
  sleep SECONDS                         wait so long, or for SIGTERM
  http [--port 8080] [--name NAME]      answer every GET with one line that says who answers
  tcp-echo [--port 7]                   send back what comes
  udp-echo [--port 7]                   send back what comes
  get URL [-n COUNT] [--interval MS] [--timeout MS]
                                        GET in connections of their own; exit code = failures, at most 125
  stream HOST:PORT [-n COUNT] [--interval MS] [--prefix TEXT]
                                        one connection to a tcp-echo: numbered lines, each checked when it
                                        comes back, until COUNT or SIGTERM; exit code 1 if any was lost
  udp-exchange HOST:PORT [-n COUNT] [--interval MS] [--timeout MS] [--prefix TEXT]
                                        numbered datagrams to a udp-echo; exit code 1 if any was lost
  resolve NAME                          print the addresses of a name

The name that http answers is NAME, or POD_NAME of the environment; CLUSTER_NAME and NODE_NAME are added.
";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let command = words.next().unwrap_or_default();
    let arguments = match Arguments::parse(words) {
        Ok(arguments) => arguments,
        Err(error) => return fail(&error),
    };
    let result = match command.as_str() {
        "pause" => signals::wait(None).map(|()| ExitCode::SUCCESS),
        "sleep" => sleep(&arguments),
        "http" => server::http(&arguments),
        "tcp-echo" => server::tcp_echo(&arguments),
        "udp-echo" => server::udp_echo(&arguments),
        "get" => client::get(&arguments),
        "resolve" => client::resolve(&arguments),
        "stream" => exchange::stream(&arguments),
        "udp-exchange" => exchange::datagrams(&arguments),
        "help" | "--help" | "-h" => {
            say(HELP.trim_end());
            Ok(ExitCode::SUCCESS)
        }
        other => Err(format!("command is {other:?}; `testpod help` lists them")),
    };
    result.unwrap_or_else(|error| fail(&error))
}

/// The words after the command: options with one value each, and one operand.
struct Arguments {
    operand: Option<String>,
    options: BTreeMap<String, String>,
}

impl Arguments {
    fn parse(words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut words = words;
        let mut parsed = Self { operand: None, options: BTreeMap::new() };
        while let Some(word) = words.next() {
            if let Some(name) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) {
                let value = words.next().ok_or_else(|| format!("{word} has no value; give one after it"))?;
                parsed.options.insert(name.to_owned(), value);
            } else if parsed.operand.replace(word.clone()).is_some() {
                return Err(format!("{word:?} is one argument too many; `testpod help` shows the usage"));
            }
        }
        Ok(parsed)
    }

    fn operand(&self, what: &str) -> Result<&str, String> {
        self.operand.as_deref().ok_or_else(|| format!("no {what} given; `testpod help` shows the usage"))
    }

    fn text(&self, name: &str) -> &str {
        self.options.get(name).map_or("", String::as_str)
    }

    fn number(&self, name: &str, default: u64) -> Result<u64, String> {
        let Some(text) = self.options.get(name) else { return Ok(default) };
        text.parse().map_err(|_| format!("{name} is {text:?}; give a whole number"))
    }

    fn port(&self, default: u16) -> Result<u16, String> {
        u16::try_from(self.number("port", default.into())?)
            .map_err(|_| "port is too large; give at most 65535".to_owned())
    }

    fn milliseconds(&self, name: &str, default: u64) -> Result<Duration, String> {
        self.number(name, default).map(Duration::from_millis)
    }
}

fn sleep(arguments: &Arguments) -> Result<ExitCode, String> {
    let text = arguments.operand("number of seconds")?;
    let seconds: f64 = text.parse().map_err(|_| format!("seconds is {text:?}; give a number"))?;
    let time = Duration::try_from_secs_f64(seconds).map_err(|e| format!("seconds is {text:?}; {e}"))?;
    signals::wait(Some(time))?;
    Ok(ExitCode::SUCCESS)
}

/// Writes one line to standard output.
fn say(line: &str) {
    let mut stdout = io::stdout().lock();
    // Nobody reads it any more when this fails, and the work goes on.
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

fn fail(error: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "testpod: {error}");
    ExitCode::from(126)
}
