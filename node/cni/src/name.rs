//! Names that a runtime hands in: container ids, interface names, pods. The agent checks them again with the same
//! functions, as it does not trust what it reads either.

/// The most bytes of a container id; it becomes a part of a file name.
pub const MAX_CONTAINER_ID: usize = 200;

/// The most bytes of an interface name (`IFNAMSIZ` less the final NUL).
pub const MAX_INTERFACE: usize = 15;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// See [`container_id`].
    #[error(
        "container id {0:?} is not valid: it begins with a letter or digit, goes on with letters, digits, '_', '.' \
         and '-', and has at most {max} characters",
        max = MAX_CONTAINER_ID
    )]
    ContainerId(String),
    /// See [`interface`].
    #[error(
        "interface name {0:?} is not valid: it has 1 to {max} characters, is not '.' or '..', and holds no '/', ':' \
         or white space",
        max = MAX_INTERFACE
    )]
    Interface(String),
    /// See [`subdomain`].
    #[error(
        "{0:?} is not a Kubernetes name: use lower-case letters, digits, '-' and '.', at most 253 characters"
    )]
    Subdomain(String),
    /// See [`network`].
    #[error(
        "network name {0:?} is not valid: it begins with a letter or digit and goes on with letters, digits, '_', \
         '.' and '-'"
    )]
    Network(String),
}

/// Checks a container id (CNI specification, section 2).
pub fn container_id(id: &str) -> Result<(), NameError> {
    if id.len() <= MAX_CONTAINER_ID && is_identifier(id) {
        Ok(())
    } else {
        Err(NameError::ContainerId(id.to_owned()))
    }
}

/// Checks an interface name (`dev_valid_name` of the kernel).
pub fn interface(name: &str) -> Result<(), NameError> {
    let bad = |c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace();
    if name.is_empty() || name.len() > MAX_INTERFACE || name == "." || name == ".." || name.contains(bad) {
        Err(NameError::Interface(name.to_owned()))
    } else {
        Ok(())
    }
}

/// Checks a pod or namespace name (RFC 1123 subdomain, as the API server does).
pub fn subdomain(name: &str) -> Result<(), NameError> {
    let alnum = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let label =
        |l: &str| l.starts_with(alnum) && l.ends_with(alnum) && l.chars().all(|c| alnum(c) || c == '-');
    if name.len() <= 253 && name.split('.').all(label) {
        Ok(())
    } else {
        Err(NameError::Subdomain(name.to_owned()))
    }
}

/// Checks the name of a network.
pub fn network(name: &str) -> Result<(), NameError> {
    if is_identifier(name) { Ok(()) } else { Err(NameError::Network(name.to_owned())) }
}

/// `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`
fn is_identifier(s: &str) -> bool {
    s.starts_with(|c: char| c.is_ascii_alphanumeric())
        && s.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces() {
        for good in ["eth0", "a", "abcdefghijklmno", "net1.5"] {
            assert!(interface(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a:b", "a b", "a\tb", "abcdefghijklmnop", "a\0"] {
            assert!(interface(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn container_ids() {
        for good in ["0af", "A_b.c-d", &"a".repeat(200)] {
            assert!(container_id(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "_a", "../x", "a/b", "a b", "é", &"a".repeat(201)] {
            assert!(container_id(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn subdomains() {
        for good in ["web-0", "a.b", "kube-system", &"a".repeat(253)] {
            assert!(subdomain(good).is_ok(), "{good}");
        }
        for bad in ["", "A", "-a", "a-", "a..b", "a/b", &"a".repeat(254)] {
            assert!(subdomain(bad).is_err(), "{bad:?}");
        }
    }
}
