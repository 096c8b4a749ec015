//! Loading the entry programs, and of each its twin and the variant that learns.
//!
//! Each is loaded when it is first wanted, so that a door does not stand open while the verifier
//! looks at programs for other kinds of doors; what was not wanted is loaded before a start ends.

use std::{
    fs,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{Program, ProgramError},
};
use ollama_guard_common::{Start, abi};

use super::{
    DataplaneError, Result,
    links::{Hook, Programs},
    object::OBJECT,
    pins::{self, NEW},
    probe::Features,
    ring::KernelLog,
    sys,
};

/// How to load.
pub(super) struct Loading<'a> {
    /// The directory with the maps' pins, which the programs are pinned beside. Maps that are not
    /// there yet are made and pinned.
    pub(super) directory: &'a Path,
    pub(super) features: Features,
    /// Whether the program may log what must never happen.
    pub(super) debug: bool,
    /// Where a verifier log goes.
    pub(super) log_directory: &'a Path,
}

/// Values of the globals.
static NO_AND_YES: [u32; 2] = [0, 1];
/// Values of [`aya_log::LEVEL`]: nothing, and with [`Loading::debug`].
static LOG_LEVELS: [u8; 2] = [0, aya_log::Level::Error as u8];

/// What is made of an entry program by the globals that are frozen when it is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    /// It filters.
    Usual,
    /// It filters the same way, and counts by source what it lets pass and what not.
    Learning,
    /// For test runs.
    Twin,
}

impl Variant {
    const fn pin(self, hook: Hook, start: Start) -> &'static str {
        match self {
            Self::Usual => pins::program_name(hook, start),
            Self::Learning => pins::learning_name(hook, start),
            Self::Twin => pins::twin_name(hook, start),
        }
    }
}

/// The entry programs of this process.
pub(super) struct Entries {
    /// In the order of [`pins::PROGRAMS`].
    loaded: [Option<OwnedFd>; pins::PROGRAMS.len()],
    /// The same programs, as they learn. There once everything is loaded.
    learning: [Option<OwnedFd>; pins::PROGRAMS.len()],
    /// Which of the two links are to run.
    is_learning: bool,
    /// Gone once everything is loaded.
    loader: Option<Loader>,
}

/// What loading takes.
struct Loader {
    /// One for all: each reads and parses the kernel's BTF when it is made (aya 0.14), 17 ms and
    /// a thousand calls, although nothing here is relocated against it.
    loader: EbpfLoader<'static>,
    directory: PathBuf,
    features: Features,
    debug: bool,
    log_directory: PathBuf,
    logs: Vec<KernelLog>,
}

impl Entries {
    /// Loads the program for most doors, and with it makes the maps that are not there yet.
    pub(super) fn open(loading: &Loading<'_>) -> Result<Self> {
        if OBJECT.is_empty() {
            return Err(DataplaneError::NoKernelProgram);
        }
        let mut loader = EbpfLoader::new();
        let load_bytes = &NO_AND_YES[usize::from(loading.features.multi_buffer)];
        loader
            .btf(None)
            .override_global(abi::globals::LOAD_BYTES, load_bytes, true)
            .override_global(aya_log::LEVEL, &LOG_LEVELS[usize::from(loading.debug)], false);
        for map in abi::maps::ALL {
            loader.map_pin_path(map, loading.directory.join(map));
        }
        let loader = Loader {
            loader,
            directory: loading.directory.to_owned(),
            features: loading.features,
            debug: loading.debug,
            log_directory: loading.log_directory.to_owned(),
            logs: Vec::new(),
        };
        let mut entries = Self {
            loaded: Default::default(),
            learning: Default::default(),
            is_learning: false,
            loader: Some(loader),
        };
        entries.get(Hook::Xdp, Start::Link)?;
        Ok(entries)
    }

    /// A program, which is loaded now if it was not wanted before.
    pub(super) fn get(&mut self, hook: Hook, start: Start) -> Result<BorrowedFd<'_>> {
        let place = &mut self.loaded[position(hook, start)];
        if let (None, Some(loader)) = (&place, &mut self.loader) {
            *place = Some(loader.program(hook, start, Variant::Usual)?);
        }
        self.loaded(hook, start)
    }

    /// From now on, links are to run the programs that learn, or again the usual ones.
    pub(super) const fn learn(&mut self, is_learning: bool) {
        self.is_learning = is_learning;
    }

    /// A program that was loaded before: the one that links are to run.
    pub(super) fn loaded(&self, hook: Hook, start: Start) -> Result<BorrowedFd<'_>> {
        self.one(self.is_learning, hook, start)
    }

    /// The one that they are to run if they are to learn, or not any more.
    pub(super) fn counterpart(&self, hook: Hook, start: Start) -> Result<BorrowedFd<'_>> {
        self.one(!self.is_learning, hook, start)
    }

    fn one(&self, is_learning: bool, hook: Hook, start: Start) -> Result<BorrowedFd<'_>> {
        let programs = if is_learning { &self.learning } else { &self.loaded };
        let place = programs[position(hook, start)].as_ref();
        place.map(|fd| fd.as_fd()).ok_or_else(|| {
            DataplaneError::Load(format!("{} is not loaded", pins::program_name(hook, start)))
        })
    }

    /// Those for one kind of devices.
    pub(super) const fn of(&mut self, start: Start) -> Of<'_> {
        Of { entries: self, start }
    }

    /// Loads what was not wanted yet, and the variants. Returns the readers of the programs' logs, with
    /// [`Loading::debug`]. From here on nothing is loaded.
    pub(super) fn load_the_rest(&mut self) -> Result<Vec<KernelLog>> {
        let features = self.loader.as_ref().map(|loader| loader.features);
        let programs = || {
            let has = move |hook| hook != Hook::Cgroup || features.is_none_or(|has| has.cgroups);
            pins::PROGRAMS.into_iter().filter(move |(hook, _)| has(*hook))
        };
        for (hook, start) in programs() {
            self.get(hook, start)?;
        }
        let Some(mut loader) = self.loader.take() else {
            return Ok(Vec::new());
        };
        for (hook, start) in programs() {
            loader.load(hook, start, Variant::Twin)?;
            let learning = loader.program(hook, start, Variant::Learning)?;
            self.learning[position(hook, start)] = Some(learning);
        }
        Ok(loader.logs)
    }
}

/// The entry programs for one kind of devices.
pub(super) struct Of<'a> {
    entries: &'a mut Entries,
    start: Start,
}

impl Programs for Of<'_> {
    fn at(&mut self, hook: Hook) -> Result<BorrowedFd<'_>> {
        self.entries.get(hook, self.start)
    }
}

impl Loader {
    /// Loads an entry program, pinned with the suffix [`NEW`] until the links run it.
    fn program(&mut self, hook: Hook, start: Start, variant: Variant) -> Result<OwnedFd> {
        let mut object = self.load(hook, start, variant)?;
        if self.debug {
            self.logs.push(KernelLog::open(&mut object)?);
        }
        let path = self.pin(variant.pin(hook, start));
        sys::obj_get(&path).map_err(DataplaneError::pin("open", path))
    }

    fn pin(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}{NEW}"))
    }

    /// Loads one program of a new object, and pins it.
    fn load(&mut self, hook: Hook, start: Start, variant: Variant) -> Result<Ebpf> {
        let name = program(hook, start, self.features.multi_buffer);
        for (global, is_set) in [
            (abi::globals::REPORT, variant != Variant::Twin),
            (abi::globals::LEARN, variant == Variant::Learning),
        ] {
            self.loader.override_global(global, &NO_AND_YES[usize::from(is_set)], true);
        }
        let mut object = self.loader.load(OBJECT).map_err(load_error)?;
        let program = object
            .program_mut(name)
            .ok_or_else(|| DataplaneError::Load(format!("the object has no program {name}")))?;
        let pin = self.pin(variant.pin(hook, start));
        pins::unpin(&pin)?;
        let loaded = match program {
            Program::Xdp(program) => program.load().map(|()| program.pin(&pin)),
            Program::SchedClassifier(program) => program.load().map(|()| program.pin(&pin)),
            Program::CgroupSkb(program) => program.load().map(|()| program.pin(&pin)),
            _ => return Err(DataplaneError::Load(format!("{name} is of no kind that is known"))),
        };
        loaded.map_err(|error| self.refused(name, error))?.map_err(load_error)?;
        Ok(object)
    }

    fn refused(&self, program: &'static str, error: ProgramError) -> DataplaneError {
        let ProgramError::LoadError { io_error, verifier_log } = error else {
            return load_error(error);
        };
        let log = self.log_directory.join(format!("verifier-{program}.log"));
        let log = match fs::write(&log, verifier_log.to_string()) {
            Ok(()) => log,
            Err(error) => PathBuf::from(format!("(not written: {}: {error})", log.display())),
        };
        DataplaneError::Refused { program, cause: io_error, log }
    }
}

/// Where a program stands in [`pins::PROGRAMS`]. TCX and clsact run the same one.
const fn position(hook: Hook, start: Start) -> usize {
    match (hook, start) {
        (Hook::Xdp, Start::Link) => 0,
        (Hook::Xdp, Start::Network | Start::Packet) => 1,
        (Hook::Tcx | Hook::Clsact, Start::Link) => 2,
        (Hook::Tcx | Hook::Clsact, Start::Network | Start::Packet) => 3,
        (Hook::Cgroup, _) => 4,
    }
}

/// Gives the programs pinned with [`NEW`] their final names, replacing older ones.
pub(super) fn commit(directory: &Path) -> Result<()> {
    for (hook, start) in pins::PROGRAMS {
        for name in pins::names(hook, start) {
            let from = directory.join(format!("{name}{NEW}"));
            if hook == Hook::Cgroup && !from.exists() {
                // This kernel has no such programs; whatever is there is of another one.
                pins::unpin(&directory.join(name))?;
                continue;
            }
            // Each was loaded. Should one not be there, its old pin would stay, and links would run what
            // is not the pinned program.
            fs::rename(&from, directory.join(name)).map_err(DataplaneError::pin("rename", from))?;
        }
    }
    Ok(())
}

/// Removes programs that were loaded and are not to run.
pub(super) fn discard(directory: &Path) -> Result<()> {
    for (hook, start) in pins::PROGRAMS {
        for name in pins::names(hook, start) {
            pins::unpin(&directory.join(format!("{name}{NEW}")))?;
        }
    }
    Ok(())
}

/// The entry program's name in the object.
pub(super) const fn program(hook: Hook, start: Start, multi_buffer: bool) -> &'static str {
    match (hook, start, multi_buffer) {
        (Hook::Xdp, Start::Link, true) => abi::programs::LINK_FRAGS,
        (Hook::Xdp, Start::Link, false) => abi::programs::LINK,
        (Hook::Xdp, Start::Network | Start::Packet, true) => abi::programs::NETWORK_FRAGS,
        (Hook::Xdp, Start::Network | Start::Packet, false) => abi::programs::NETWORK,
        (Hook::Tcx | Hook::Clsact, Start::Link, _) => abi::programs::TC_LINK,
        (Hook::Tcx | Hook::Clsact, Start::Network | Start::Packet, _) => abi::programs::TC_NETWORK,
        (Hook::Cgroup, ..) => abi::programs::INNER,
    }
}

pub(super) fn load_error(error: impl std::error::Error) -> DataplaneError {
    // aya's errors often hide the cause one level down.
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    DataplaneError::Load(text)
}
