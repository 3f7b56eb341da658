//! A call from beginning to end: read, validate, ask the agent, print.

use std::{
    ffi::OsString,
    io::Read,
    path::{Path, PathBuf},
};

use crate::{
    Failure,
    client::{self, ClientError},
    config::{Config, MAX_INPUT, Version},
    environment::{self, Call},
    failure::code,
    output,
    protocol::{Attachment, Pod, Request, Response},
    queue,
};

/// What there is to print, and how to exit.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// To standard output (nothing if empty), exit 0.
    Printed(String),
    /// To standard output, exit 1.
    Failed(String),
    /// To standard error, exit 0: not called by a runtime.
    About(String),
}

/// Carries out the call that the environment and the input describe.
pub fn run(environment: impl Fn(&str) -> Option<OsString>, input: impl Read) -> Outcome {
    let mut version = Version::LATEST;
    match dispatch(environment, input, &mut version) {
        Ok(outcome) => outcome,
        Err(failure) => Outcome::Failed(output::error(version, &failure)),
    }
}

fn dispatch(
    environment: impl Fn(&str) -> Option<OsString>,
    input: impl Read,
    version: &mut Version,
) -> Result<Outcome, Failure> {
    let call = environment::read(environment)?;
    match call {
        Call::Nothing => {
            let all = Version::ALL.map(Version::as_str).join(", ");
            let about = format!("tombolo-cni {}: CNI plugin, versions {all}", env!("CARGO_PKG_VERSION"));
            return Ok(Outcome::About(about));
        }
        Call::Version => return Ok(Outcome::Printed(output::versions())),
        Call::Add(..) | Call::Del(_) | Call::Check(..) | Call::Gc | Call::Status => {}
    }
    let config = Config::parse(&read(input)?)?;
    *version = config.version;
    match call {
        Call::Add(attachment, netns, pod) => add(&config, attachment, &netns, pod),
        Call::Del(attachment) => del(&config, &attachment),
        Call::Check(attachment, netns) => check(&config, attachment, netns),
        Call::Gc => gc(&config),
        Call::Status => status(&config),
        Call::Version | Call::Nothing => Ok(Outcome::Printed(String::new())),
    }
}

fn read(input: impl Read) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    input
        .take(MAX_INPUT + 1)
        .read_to_end(&mut text)
        .map_err(|e| Failure::new(code::IO, format!("standard input cannot be read: {e}")))?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_INPUT {
        return Err(Failure::new(
            code::DECODE,
            format!("the network configuration is longer than {MAX_INPUT} bytes"),
        ));
    }
    Ok(text)
}

fn add(config: &Config, attachment: Attachment, netns: &Path, pod: Pod) -> Result<Outcome, Failure> {
    config.refuse_unknown()?;
    if config.prev_result.is_some() {
        return Err(Failure::new(
            code::INVALID_CONFIG,
            "prevResult is set: tombolo-cni makes the interface and must be the first plugin of its list",
        ));
    }
    let ifname = attachment.ifname.clone();
    let request = Request::Add { attachment, netns: netns.to_owned(), pod };
    match ask(config, &request, code::TRY_AGAIN_LATER)? {
        Response::Added(added) => {
            Ok(Outcome::Printed(output::result(config.version, &ifname, netns, &added, config.dns.as_ref())))
        }
        other => unexpected(&other),
    }
}

/// Never fails for want of an agent: the DEL is left for it, and the runtime can go on.
fn del(config: &Config, attachment: &Attachment) -> Result<Outcome, Failure> {
    let request = Request::Del { attachment: attachment.clone() };
    match client::call(&config.socket, &request) {
        Ok(response) => done(response),
        Err(ClientError::Down(_) | ClientError::NoAnswer(_)) => queue::push(&config.del_queue, attachment)
            .map_err(|e| cannot_queue(&config.del_queue, &e))
            .map(|()| Outcome::Printed(String::new())),
        Err(garbled @ ClientError::Garbled(_)) => Err(unreachable_agent(config, code::IO, &garbled)),
    }
}

fn check(config: &Config, attachment: Attachment, netns: PathBuf) -> Result<Outcome, Failure> {
    config.require("CHECK", Version::V0_4_0)?;
    config.refuse_unknown()?;
    let addresses = config.previous_addresses(&attachment.ifname)?;
    done(ask(config, &Request::Check { attachment, netns, addresses }, code::TRY_AGAIN_LATER)?)
}

fn gc(config: &Config) -> Result<Outcome, Failure> {
    config.require("GC", Version::V1_1_0)?;
    let valid = config.valid_attachments.clone().ok_or_else(|| {
        Failure::new(
            code::INVALID_CONFIG,
            "cni.dev/valid-attachments is missing: GC needs the list of what stays",
        )
    })?;
    done(ask(config, &Request::Gc { valid }, code::TRY_AGAIN_LATER)?)
}

fn status(config: &Config) -> Result<Outcome, Failure> {
    config.require("STATUS", Version::V1_1_0)?;
    config.refuse_unknown()?;
    done(ask(config, &Request::Status, code::NOT_AVAILABLE)?)
}

fn ask(config: &Config, request: &Request, without_agent: u32) -> Result<Response, Failure> {
    client::call(&config.socket, request).map_err(|e| unreachable_agent(config, without_agent, &e))
}

fn done(response: Response) -> Result<Outcome, Failure> {
    match response {
        Response::Done => Ok(Outcome::Printed(String::new())),
        other @ (Response::Added(_) | Response::Failed(_)) => unexpected(&other),
    }
}

fn unexpected(response: &Response) -> Result<Outcome, Failure> {
    match response {
        Response::Failed(failure) => Err(failure.clone()),
        Response::Added(_) | Response::Done => Err(Failure::new(
            code::DECODE,
            "the agent answered another question: plugin and agent must be of the same release",
        )),
    }
}

fn unreachable_agent(config: &Config, code: u32, error: &ClientError) -> Failure {
    let socket = config.socket.display();
    Failure::new(code, format!("tombolo-node cannot be asked at {socket}: is its pod running on this node?"))
        .with_details(error.to_string())
}

fn cannot_queue(dir: &Path, error: &std::io::Error) -> Failure {
    let dir = dir.display();
    Failure::new(
        code::IO,
        format!("tombolo-node is down and the DEL cannot be left for it in {dir}: {error}"),
    )
}
