//! Container images without a container engine: archives that containerd, docker and podman load.
//!
//! The archive is a `docker save` tar (manifest.json, configuration, one layer). Equal input gives equal
//! bytes: entries are sorted, times are 0, owners are root.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use crate::{Error, Result};

/// Collects what shall be in an image.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    name: String,
    entrypoint: Vec<String>,
    labels: BTreeMap<String, String>,
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone)]
enum Entry {
    Directory { mode: u32 },
    File { source: Source, mode: u32 },
    Link { target: String },
}

#[derive(Debug, Clone)]
enum Source {
    Host(PathBuf),
    Bytes(Vec<u8>),
}

impl Builder {
    /// An image with this reference, `name:tag`, and the directories and accounts that programs expect.
    pub fn new(reference: &str) -> Result<Self> {
        let tagged = reference.rsplit_once(':').is_some_and(|(name, tag)| {
            !name.is_empty()
                && !tag.is_empty()
                && !tag.contains('/')
                && !reference.contains(char::is_whitespace)
        });
        if !tagged {
            return Err(Error::Invalid(format!("image reference is {reference:?}; give it as name:tag")));
        }
        let mut builder = Self { name: reference.to_owned(), ..Self::default() };
        for dir in ["bin", "dev", "etc", "proc", "run", "sys", "usr", "usr/bin", "var"] {
            builder.entries.insert(dir.into(), Entry::Directory { mode: 0o755 });
        }
        builder.entries.insert("tmp".into(), Entry::Directory { mode: 0o1777 });
        let accounts = "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
        builder.bytes("/etc/passwd", accounts.as_bytes().to_vec(), 0o644)?.bytes(
            "/etc/group",
            b"root:x:0:\nnobody:x:65534:\n".to_vec(),
            0o644,
        )
    }

    /// What the container runs.
    pub fn entrypoint(mut self, words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.entrypoint = words.into_iter().map(Into::into).collect();
        self
    }

    /// Adds a label.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Adds a file of this machine at an absolute path of the image; `mode` is the permission bits.
    pub fn file(self, source: impl Into<PathBuf>, path: &str, mode: u32) -> Result<Self> {
        self.entry(path, Entry::File { source: Source::Host(source.into()), mode })
    }

    /// Adds a file with this content.
    pub fn bytes(self, path: &str, content: Vec<u8>, mode: u32) -> Result<Self> {
        self.entry(path, Entry::File { source: Source::Bytes(content), mode })
    }

    /// Adds a symbolic link.
    pub fn link(self, path: &str, target: &str) -> Result<Self> {
        self.entry(path, Entry::Link { target: target.to_owned() })
    }

    /// The whole archive.
    pub fn build(&self) -> Result<Vec<u8>> {
        let layer = self.layer()?;
        let config = json!({
            "architecture": match std::env::consts::ARCH { "x86_64" => "amd64", "aarch64" => "arm64", other => other },
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Labels": self.labels,
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex_digest(&layer))]},
        })
        .to_string();
        let config_name = format!("{}.json", hex_digest(config.as_bytes()));
        let manifest =
            json!([{"Config": config_name, "RepoTags": [self.name], "Layers": ["layer.tar"]}]).to_string();
        let mut archive = tar::Builder::new(Vec::with_capacity(layer.len() + 8192));
        for (name, content) in [
            (config_name.as_str(), config.as_bytes()),
            ("layer.tar", &layer),
            ("manifest.json", manifest.as_bytes()),
        ] {
            append(&mut archive, name, EntryType::Regular, 0o644, content)?;
        }
        archive.into_inner().map_err(Error::io("build the archive of", &self.name))
    }

    /// Writes the archive; the file appears whole or not at all.
    pub fn write(&self, path: &Path) -> Result<()> {
        let fresh = path.with_extension("new");
        crate::layout::write(&fresh, self.build()?)?;
        fs::rename(&fresh, path).map_err(Error::io("create", path))
    }

    fn entry(mut self, path: &str, entry: Entry) -> Result<Self> {
        let inner = path.strip_prefix('/').unwrap_or_default();
        let clean = !inner.is_empty() && inner.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !clean {
            return Err(Error::Invalid(format!(
                "path in the image is {path:?}; give it absolute and without . or .."
            )));
        }
        let parts: Vec<&str> = inner.split('/').collect();
        for end in 1..parts.len() {
            let parent = parts.iter().take(end).copied().collect::<Vec<_>>().join("/");
            self.entries.entry(parent).or_insert(Entry::Directory { mode: 0o755 });
        }
        self.entries.insert(inner.to_owned(), entry);
        Ok(self)
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            match entry {
                Entry::Directory { mode } => append(&mut archive, path, EntryType::Directory, *mode, &[])?,
                Entry::Link { target } => {
                    let mut header = header(EntryType::Symlink, 0o777, 0);
                    archive.append_link(&mut header, path, target).map_err(Error::io("add", path))?;
                }
                Entry::File { source: Source::Bytes(content), mode } => {
                    append(&mut archive, path, EntryType::Regular, *mode, content)?;
                }
                Entry::File { source: Source::Host(file), mode } => {
                    let content = fs::read(file).map_err(Error::io("read", file))?;
                    append(&mut archive, path, EntryType::Regular, *mode, &content)?;
                }
            }
        }
        archive.into_inner().map_err(Error::io("build the layer of", &self.name))
    }
}

fn append(
    archive: &mut tar::Builder<Vec<u8>>,
    path: &str,
    kind: EntryType,
    mode: u32,
    content: &[u8],
) -> Result<()> {
    let mut header = header(kind, mode, content.len() as u64);
    archive.append_data(&mut header, path, content).map_err(Error::io("add", path))
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// The SHA-256 digest in lower-case hexadecimal.
pub fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn sample() -> Builder {
        Builder::new("localhost/sample:1")
            .unwrap()
            .entrypoint(["/bin/app", "run"])
            .label("org.example", "yes")
            .bytes("/opt/data/b", b"bee".to_vec(), 0o600)
            .unwrap()
            .bytes("/bin/app", b"app".to_vec(), 0o755)
            .unwrap()
            .link("/bin/alias", "app")
            .unwrap()
    }

    fn contents(archive: &[u8]) -> BTreeMap<String, (u32, Vec<u8>)> {
        let mut archive = tar::Archive::new(archive);
        let mut found = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            assert_eq!(entry.header().mtime().unwrap(), 0);
            assert_eq!((entry.header().uid().unwrap(), entry.header().gid().unwrap()), (0, 0));
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            found.insert(path, (entry.header().mode().unwrap(), content));
        }
        found
    }

    #[test]
    fn equal_input_gives_equal_bytes() {
        let reordered = Builder::new("localhost/sample:1")
            .unwrap()
            .link("/bin/alias", "app")
            .unwrap()
            .bytes("/bin/app", b"app".to_vec(), 0o755)
            .unwrap()
            .bytes("/opt/data/b", b"bee".to_vec(), 0o600)
            .unwrap()
            .label("org.example", "yes")
            .entrypoint(["/bin/app", "run"]);
        assert_eq!(sample().build().unwrap(), reordered.build().unwrap());
    }

    #[test]
    fn the_manifest_names_what_is_there() {
        let outer = contents(&sample().build().unwrap());
        let manifest: serde_json::Value = serde_json::from_slice(&outer["manifest.json"].1).unwrap();
        assert_eq!(manifest[0]["RepoTags"][0], "localhost/sample:1");
        let config_name = manifest[0]["Config"].as_str().unwrap();
        assert_eq!(config_name, format!("{}.json", hex_digest(&outer[config_name].1)));
        let config: serde_json::Value = serde_json::from_slice(&outer[config_name].1).unwrap();
        let layer = &outer[manifest[0]["Layers"][0].as_str().unwrap()].1;
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", hex_digest(layer)));
        assert_eq!(config["config"]["Entrypoint"], json!(["/bin/app", "run"]));
        assert_eq!(config["config"]["Labels"]["org.example"], "yes");
    }

    #[test]
    fn the_layer_has_parents_before_children_and_modes() {
        let outer = contents(&sample().build().unwrap());
        let layer = contents(&outer["layer.tar"].1);
        assert_eq!(layer["opt/data/b"], (0o600, b"bee".to_vec()));
        assert_eq!(layer["bin/app"].0, 0o755);
        let mut archive = tar::Archive::new(outer["layer.tar"].1.as_slice());
        let paths = archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned());
        let order: Vec<PathBuf> = paths.collect();
        let at = |path: &str| order.iter().position(|entry| entry.as_path() == Path::new(path)).unwrap();
        assert!(at("opt") < at("opt/data") && at("opt/data") < at("opt/data/b"), "{order:?}");
        assert!(at("bin") < at("bin/alias"), "{order:?}");
    }

    #[test]
    fn bad_names_and_paths_are_refused() {
        for bad in ["", "a", ":1", "a:", "localhost:5000/a", "a b:1"] {
            assert!(Builder::new(bad).is_err(), "{bad}");
        }
        for bad in ["relative", "/", "/a/../b", "/a//b", "/./a"] {
            assert!(sample().bytes(bad, Vec::new(), 0o644).is_err(), "{bad}");
        }
    }
}
