//! An OCI runtime that is runc without resource limits.
//!
//! In the hybrid cgroup layout the controllers are on cgroup v1, so that runc, which sees cgroup v2 in a
//! node, could apply none of the limits that containerd asks for and would fail.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use serde_json::{Value, json};

use crate::layout::read;
use crate::{Error, Result};

/// The name that this program answers to as an OCI runtime.
pub const WRAPPER_NAME: &str = "runc-without-limits";

/// Strips what cannot be applied from the bundle's config.json and becomes the `runc` beside the wrapper.
pub fn run(wrapper: &Path, arguments: &[String]) -> Result<()> {
    if let Some(bundle) = bundle(arguments) {
        let path = bundle.join("config.json");
        if path.exists() {
            let json = |cause| Error::Json { what: path.display().to_string(), cause };
            let mut config: Value = serde_json::from_str(&read(&path)?).map_err(json)?;
            strip(&mut config);
            let fresh = bundle.join("config.json.new");
            fs::write(&fresh, config.to_string()).map_err(Error::io("write", &fresh))?;
            fs::rename(&fresh, &path).map_err(Error::io("replace", &path))?;
        }
    }
    let runc = wrapper.with_file_name("runc");
    Err(Error::io("run", &runc)(Command::new(&runc).args(arguments).exec()))
}

/// The absolute path of the wrapper that this process was started as.
pub fn called_as() -> Option<PathBuf> {
    let name = PathBuf::from(env::args_os().next()?);
    (name.file_name()? == WRAPPER_NAME).then_some(name)
}

fn bundle(arguments: &[String]) -> Option<PathBuf> {
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        if word == "--bundle" || word == "-b" {
            return words.next().map(PathBuf::from);
        }
        if let Some(path) = word.strip_prefix("--bundle=") {
            return Some(PathBuf::from(path));
        }
    }
    None
}

/// Device rules stay, as those are BPF programs and need no controller; the seccomp profile goes, as
/// runc may be built without libseccomp.
fn strip(config: &mut Value) {
    let Some(linux) = config.get_mut("linux").and_then(Value::as_object_mut) else { return };
    let devices = linux.get("resources").and_then(|r| r.get("devices")).cloned().unwrap_or_else(|| json!([]));
    linux.insert("resources".into(), json!({ "devices": devices }));
    linux.remove("seccomp");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_devices_stay() {
        let mut config = json!({"process": {}, "linux": {
            "resources": {"devices": [{"allow": false}], "memory": {"limit": 1}, "cpu": {"shares": 2}},
            "seccomp": {"defaultAction": "x"}, "maskedPaths": ["/proc/kcore"]}});
        strip(&mut config);
        assert_eq!(
            config,
            json!({"process": {}, "linux": {
                "resources": {"devices": [{"allow": false}]}, "maskedPaths": ["/proc/kcore"]}})
        );
    }

    #[test]
    fn the_bundle_is_found_in_every_spelling() {
        let args = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(bundle(&args("--root /r create --bundle /b id")), Some("/b".into()));
        assert_eq!(bundle(&args("create -b /b id")), Some("/b".into()));
        assert_eq!(bundle(&args("create --bundle=/b id")), Some("/b".into()));
        assert_eq!(bundle(&args("delete id")), None);
    }
}
