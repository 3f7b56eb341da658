//! What the kernel must offer.

use std::path::Path;

use aya::util::KernelVersion;

/// The oldest kernel with tcx links.
pub const OLDEST: (u8, u8) = (6, 6);

/// Something that is required is missing.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FeatureError {
    /// The version cannot be read.
    #[error("the kernel's version cannot be read: {0}")]
    Version(String),
    /// Too old.
    #[error("Linux {found} is too old: tombolo needs {major}.{minor} or later", major = OLDEST.0, minor = OLDEST.1)]
    TooOld {
        /// The running version.
        found: String,
    },
    /// Not root.
    #[error("BPF programs can be loaded only by root: run as root or with CAP_BPF and CAP_NET_ADMIN")]
    NotRoot,
    /// No type information.
    #[error("the kernel has no BTF (/sys/kernel/btf/vmlinux): use one built with CONFIG_DEBUG_INFO_BTF=y")]
    NoBtf,
}

/// What the kernel offers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Features {
    /// Its version.
    pub version: String,
    /// Whether it describes its types.
    pub btf: bool,
}

/// Finds out what the kernel offers.
///
/// # Errors
/// What is required and missing, with the remedy.
pub fn probe() -> Result<Features, FeatureError> {
    let version = KernelVersion::current().map_err(|e| FeatureError::Version(e.to_string()))?;
    let found = nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .map_err(|e| FeatureError::Version(e.to_string()))?;
    if !is_new_enough(version) {
        return Err(FeatureError::TooOld { found });
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(FeatureError::NotRoot);
    }
    let btf = Path::new("/sys/kernel/btf/vmlinux").exists();
    if !btf {
        return Err(FeatureError::NoBtf);
    }
    Ok(Features { version: found, btf })
}

fn is_new_enough(version: KernelVersion) -> bool {
    version >= KernelVersion::new(OLDEST.0, OLDEST.1, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_kernel_is_that_of_the_readme() {
        for (major, minor, patch) in [(6, 6, 0), (6, 18, 5), (7, 0, 0)] {
            assert!(is_new_enough(KernelVersion::new(major, minor, patch)), "{major}.{minor}");
        }
        for (major, minor, patch) in [(6, 5, 255), (5, 19, 0), (2, 6, 78)] {
            assert!(!is_new_enough(KernelVersion::new(major, minor, patch)), "{major}.{minor}");
        }
        let readme = include_str!("../../../README.md").split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(readme.contains(&format!("Built for Linux {}.{} or later", OLDEST.0, OLDEST.1)));
    }
}
