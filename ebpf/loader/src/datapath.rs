//! Loading the programs.

use std::{
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use aya::{
    Ebpf, EbpfError, EbpfLoader, VerifierLogLevel,
    programs::{Program, ProgramError},
};

use crate::{
    AttachError,
    carry::{Carried, CarryError, What, carry_all},
    description::Description,
    features::{self, FeatureError},
    generation::{self, Generation, GenerationError},
    handover::{self, HandoverError},
    maps::Maps,
    memory::{self, MemoryError},
    object::{FLOOR, Object, SOCK_LB, SOCK_LB_PROGRAMS, TC},
    pins::{self, PinDirError},
};

/// The programs cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel lacks something.
    #[error(transparent)]
    Feature(#[from] FeatureError),
    /// The directory of pins cannot be used.
    #[error(transparent)]
    PinDir(#[from] PinDirError),
    /// The generations of maps cannot be told or changed.
    #[error(transparent)]
    Generation(#[from] GenerationError),
    /// There is no memory for another generation.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The programs of both versions cannot be put side by side.
    #[error(transparent)]
    Handover(#[from] HandoverError),
    /// What is in the maps cannot be carried over.
    #[error(transparent)]
    Carry(#[from] CarryError),
    /// The maps of an object cannot be made or opened.
    #[error("object {name}: {source}")]
    Object {
        /// The object.
        name: &'static str,
        /// Why.
        source: EbpfError,
    },
    /// The kernel refuses a program.
    #[error("program {name} does not load: {source}")]
    Program {
        /// The program.
        name: &'static str,
        /// Why, with the verifier's log.
        source: ProgramError,
    },
    /// An object lacks a program it should hold.
    #[error("program {0} is missing from its object")]
    Missing(&'static str),
}

/// What the verifier and the compiler thought of a program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProgramStats {
    /// Its name.
    pub name: String,
    /// Instructions the verifier walked through.
    pub verified_instructions: u32,
    /// Bytes of machine code.
    pub jited_bytes: u32,
}

/// The loaded programs and the maps they share. Dropping it leaves attached programs and pinned maps as they are.
pub struct Datapath {
    pub(crate) pin_dir: PathBuf,
    /// Where the maps are pinned, below `pin_dir`.
    directory: PathBuf,
    layout: Description,
    objects: Vec<Ebpf>,
    /// Generations before this one whose programs may still run, the newest last.
    before: Mutex<Vec<Generation>>,
    /// Whether no program of this generation has ever run.
    is_new: bool,
}

impl Datapath {
    /// Loads all programs, with the maps pinned below `pin_dir` (made if it does not exist). Maps of this version that are
    /// there already are used as they are. Where another version was here last, this one has maps of its own, with what
    /// is in the other's; then a handover is due ([`Self::begin_handover`] and those that follow it). Nothing is attached,
    /// and what runs goes on.
    ///
    /// # Errors
    /// A kernel that lacks something, a directory that is not on a BPF filesystem, maps that are not what they should be
    /// or cannot be carried over, too little memory for both, or a program that does not load.
    pub fn load(pin_dir: &Path) -> Result<Self, LoadError> {
        features::probe()?;
        pins::prepare(pin_dir)?;
        let layout = Description::current();
        generation::remove_leftovers(pin_dir)?;
        let mut before = generation::all(pin_dir)?;
        while let Some(unused) = before.pop_if(|newest| !generation::has_begun(newest)) {
            generation::remove(pin_dir, &unused)?;
        }
        let own = before.pop_if(|newest| newest.layout == layout);
        let is_new = own.is_none();
        let (directory, objects) = match own {
            Some(own) => {
                generation::check(&own)?;
                let objects = load_objects(&own.directory)?;
                (own.directory, objects)
            }
            None => begin(pin_dir, &layout, &before)?,
        };
        if before.is_empty() {
            generation::note_alone(&directory)?;
        }
        let before = Mutex::new(before);
        Ok(Self { pin_dir: pin_dir.to_owned(), directory, layout, objects, before, is_new })
    }

    /// Loads a further program, `floor`, which does the least that any datapath does. Only benchmarks run it.
    ///
    /// # Errors
    /// It does not load.
    pub fn load_floor(&mut self) -> Result<(), LoadError> {
        self.objects.push(load_object(&FLOOR, &[FLOOR.name], &self.directory)?);
        Ok(())
    }

    /// The number of the generation before, while its programs may still run.
    pub fn generation_before(&self) -> Option<u32> {
        self.before().last().map(|before| before.ordinal)
    }

    /// Before the first program is attached: carries over once more what the programs of the generation before remember,
    /// and has them run beside those of this one, which then must be told [`ConfigFlags::BEFORE_OPENS`] at first, then
    /// [`ConfigFlags::BEFORE_KNOWS`].
    ///
    /// [`ConfigFlags::BEFORE_OPENS`]: tombolo_abi::ConfigFlags::BEFORE_OPENS
    /// [`ConfigFlags::BEFORE_KNOWS`]: tombolo_abi::ConfigFlags::BEFORE_KNOWS
    ///
    /// # Errors
    /// A map cannot be read or written, or the programs are not found.
    pub fn begin_handover(&self) -> Result<Carried, LoadError> {
        handover::begin(&self.directory, &self.before())?;
        handover::keep_links(&self.pin_dir)?;
        generation::note_begun(&self.directory)?;
        self.carry(if self.is_new { What::State } else { What::NewState })
    }

    /// After the last program is attached: carries over what the programs of the generation before have noted since. To be
    /// called before these programs are told to open connections themselves, at once thereafter, and again when all packets
    /// that were on their way then have arrived.
    ///
    /// # Errors
    /// A map cannot be read or written.
    pub fn carry_new(&self) -> Result<Carried, LoadError> {
        self.carry(What::NewState)
    }

    /// After the programs have been told that the handover is over: lets those of the generations before go, with their maps,
    /// also from devices that nobody asks for any more.
    ///
    /// # Errors
    /// A program cannot be replaced, or a pin not be removed.
    pub fn end_handover(&self) -> Result<(), AttachError> {
        self.replace_everywhere()?;
        Ok(self.remove_before()?)
    }

    fn remove_before(&self) -> Result<(), LoadError> {
        let mut before = self.before();
        handover::end(&self.pin_dir, &self.directory)?;
        for generation in before.iter() {
            generation::remove(&self.pin_dir, generation)?;
        }
        before.clear();
        Ok(generation::note_alone(&self.directory)?)
    }

    fn before(&self) -> MutexGuard<'_, Vec<Generation>> {
        self.before.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn carry(&self, what: What) -> Result<Carried, LoadError> {
        Ok(carry_all(&self.before(), &self.directory, &self.layout, what)?)
    }

    /// The directory of pins.
    pub fn pin_dir(&self) -> &Path {
        &self.pin_dir
    }

    /// The maps.
    pub fn maps(&self) -> Maps {
        Maps::at(&self.directory)
    }

    /// What the verifier thought of each program.
    pub fn stats(&self) -> Vec<ProgramStats> {
        let programs = self.objects.iter().flat_map(Ebpf::programs);
        programs
            .filter_map(|(name, program)| {
                let info = program.info().ok()?;
                Some(ProgramStats {
                    name: name.to_owned(),
                    verified_instructions: info.verified_instruction_count().unwrap_or(0),
                    jited_bytes: info.size_jitted(),
                })
            })
            .collect()
    }

    pub(crate) fn program(&self, name: &str) -> Option<&Program> {
        self.objects.iter().find_map(|object| object.program(name))
    }

    pub(crate) fn fd(&self, name: &'static str) -> Result<BorrowedFd<'_>, LoadError> {
        let program = self.program(name).ok_or(LoadError::Missing(name))?;
        let fd = match program {
            Program::SchedClassifier(p) => p.fd(),
            Program::CgroupSockAddr(p) => p.fd(),
            _ => return Err(LoadError::Missing(name)),
        };
        fd.map(AsFd::as_fd).map_err(|source| LoadError::Program { name, source })
    }
}

/// Makes the next generation, with what is in the maps of those before, the newest of which is the last.
fn begin(
    root: &Path,
    layout: &Description,
    before: &[Generation],
) -> Result<(PathBuf, Vec<Ebpf>), LoadError> {
    for before in before {
        generation::check(before)?;
    }
    if let Some(newest) = before.last() {
        memory::check(newest)?;
    }
    let prepared = generation::prepare(root, layout)?;
    let objects = load_objects(&prepared)?;
    carry_all(before, &prepared, layout, What::Everything)?;
    Ok((generation::publish(root)?, objects))
}

fn load_objects(directory: &Path) -> Result<Vec<Ebpf>, LoadError> {
    let mut objects = Vec::new();
    for object in TC {
        objects.push(load_object(object, &[object.name], directory)?);
    }
    objects.push(load_object(&SOCK_LB, &SOCK_LB_PROGRAMS.map(|(name, _)| name), directory)?);
    Ok(objects)
}

fn load_object(object: &Object, names: &[&'static str], pin_dir: &Path) -> Result<Ebpf, LoadError> {
    let mut ebpf = EbpfLoader::new()
        .verifier_log_level(VerifierLogLevel::STATS)
        .default_map_pin_directory(pin_dir)
        .load(object.bytes)
        .map_err(|source| LoadError::Object { name: object.name, source })?;
    for &name in names {
        let loaded = match ebpf.program_mut(name) {
            Some(Program::SchedClassifier(program)) => program.load(),
            Some(Program::CgroupSockAddr(program)) => program.load(),
            _ => return Err(LoadError::Missing(name)),
        };
        loaded.map_err(|source| LoadError::Program { name, source })?;
    }
    Ok(ebpf)
}
