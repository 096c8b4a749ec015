//! Loading the entry programs and their twins.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{Program, ProgramError, SchedClassifier, Xdp},
};
use ollama_guard_common::{Start, abi};

use super::{
    DataplaneError, Result, links::Hook, object::OBJECT, pins, pins::NEW, probe::Features,
    ring::KernelLog,
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

/// Values of [`abi::globals::REPORT`]: of a twin, and of a program that is attached.
static REPORT: [u32; 2] = [0, 1];

impl Loading<'_> {
    /// Loads every entry program and its twin, and pins them with the suffix [`NEW`] until the links
    /// run them.
    ///
    /// Returns the readers of the programs' logs, with [`Loading::debug`].
    pub(super) fn load_all(&self) -> Result<Vec<KernelLog>> {
        if OBJECT.is_empty() {
            return Err(DataplaneError::NoKernelProgram);
        }
        let level = if self.debug { aya_log::Level::Error as u8 } else { 0 };
        let load_bytes = u32::from(self.features.multi_buffer);
        // One for all: each reads and parses the kernel's BTF when it is made (aya 0.14), 17 ms and
        // a thousand calls, although nothing here is relocated against it.
        let mut loader = EbpfLoader::new();
        loader
            .btf(None)
            .override_global(abi::globals::LOAD_BYTES, &load_bytes, true)
            .override_global(aya_log::LEVEL, &level, false);
        for map in abi::maps::ALL {
            loader.map_pin_path(map, self.directory.join(map));
        }
        let mut logs = Vec::new();
        for (hook, start) in pins::PROGRAMS {
            let name = program(hook, start, self.features.multi_buffer);
            loader.override_global(abi::globals::REPORT, &REPORT[1], true);
            let mut object = self.load_one(&mut loader, name, pins::program_name(hook, start))?;
            if self.debug {
                logs.push(KernelLog::open(&mut object)?);
            }
            loader.override_global(abi::globals::REPORT, &REPORT[0], true);
            self.load_one(&mut loader, name, pins::twin_name(hook, start))?;
        }
        Ok(logs)
    }

    /// Loads one program of a new object, and pins it.
    fn load_one(
        &self,
        loader: &mut EbpfLoader<'_>,
        name: &'static str,
        pin_name: &str,
    ) -> Result<Ebpf> {
        let mut object = loader.load(OBJECT).map_err(load_error)?;
        let program = object
            .program_mut(name)
            .ok_or_else(|| DataplaneError::Load(format!("the object has no program {name}")))?;
        let pin = self.directory.join(format!("{pin_name}{NEW}"));
        pins::unpin(&pin)?;
        if matches!(program, Program::Xdp(_)) {
            let program: &mut Xdp = program.try_into().map_err(load_error)?;
            program.load().map_err(|error| self.refused(name, error))?;
            program.pin(&pin).map_err(load_error)?;
        } else {
            let program: &mut SchedClassifier = program.try_into().map_err(load_error)?;
            program.load().map_err(|error| self.refused(name, error))?;
            program.pin(&pin).map_err(load_error)?;
        }
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

/// Gives the programs pinned with [`NEW`] their final names, replacing older ones.
pub(super) fn commit(directory: &Path) -> Result<()> {
    for (hook, start) in pins::PROGRAMS {
        for name in [pins::program_name(hook, start), pins::twin_name(hook, start)] {
            let from = directory.join(format!("{name}{NEW}"));
            match fs::rename(&from, directory.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(DataplaneError::pin("rename", from)(error));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Removes programs that were loaded and are not to run.
pub(super) fn discard(directory: &Path) -> Result<()> {
    for (hook, start) in pins::PROGRAMS {
        for name in [pins::program_name(hook, start), pins::twin_name(hook, start)] {
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
        (Hook::Xdp, Start::Network, true) => abi::programs::NETWORK_FRAGS,
        (Hook::Xdp, Start::Network, false) => abi::programs::NETWORK,
        (Hook::Tcx | Hook::Clsact, Start::Link, _) => abi::programs::TC_LINK,
        (Hook::Tcx | Hook::Clsact, Start::Network, _) => abi::programs::TC_NETWORK,
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
