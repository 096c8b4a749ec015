//! The program that filters, once more: for packets that are really sent, and must not be counted.
//!
//! A twin answers test runs and cannot filter. A replica filters: it is the same program, loaded
//! again over the live maps of the policy, with counters, books and a ring of its own, attached
//! where the caller says, and never pinned: the kernel takes it away with the process, however that
//! ends. Its tag, which covers every instruction, says whether it is the program that filters.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::PerCpuArray,
    programs::{ProgramInfo, Xdp},
};
use ollama_guard_common::{
    Start,
    abi::{self, DOOR_UNKNOWN, maps as names},
};

use super::{
    AttachMode, DataplaneError, PinDir, Result,
    counters::{self, Counts},
    links::Hook,
    maps::{self, CounterWords},
    object::OBJECT,
    pins, probe,
    programs::{load_error, program as program_in_object},
    sys,
    wiring::POLICY,
};

/// A replica of the XDP program for devices with an Ethernet header.
pub struct Replica {
    object: Ebpf,
    name: &'static str,
}

/// Keeps a replica attached. Dropping it detaches it.
pub struct ReplicaLink {
    _link: OwnedFd,
}

impl Replica {
    /// Loads it. Nothing is attached yet, and nothing that is pinned changes.
    ///
    /// # Errors
    ///
    /// If nothing is loaded to replicate, if this command is of another version than what filters,
    /// so that its program would prove nothing, or if the kernel refuses.
    pub fn load(pins: &PinDir) -> Result<Self> {
        pins.require_current()?;
        let directory = pins.current();
        // The loader makes and pins what is not there.
        maps::check(&directory)?;
        if OBJECT.is_empty() {
            return Err(DataplaneError::NoKernelProgram);
        }
        let features = probe::features()?;
        let name = program_in_object(Hook::Xdp, Start::Link, features.multi_buffer);
        let load_bytes = u32::from(features.multi_buffer);
        let mut loader = EbpfLoader::new();
        loader
            .btf(None)
            .override_global(abi::globals::REPORT, &1_u32, true)
            .override_global(abi::globals::LOAD_BYTES, &load_bytes, true)
            .override_global(aya_log::LEVEL, &0_u8, false);
        for map in POLICY {
            loader.map_pin_path(map, directory.join(map));
        }
        let mut replica = Self { object: loader.load(OBJECT).map_err(load_error)?, name };
        let program = replica.program()?;
        program.load().map_err(load_error)?;
        let tag = program.info().map_err(load_error)?.tag();
        let path = directory.join(pins::program_name(Hook::Xdp, Start::Link));
        let pinned = ProgramInfo::from_pin(&path)
            .map_err(|error| DataplaneError::ForeignPin { path, problem: error.to_string() })?;
        if tag == pinned.tag() {
            return Ok(replica);
        }
        Err(DataplaneError::Load(format!(
            "program {}, which filters, is not the one that this command carries: use the \
             `ollama-guard` that the daemon was started from",
            pinned.id()
        )))
    }

    /// Attaches it to an interface of the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn attach(&mut self, ifindex: u32, mode: AttachMode) -> io::Result<ReplicaLink> {
        let program = self.program().map_err(io::Error::other)?;
        let fd = program.fd().map_err(io::Error::other)?;
        let link = sys::link_create(fd.as_fd(), ifindex, mode.flags())?;
        Ok(ReplicaLink { _link: link })
    }

    /// What it has counted, wherever it was attached.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn counts(&self) -> Result<Counts> {
        let map = self.object.map(names::COUNTERS).ok_or_else(|| {
            DataplaneError::Load(format!("the object has no map {}", names::COUNTERS))
        })?;
        let counters = PerCpuArray::<_, CounterWords>::try_from(map)
            .map_err(DataplaneError::map("open", names::COUNTERS))?;
        counters::read_one(&counters, DOOR_UNKNOWN)
    }

    fn program(&mut self) -> Result<&mut Xdp> {
        let name = self.name;
        self.object
            .program_mut(name)
            .ok_or_else(|| DataplaneError::Load(format!("the object has no program {name}")))?
            .try_into()
            .map_err(load_error)
    }
}
