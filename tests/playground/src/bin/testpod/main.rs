//! `testpod`: what the pods of the end-to-end suites run. One static program without dependencies, so
//! that an image needs nothing else. Every line of output starts with a word that says what it is,
//! followed by `key=value` pairs.

mod arguments;
mod association;
mod burst;
mod client;
mod datagrams;
mod half_close;
mod sctp;
mod server;
mod signals;
mod stream;
mod sys;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use arguments::Arguments;

const HELP: &str = "\
usage: testpod COMMAND

  pause                                 wait for SIGTERM
  sleep SECONDS                         wait so long, or for SIGTERM

Servers; they listen on all addresses of both families, or on each of --address IP[,IP…] for itself:
  http [--port 8080] [--name NAME]      answer every GET with one line that says who answers
  tcp-echo [--port 7]                   send back what comes
  tcp-answer [--port 9]                 answer half-close once it has shut down its side
  udp-echo [--port 7] [--name NAME]     send back what comes, with NAME and a space before it
  sctp-respond [--port 9[,PORT…]]       answer INIT and COOKIE ECHO, ABORT what is for other ports; needs
                                        CAP_NET_RAW

Clients; HOST is a name or an address, an IPv6 address stands in brackets:
  get URL [-n COUNT] [--interval MS] [--timeout MS]
                                        GET in connections of their own; exit code = failures, at most 125
  stream HOST:PORT [-n COUNT] [--interval MS] [--prefix TEXT] [--patience MS] [--gap MS]
                                        one connection to a tcp-echo: numbered lines, each checked when it
                                        comes back, until COUNT or SIGTERM; exit code 1 if any was lost or
                                        took longer than --patience (60000); a wait over --gap (500) is printed
  half-close HOST:PORT [--bytes 1000000] [--over MS] [--patience MS]
                                        shut down the sending side of a connection to a tcp-answer, and still
                                        get so many bytes in so long a time
  udp-exchange HOST:PORT [-n COUNT] [--interval MS] [--timeout MS] [--prefix TEXT] [--gap MS]
                                        numbered datagrams from one connected socket to a udp-echo; exit code
                                        1 if any was lost; a pause over --gap (500) is printed
  udp-unconnected HOST:PORT[,…] [-n COUNT] [--interval MS] [--timeout MS] [--prefix TEXT]
                  [--gap MS]            the same by sendto and recvfrom on one socket, to each in turn; an
                                        answer of another address than asked is none
  udp-burst HOST:PORT [--sockets 1000] [--rate 2000] [--port-base PORT] [-n ROUNDS] [--interval MS]
            [--timeout MS]              one datagram from each of so many sockets, --rate a second, each
                                        waiting for its own answer; exit code 1 if any was lost
  sctp-init HOST:PORT [-n COUNT] [--interval MS] [--timeout MS]
                                        set up associations, and check what answers; exit code = those that
                                        were not set up, at most 125; needs CAP_NET_RAW
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
        "tcp-answer" => half_close::answer(&arguments),
        "udp-echo" => server::udp_echo(&arguments),
        "sctp-respond" => association::respond(&arguments),
        "get" => client::get(&arguments),
        "resolve" => client::resolve(&arguments),
        "stream" => stream::run(&arguments),
        "half-close" => half_close::ask(&arguments),
        "udp-exchange" => datagrams::connected(&arguments),
        "udp-unconnected" => datagrams::unconnected(&arguments),
        "udp-burst" => burst::run(&arguments),
        "sctp-init" => association::init(&arguments),
        "help" | "--help" | "-h" => {
            say(HELP.trim_end());
            Ok(ExitCode::SUCCESS)
        }
        other => Err(format!("command is {other:?}; `testpod help` lists them")),
    };
    result.unwrap_or_else(|error| fail(&error))
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

/// The exit code of a command that failed so many times.
fn failures(count: u64) -> ExitCode {
    ExitCode::from(u8::try_from(count.min(125)).unwrap_or(125))
}

fn fail(error: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "testpod: {error}");
    ExitCode::from(126)
}
