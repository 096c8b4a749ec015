//! The inner door: one link at a cgroup, for what the sockets of all its processes receive.
//!
//! It stands behind everything that the host does to a packet: tunnels, reassembly, NAT, bridges. At the root
//! of the hierarchy it is in front of every socket of the machine. It is no interface, so its link has a pin
//! of its own; like any other it is replaced in place, and goes on without a daemon.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use ollama_guard_common::Start;
use serde::{Deserialize, Serialize};

use super::{
    Dataplane, DataplaneError, PinDir, Result,
    links::Hook,
    maps::Maps,
    pins,
    sys::{self, LinkKind},
    table,
};

/// A cgroup to stand at.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Its directory, for messages.
    pub path: &'a Path,
    /// The same, open.
    pub directory: BorrowedFd<'a>,
    /// Its id.
    pub id: u64,
}

/// The pinned link, as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InnerState {
    /// The link's id.
    pub link_id: u32,
    /// The program that it runs.
    pub program_id: u32,
    /// The cgroup that it stands at; 0 if that is gone.
    pub cgroup: u64,
}

impl InnerState {
    /// Whether it still filters: somebody may have detached it, or the cgroup may be gone.
    #[must_use]
    pub const fn is_alive(&self) -> bool {
        self.cgroup != 0
    }
}

/// How the inner door came to stand where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// By a new link.
    Made,
    /// By the link that was there, without a gap.
    Adopted,
    /// By a new link, in the place of one at another cgroup.
    Moved,
}

/// The pinned link. `None` if there is none.
///
/// # Errors
///
/// If the pin can't be read, or is something else's.
pub(super) fn state(pins: &PinDir) -> Result<Option<InnerState>> {
    let path = pins.inner_link();
    let Some(link) = open(pins)? else { return Ok(None) };
    let info = sys::link_info(link.as_fd()).map_err(DataplaneError::pin("look at", &path))?;
    if info.kind != LinkKind::CgroupIngress {
        let problem = "it is no link at what a cgroup receives".into();
        return Err(DataplaneError::ForeignPin { path, problem });
    }
    Ok(Some(InnerState { link_id: info.id, program_id: info.program_id, cgroup: info.cgroup }))
}

/// Whether the inner door drops nothing, whatever the policy says.
///
/// # Errors
///
/// If nothing is loaded, or a pin is missing or is not what it should be.
pub fn observes(pins: &PinDir) -> Result<bool> {
    pins.require_current()?;
    Ok(table::inner_observes(Maps::open(&pins.current())?.policy()))
}

fn open(pins: &PinDir) -> Result<Option<OwnedFd>> {
    let path = pins.inner_link();
    match sys::obj_get(&path) {
        Ok(link) => Ok(Some(link)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(DataplaneError::pin("open", path)(error)),
    }
}

/// Puts a program there: into the pinned link if that lives there, else by a new one.
fn stand(pins: &PinDir, program: BorrowedFd<'_>, place: &Place<'_>) -> Result<Arrival> {
    let path = pins.inner_link();
    let before = state(pins)?;
    if before.is_some_and(|before| before.cgroup == place.id)
        && let Some(link) = open(pins)?
    {
        sys::link_update(link.as_fd(), program)
            .map_err(DataplaneError::pin("put the new program into the link", path))?;
        return Ok(Arrival::Adopted);
    }
    let link = sys::cgroup_link_create(program, place.directory)
        .map_err(DataplaneError::pin("attach to the cgroup", place.path))?;
    // The new one stands before the old one goes.
    pins::replace(link.as_fd(), &path)?;
    match before {
        Some(before) if before.is_alive() => Ok(Arrival::Moved),
        _ => Ok(Arrival::Made),
    }
}

/// Takes the inner door away. One that is not there is no error.
pub(super) fn remove(pins: &PinDir) -> Result<bool> {
    let Some(link) = open(pins)? else { return Ok(false) };
    // At once: with the pin, the link goes a little later.
    let is_ours = |info: sys::LinkInfo| info.kind == LinkKind::CgroupIngress;
    if sys::link_info(link.as_fd()).is_ok_and(is_ours)
        && let Err(error) = sys::link_detach(link.as_fd())
    {
        tracing::debug!(%error, "the inner door's link could not be detached ahead of its pin");
    }
    pins::unpin(&pins.inner_link())?;
    Ok(true)
}

impl Dataplane {
    /// The pinned link of the inner door. `None` if there is none.
    ///
    /// # Errors
    ///
    /// If the pin can't be read, or is something else's.
    pub fn inner(&self) -> Result<Option<InnerState>> {
        state(&self.pins)
    }

    /// Has the inner door stand at a cgroup, with the program that belongs there.
    ///
    /// # Errors
    ///
    /// If the kernel refuses; what stood there before does so still.
    pub fn stand_inside(&mut self, place: &Place<'_>) -> Result<Arrival> {
        let program = self.entries.get(Hook::Cgroup, Start::Packet)?;
        let arrival = stand(&self.pins, program, place)?;
        self.hold([self.pins.inner_link()]);
        Ok(arrival)
    }

    /// The kernel's id of the program that its link should run.
    ///
    /// # Errors
    ///
    /// If this kernel has no such programs.
    pub fn inner_program_id(&self) -> Result<u32> {
        self.program_id(Hook::Cgroup, Start::Packet)
    }

    /// Takes the inner door away: the operator's word. Answers whether there was one.
    ///
    /// # Errors
    ///
    /// If it stays.
    pub fn leave_inside(&mut self) -> Result<bool> {
        self.held.forget(&self.pins, &self.pins.inner_link());
        remove(&self.pins)
    }

    /// Has the inner door drop nothing, or what the policy says. Answers whether that is new.
    ///
    /// # Errors
    ///
    /// If the map can't be written.
    pub fn observe_inside(&mut self, observes: bool) -> Result<bool> {
        let word = table::inner_word(observes);
        if table::inner(self.maps.policy()) == word {
            return Ok(false);
        }
        table::set_inner(&self.maps.policy_writable()?, word);
        Ok(true)
    }

    /// Puts the programs that learn, or do not any more, there as into every link.
    pub(super) fn turn_inside(&mut self) -> Result<()> {
        let Some(state) = self.inner()?.filter(InnerState::is_alive) else { return Ok(()) };
        let counterpart = self.entries.counterpart(Hook::Cgroup, Start::Packet)?;
        let (_, before) = sys::identity(counterpart)
            .map_err(DataplaneError::pin("look at", "a program of ours"))?;
        if state.program_id != before {
            return Ok(());
        }
        self.update_inside(None)
    }

    /// Puts the program back that the link ran before [`Dataplane::stand_inside`], until
    /// [`Dataplane::commit`] has replaced it.
    ///
    /// # Errors
    ///
    /// If the link does not take it.
    pub fn put_back_inside(&mut self) -> Result<()> {
        let name = pins::program_name(Hook::Cgroup, Start::Packet);
        let before = self.earlier_directories()?;
        let before = before.iter().find_map(|one| sys::obj_get(&one.join(name)).ok());
        match before {
            Some(program) => self.update_inside(Some(program.as_fd())),
            None => self.leave_inside().map(drop),
        }
    }

    /// Puts a program into the link, in place: the one that belongs there, if none is named.
    fn update_inside(&self, program: Option<BorrowedFd<'_>>) -> Result<()> {
        let path = self.pins.inner_link();
        let link = sys::obj_get(&path).map_err(DataplaneError::pin("open", &path))?;
        let usual = || self.entries.loaded(Hook::Cgroup, Start::Packet);
        let program = program.map_or_else(usual, Ok)?;
        sys::link_update(link.as_fd(), program)
            .map_err(DataplaneError::pin("put another program into the link", path))
    }
}
