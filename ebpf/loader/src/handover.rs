//! The programs of two versions side by side: each program of this one goes on with that of the version before where it does
//! not know a connection (`ebpf/datapath`, `handover`), and cgroup programs that look addresses up run in both versions.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    maps::{Map, MapData, MapError, MapInfo, ProgramArray},
    programs::{ProgramError, ProgramInfo, loaded_programs},
};
use tombolo_abi::{DeviceProgram, map};

use crate::{attach::cgroup_pin, generation::Generation, object::SOCK_LB_LOOKUPS, pins};

/// The programs of both versions cannot be put side by side.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The maps of the version before cannot be told.
    #[error("the maps of the version before cannot be looked at: {0}")]
    Maps(MapError),
    /// The programs cannot be listed.
    #[error("the programs of the version before cannot be found: {0}")]
    Programs(ProgramError),
    /// The array cannot be written.
    #[error("map {name} cannot be written: {0}", name = map::PREVIOUS)]
    Array(MapError),
    /// A pinned link cannot be renamed or removed.
    #[error("pinned link {path}: {source}")]
    Link {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Leads from the programs whose maps are in `directory` to those of the newest generation before, of which the last is the
/// newest, that has a program of the name. One that none has was attached nowhere.
pub fn begin(directory: &Path, before: &[Generation]) -> Result<(), HandoverError> {
    let mut array = previous(directory)?;
    let mut flows = Vec::new();
    for generation in before.iter().rev() {
        let flow = MapInfo::from_pin(generation.directory.join(map::FLOW.name));
        flows.push(flow.map_err(HandoverError::Maps)?.id());
    }
    for program in DeviceProgram::ALL {
        for flow in &flows {
            if let Some(found) = find(program.name(), *flow)? {
                let found = found.fd().map_err(HandoverError::Programs)?;
                array.set(*program as u32, &found, 0).map_err(HandoverError::Array)?;
                break;
            }
        }
    }
    Ok(())
}

/// Lets the programs of the version before go.
pub fn end(pin_dir: &Path, directory: &Path) -> Result<(), HandoverError> {
    let mut array = previous(directory)?;
    for program in DeviceProgram::ALL {
        // Some are empty.
        let _ = array.clear_index(&(*program as u32));
    }
    for program in SOCK_LB_LOOKUPS {
        let path = former_link(pin_dir, program);
        pins::unless_gone(fs::remove_file(&path)).map_err(|source| HandoverError::Link { path, source })?;
    }
    Ok(())
}

/// Moves the links of cgroup programs that look addresses up out of the way, so that they stay beside those of this version.
pub fn keep_links(pin_dir: &Path) -> Result<(), HandoverError> {
    for program in SOCK_LB_LOOKUPS {
        let (link, kept) = (cgroup_pin(pin_dir, program), former_link(pin_dir, program));
        if !kept.exists() && link.exists() {
            fs::rename(&link, &kept).map_err(|source| HandoverError::Link { path: link, source })?;
        }
    }
    Ok(())
}

fn former_link(pin_dir: &Path, program: &str) -> PathBuf {
    pins::links(pin_dir).join(format!("before_sock_lb-{program}"))
}

fn previous(directory: &Path) -> Result<ProgramArray<MapData>, HandoverError> {
    let data = MapData::from_pin(directory.join(map::PREVIOUS)).map_err(HandoverError::Array)?;
    ProgramArray::try_from(Map::ProgramArray(data)).map_err(HandoverError::Array)
}

/// The youngest program of this name that uses the map.
fn find(name: &str, map: u32) -> Result<Option<ProgramInfo>, HandoverError> {
    let mut youngest: Option<ProgramInfo> = None;
    for program in loaded_programs() {
        // One that has gone meanwhile.
        let Ok(program) = program else { continue };
        let uses = |ids: Option<Vec<u32>>| ids.is_some_and(|ids| ids.contains(&map));
        let is_it = program.name_as_str() == Some(name)
            && program.map_ids().map(uses).map_err(HandoverError::Programs)?;
        if is_it && youngest.as_ref().is_none_or(|other| other.id() < program.id()) {
            youngest = Some(program);
        }
    }
    Ok(youngest)
}
