//! Loading the programs.

use std::{
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfError, EbpfLoader, VerifierLogLevel,
    programs::{Program, ProgramError},
};

use crate::{
    features::{self, FeatureError},
    maps::Maps,
    object::{Object, SOCK_LB, SOCK_LB_PROGRAMS, TC},
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
    objects: Vec<Ebpf>,
    replaced: Vec<&'static str>,
}

impl Datapath {
    /// Loads all programs, with the maps pinned in `pin_dir` (made if it does not exist). Maps that are there already
    /// are used as they are; see [`Self::replaced_maps`] for the exception. Nothing is attached.
    ///
    /// # Errors
    /// A kernel that lacks something, a directory that is not on a BPF filesystem, or a program that does not load.
    pub fn load(pin_dir: &Path) -> Result<Self, LoadError> {
        features::probe()?;
        let replaced = pins::prepare(pin_dir)?;
        let mut objects = Vec::new();
        for object in TC {
            objects.push(load_object(object, &[object.name], pin_dir)?);
        }
        objects.push(load_object(&SOCK_LB, &SOCK_LB_PROGRAMS.map(|(name, _)| name), pin_dir)?);
        Ok(Self { pin_dir: pin_dir.to_owned(), objects, replaced })
    }

    /// The maps that were pinned by a version with another layout, and have begun anew and empty.
    pub fn replaced_maps(&self) -> &[&'static str] {
        &self.replaced
    }

    /// The directory of pins.
    pub fn pin_dir(&self) -> &Path {
        &self.pin_dir
    }

    /// The maps.
    pub fn maps(&self) -> Maps {
        Maps::at(&self.pin_dir)
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
