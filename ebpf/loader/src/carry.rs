//! Carries the content of maps from one generation over to the next.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use tombolo_abi::MapKind;

use crate::{
    conversion::{Conversion, ConversionError, PlanError},
    description::{Description, MapDescription},
    generation::Generation,
    sys,
    table::BATCH,
};

/// What is carried over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// Every entry, in place of those that are there: nobody uses the new maps yet.
    Everything,
    /// What the programs themselves remember, in place of those that are there.
    State,
    /// What the programs themselves remember and the new maps do not have: programs of both generations are running.
    NewState,
}

/// What became of the entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Carried {
    /// Entries written.
    pub entries: usize,
    /// Entries that have no form in the new generation, or no room.
    pub lost: usize,
}

/// A map cannot be carried over.
#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    /// Its records cannot be converted.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Its entries mean something else, and nobody has said how to convert them.
    #[error(
        "map {map} is of version {old} in generation {ordinal} and of version {new} here, and there is no conversion: traffic \
         goes on as it is; run `tombolo-node cleanup`, which ends all connections"
    )]
    Meaning {
        /// Its name.
        map: String,
        /// The generation it comes from.
        ordinal: u32,
        /// Its version there.
        old: u32,
        /// Its version here.
        new: u32,
    },
    /// It cannot be read or written.
    #[error("map {map} of generation {ordinal} cannot be carried over: {source}")]
    Map {
        /// Its name.
        map: String,
        /// The generation it comes from.
        ordinal: u32,
        /// Why.
        source: io::Error,
    },
}

/// Carries what is in the maps of all generations before, of which the last is the newest, to those pinned in `to`, which are
/// those of `layout`. The newest has the last word; tables are taken only from it.
pub fn carry_all(
    before: &[Generation],
    to: &Path,
    layout: &Description,
    what: What,
) -> Result<Carried, CarryError> {
    let mut sum = Carried::default();
    let Some((newest, others)) = before.split_last() else { return Ok(sum) };
    let of_others = if what == What::Everything { What::State } else { what };
    let mut all: Vec<_> = others.iter().map(|generation| (generation, of_others)).collect();
    all.push((newest, what));
    if what == What::NewState {
        // Who comes first stays.
        all.reverse();
    }
    for (generation, what) in all {
        let carried = carry(generation, to, layout, what)?;
        sum.entries += carried.entries;
        sum.lost += carried.lost;
    }
    Ok(sum)
}

/// Carries maps that both have from `from` to `to`.
fn carry(from: &Generation, to: &Path, layout: &Description, what: What) -> Result<Carried, CarryError> {
    let mut sum = Carried::default();
    for new in layout.maps.iter().filter(|map| is_meant(map.kind, what)) {
        let Some(old) = from.layout.map(&new.name) else { continue };
        if !means_the_same(old, new) {
            let (map, ordinal) = (new.name.clone(), from.ordinal);
            return Err(CarryError::Meaning { map, ordinal, old: old.version, new: new.version });
        }
        let failed = |source| CarryError::Map { map: new.name.clone(), ordinal: from.ordinal, source };
        let conversion = Conversion::between(old, new)?;
        let open = |directory: &Path| sys::open_pin(&directory.join(&new.name)).map_err(failed);
        let (source, target) = (open(&from.directory)?, open(to)?);
        let mut copy = Copy::new(&conversion, old, new, &target, what == What::NewState);
        copy.all(&source).map_err(failed)?;
        sum.entries += copy.carried.entries;
        sum.lost += copy.carried.lost;
    }
    Ok(sum)
}

/// Whether entries keep their meaning when their fields are copied.
fn means_the_same(old: &MapDescription, new: &MapDescription) -> bool {
    // Without flags, as 0.1.0 has written them, an entry is kept for long; 0.1.0 ignores them.
    const CONVERTIBLE: [(&str, u32, u32); 2] = [("SNAT", 1, 2), ("SNAT", 2, 1)];
    let versions = (new.name.as_str(), old.version, new.version);
    old.kind == new.kind && (old.version == new.version || CONVERTIBLE.contains(&versions))
}

/// Counters and events of a generation end with it.
const fn is_meant(kind: MapKind, what: What) -> bool {
    match kind {
        MapKind::LruHash => true,
        MapKind::Hash | MapKind::LpmTrie | MapKind::Array => matches!(what, What::Everything),
        MapKind::PerCpuArray | MapKind::RingBuf => false,
    }
}

/// Entries of a map on their way.
struct Copy<'a> {
    conversion: &'a Conversion,
    old: &'a MapDescription,
    target: BorrowedFd<'a>,
    key: Vec<u8>,
    value: Vec<u8>,
    only_new: bool,
    carried: Carried,
}

impl<'a> Copy<'a> {
    fn new(
        conversion: &'a Conversion,
        old: &'a MapDescription,
        new: &MapDescription,
        target: &'a OwnedFd,
        only_new: bool,
    ) -> Self {
        let (key, value) = (vec![0; new.key.size], vec![0; new.value.size]);
        Self { conversion, old, target: target.as_fd(), key, value, only_new, carried: Carried::default() }
    }

    fn all(&mut self, source: &OwnedFd) -> io::Result<()> {
        match self.old.kind {
            MapKind::Hash | MapKind::LruHash => self.in_batches(source),
            _ => self.by_key(source),
        }
    }

    /// The programs add and remove entries of such maps all the time, which a walk from key to key does not survive.
    fn in_batches(&mut self, source: &OwnedFd) -> io::Result<()> {
        let (key, value) = (self.old.key.size, self.old.value.size);
        let (mut keys, mut values) = (vec![0; key * BATCH], vec![0; value * BATCH]);
        let mut position = None;
        loop {
            let (count, more) =
                sys::lookup_batch(source.as_fd(), &mut position, &mut keys, &mut values, BATCH)?;
            for (key, value) in keys.chunks_exact(key).zip(values.chunks_exact(value)).take(count) {
                self.write(key, value)?;
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Only the agent writes tries, and arrays have all their keys: none goes away meanwhile.
    fn by_key(&mut self, source: &OwnedFd) -> io::Result<()> {
        let (mut key, mut value) = (vec![0; self.old.key.size], vec![0; self.old.value.size]);
        let mut more = sys::next_key(source.as_fd(), None, &mut key)?;
        while more {
            sys::lookup(source.as_fd(), &key, &mut value)?;
            // The entries of a new array are zero, so zeros need not be written; a shorter array has no place for them.
            let begins_so = self.old.kind == MapKind::Array && value.iter().all(|byte| *byte == 0);
            if !begins_so {
                self.write(&key, &value)?;
            }
            let before = key.clone();
            more = sys::next_key(source.as_fd(), Some(&before), &mut key)?;
        }
        Ok(())
    }

    fn write(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let converted = self.conversion.key(key, &mut self.key);
        match converted.and_then(|()| self.conversion.value(value, &mut self.value)) {
            Ok(()) => {}
            Err(ConversionError::TooLarge { .. }) => {
                self.carried.lost += 1;
                return Ok(());
            }
            Err(e @ ConversionError::Size { .. }) => return Err(io::Error::other(e)),
        }
        match sys::update(self.target, &self.key, &self.value, self.only_new) {
            Ok(()) => self.carried.entries += 1,
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
            Err(e) if matches!(e.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC)) => self.carried.lost += 1,
            Err(e) => return Err(e),
        }
        Ok(())
    }
}
