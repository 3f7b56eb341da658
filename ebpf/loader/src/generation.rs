//! Generations of maps. The programs of an agent share maps of one layout, which are pinned in a directory of their own,
//! together with a description of the layout. An agent with another layout makes the next generation and carries the content
//! over; the programs of the one before run until the last of them is replaced.
//!
//! Release 0.1.0 has pinned its maps in the root of the pins, without a description: they are generation 0.

use std::{
    fs, io, iter,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use aya::maps::MapInfo;
use tombolo_abi::map;

use crate::{
    description::{Description, DescriptionError},
    layout::fits,
    pins::unless_gone,
    sys,
};

/// Beginning of the names of directories; the ordinal follows.
const PREFIX: &str = "generation-";
/// Name of a directory whose maps are not filled yet.
const PREPARING: &str = "preparing";
/// Name of the pin that describes the maps: an array with one value, a text that ends with the first zero.
const LAYOUT: &str = "LAYOUT";
/// Name of the same pin once programs of the generation may run.
const BEGUN: &str = "BEGUN";
/// Name of the same pin once the programs of no other generation run.
const ALONE: &str = "ALONE";
/// The layout of generation 0.
const FIRST: &str = include_str!("../layouts/0.1.0.txt");

/// A generation that is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Generation {
    /// Its number: later ones have larger numbers.
    pub ordinal: u32,
    /// Where its maps are pinned.
    pub directory: PathBuf,
    /// What they are.
    pub layout: Description,
}

/// The generations cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// A directory or a pin cannot be read or changed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A description is damaged.
    #[error(
        "what the maps in {directory} are cannot be told: {source}: traffic goes on as it is; run `tombolo-node cleanup`, \
         which ends all connections, or remove the directory, if it is not the newest"
    )]
    Description {
        /// The directory.
        directory: PathBuf,
        /// Why.
        source: DescriptionError,
    },
    /// A map is missing, or is another one than the description says.
    #[error(
        "{path} is not the map that it should be: traffic goes on as it is; run `tombolo-node cleanup`, which ends all \
         connections"
    )]
    Damaged {
        /// The pin.
        path: PathBuf,
    },
}

/// All generations in the order in which they were used.
pub fn all(root: &Path) -> Result<Vec<Generation>, GenerationError> {
    let mut generations = Vec::new();
    for (ordinal, directory) in directories(root)? {
        let layout = read_layout(&directory)?;
        generations.push(Generation { ordinal, directory, layout });
    }
    if root.join(map::FLOW.name).exists() {
        let layout = Description::parse(FIRST.as_bytes())
            .map_err(|source| GenerationError::Description { directory: root.to_owned(), source })?;
        let first = Generation { ordinal: 0, directory: root.to_owned(), layout };
        // An agent of that release may have been here again after a later one had been alone.
        let alone = generations.iter().rposition(|generation| generation.directory.join(ALONE).exists());
        generations.insert(alone.map_or(0, |before| before + 1), first);
    }
    Ok(generations)
}

/// Where the maps of the newest generation are, the root when there is none but the first.
pub fn newest(root: &Path) -> PathBuf {
    let newest = directories(root).ok().and_then(|mut all| all.pop());
    newest.map_or_else(|| root.to_owned(), |(_, directory)| directory)
}

/// Removes what an agent that was killed has left half made or half removed.
pub fn remove_leftovers(root: &Path) -> Result<(), GenerationError> {
    remove_directory(&root.join(PREPARING))?;
    if root.join(map::FLOW.name).exists() { Ok(()) } else { remove_first(root) }
}

/// Makes the directory of a generation that nobody has to find yet.
pub fn prepare(root: &Path, layout: &Description) -> Result<PathBuf, GenerationError> {
    let directory = root.join(PREPARING);
    let io = |source| GenerationError::Io { path: directory.clone(), source };
    fs::create_dir(&directory).map_err(io)?;
    let array = sys::create_array(Description::MAX_BYTES).map_err(io)?;
    let mut text = layout.to_string().into_bytes();
    text.resize(Description::MAX_BYTES, 0);
    sys::update(array.as_fd(), &[0; 4], &text, false).map_err(io)?;
    sys::pin(array.as_fd(), &directory.join(LAYOUT)).map_err(io)?;
    Ok(directory)
}

/// Gives the prepared directory its name: it is the newest.
pub fn publish(root: &Path) -> Result<PathBuf, GenerationError> {
    let ordinal = directories(root)?.last().map_or(1, |(newest, _)| newest.saturating_add(1));
    let (prepared, directory) = (root.join(PREPARING), root.join(format!("{PREFIX}{ordinal}")));
    fs::rename(&prepared, &directory)
        .map_err(|source| GenerationError::Io { path: directory.clone(), source })?;
    Ok(directory)
}

/// Notes that programs of the generation may run from now on.
pub fn note_begun(directory: &Path) -> Result<(), GenerationError> {
    note(directory, BEGUN)
}

/// Whether programs of the generation may ever have run. Where not, what it holds is an old copy.
pub fn has_begun(generation: &Generation) -> bool {
    let noted = |name: &str| generation.directory.join(name).exists();
    generation.ordinal == 0 || noted(BEGUN) || noted(ALONE)
}

/// Notes that no other generation is in use.
pub fn note_alone(directory: &Path) -> Result<(), GenerationError> {
    note(directory, ALONE)
}

fn note(directory: &Path, name: &str) -> Result<(), GenerationError> {
    let path = directory.join(name);
    let noted = sys::open_pin(&directory.join(LAYOUT)).and_then(|layout| sys::pin(layout.as_fd(), &path));
    match noted {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(GenerationError::Io { path, source: e }),
        _ => Ok(()),
    }
}

/// Fails unless each map is pinned and has kind and sizes of the layout.
pub fn check(generation: &Generation) -> Result<(), GenerationError> {
    for map in &generation.layout.maps {
        let path = generation.directory.join(&map.name);
        if !MapInfo::from_pin(&path).is_ok_and(|info| fits(map, &info)) {
            return Err(GenerationError::Damaged { path });
        }
    }
    Ok(())
}

/// Removes a generation, in a first step that an agent killed thereafter does not find any more. Programs that still use its
/// maps keep them.
pub fn remove(root: &Path, generation: &Generation) -> Result<(), GenerationError> {
    if generation.directory == root {
        return remove_first(root);
    }
    let (path, leftover) = (generation.directory.clone(), root.join(PREPARING));
    fs::rename(&path, &leftover).map_err(|source| GenerationError::Io { path, source })?;
    remove_directory(&leftover)
}

/// Removes generation 0: the map that it is told by goes first.
fn remove_first(root: &Path) -> Result<(), GenerationError> {
    for map in iter::once(&map::FLOW).chain(map::ALL) {
        let path = root.join(map.name);
        unless_gone(fs::remove_file(&path)).map_err(|source| GenerationError::Io { path, source })?;
    }
    Ok(())
}

/// The directories by ordinal.
fn directories(root: &Path) -> Result<Vec<(u32, PathBuf)>, GenerationError> {
    let io = |source| GenerationError::Io { path: root.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(root).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        let ordinal = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|n| n.parse().ok());
        found.extend(ordinal.map(|ordinal| (ordinal, entry.path())));
    }
    found.sort_unstable();
    Ok(found)
}

fn read_layout(directory: &Path) -> Result<Description, GenerationError> {
    let path = directory.join(LAYOUT);
    let mut text = vec![0; Description::MAX_BYTES];
    let fits = MapInfo::from_pin(&path)
        .is_ok_and(|info| info.key_size() == 4 && info.value_size() as usize == Description::MAX_BYTES);
    if !fits {
        return Err(GenerationError::Damaged { path });
    }
    let read = sys::open_pin(&path).and_then(|array| sys::lookup(array.as_fd(), &[0; 4], &mut text));
    read.map_err(|source| GenerationError::Io { path, source })?;
    let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
    Description::parse(text)
        .map_err(|source| GenerationError::Description { directory: directory.to_owned(), source })
}

fn remove_directory(directory: &Path) -> Result<(), GenerationError> {
    unless_gone(fs::remove_dir_all(directory))
        .map_err(|source| GenerationError::Io { path: directory.to_owned(), source })
}
