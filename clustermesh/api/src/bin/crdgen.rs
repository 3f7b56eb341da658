//! Writes the custom resource definitions to `deploy/chart/crds`, or to the directory given.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let default = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/chart/crds"));
    let dir = env::args_os().nth(1).map_or(default, PathBuf::from);
    fs::create_dir_all(&dir)?;
    for (name, text) in tombolo_api::crds::files()? {
        fs::write(dir.join(name), text)?;
    }
    Ok(())
}
