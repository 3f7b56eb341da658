//! The words after the command: options with one value each, and one operand.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

/// What was given to a command.
pub struct Arguments {
    operand: Option<String>,
    options: BTreeMap<String, String>,
}

impl Arguments {
    /// Takes the words apart.
    pub fn parse(words: impl Iterator<Item = String>) -> Result<Self, String> {
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

    /// The one word that is no option.
    pub fn operand(&self, what: &str) -> Result<&str, String> {
        self.operand.as_deref().ok_or_else(|| format!("no {what} given; `testpod help` shows the usage"))
    }

    /// The operand as HOST:PORT; of a name's addresses, the first. IPv6 addresses stand in brackets.
    pub fn target(&self) -> Result<SocketAddr, String> {
        target(self.operand("HOST:PORT")?)
    }

    /// The operand as HOST:PORT, or several with commas between them.
    pub fn targets(&self) -> Result<Vec<SocketAddr>, String> {
        self.operand("HOST:PORT")?.split(',').map(target).collect()
    }

    /// An option's text; None when it was not given.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    /// An option's text; empty when it was not given.
    pub fn text(&self, name: &str) -> &str {
        self.option(name).unwrap_or_default()
    }

    /// An option's number.
    pub fn number(&self, name: &str, default: u64) -> Result<u64, String> {
        let Some(text) = self.options.get(name) else { return Ok(default) };
        text.parse().map_err(|_| format!("{name} is {text:?}; give a whole number"))
    }

    /// An option's number in milliseconds.
    pub fn milliseconds(&self, name: &str, default: u64) -> Result<Duration, String> {
        self.number(name, default).map(Duration::from_millis)
    }

    /// `--port`.
    pub fn port(&self, default: u16) -> Result<u16, String> {
        let Some(text) = self.options.get("port") else { return Ok(default) };
        text.parse().map_err(|_| format!("port is {text:?}; give a number from 0 to 65535"))
    }

    /// `--port` as several, with commas between them.
    pub fn ports(&self, default: u16) -> Result<Vec<u16>, String> {
        let Some(text) = self.options.get("port") else { return Ok(vec![default]) };
        let parse = |port: &str| port.parse().map_err(|_| format!("port is {port:?}; give 1 to 65535"));
        text.split(',').map(parse).collect()
    }

    /// `--address`: those to listen on, with commas between them; none given are all.
    pub fn addresses(&self) -> Result<Vec<IpAddr>, String> {
        let Some(text) = self.options.get("address") else { return Ok(Vec::new()) };
        let parse = |address: &str| {
            address.parse().map_err(|_| format!("address is {address:?}; give an IP address"))
        };
        text.split(',').map(parse).collect()
    }
}

fn target(text: &str) -> Result<SocketAddr, String> {
    text.to_socket_addrs()
        .map_err(|error| format!("cannot resolve {text}: {error}"))?
        .next()
        .ok_or_else(|| format!("{text} has no address"))
}
