//! Names of network devices.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A valid device name: 1 to 15 bytes (IFNAMSIZ less the zero), no slash, colon, percent or white space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceName(String);

/// The text cannot name a network device.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "{0:?} is no device name: 1 to 15 ASCII letters, digits or punctuation except / : and %, not . or .."
)]
pub struct InterfaceNameError(String);

impl InterfaceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = InterfaceNameError;

    fn from_str(text: &str) -> Result<Self, InterfaceNameError> {
        let plain = text.bytes().all(|b| b.is_ascii_graphic() && !b"/:%".contains(&b));
        if text.is_empty() || text.len() > 15 || !plain || text == "." || text == ".." {
            return Err(InterfaceNameError(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["tombolo-wg0", "fifteen-letters"] {
            assert!(good.parse::<InterfaceName>().is_ok(), "{good}");
        }
        for bad in ["", "a/b", "..", "sixteen-letters-", "a b", "wg%d", "ü"] {
            assert!(bad.parse::<InterfaceName>().is_err(), "{bad}");
        }
    }
}
