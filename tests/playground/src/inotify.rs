//! How many inotify instances a user of this machine may have: every kubelet and every followed log takes some, and the
//! usual 128 are too few for many nodes on one machine.

use std::fs;
use std::path::{Path, PathBuf};

use crate::layout::{Layout, read, write};
use crate::{Error, Result};

const LIMIT: &str = "/proc/sys/fs/inotify/max_user_instances";
const ENOUGH: u32 = 1024;

/// Raises the limit if it is too low, and remembers what it was.
pub fn raise(layout: &Layout) -> Result<()> {
    let before = limit()?;
    if before < ENOUGH {
        write(&memory(layout), before.to_string())?;
        set(ENOUGH)?;
    }
    Ok(())
}

/// Puts the limit back to what it was, unless somebody else has changed it since.
pub fn restore(layout: &Layout) -> Result<()> {
    let memory = memory(layout);
    if !memory.exists() || limit()? != ENOUGH {
        return Ok(());
    }
    match read(&memory)?.parse() {
        Ok(before) => set(before),
        // Not written to its end: what it was is not known.
        Err(_) => Ok(()),
    }
}

fn memory(layout: &Layout) -> PathBuf {
    layout.root().join("inotify")
}

fn limit() -> Result<u32> {
    let text = read(Path::new(LIMIT))?;
    text.trim().parse().map_err(|_| Error::Invalid(format!("{LIMIT} is {text:?}")))
}

fn set(limit: u32) -> Result<()> {
    fs::write(LIMIT, limit.to_string()).map_err(Error::io("write", Path::new(LIMIT)))
}
