//! TCX: a chain of programs at TC ingress (6.6).
//!
//! Ours is the first: another one that accepts a packet ends the chain. A packet that ours lets
//! pass goes on to the others.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
};

use super::{
    DataplaneError, PinDir, Result,
    links::{Hook, LinkState},
    pins, sys,
};

/// Makes a link in front of the chain, pinned. Answers whether the kernel has TCX at all.
pub(super) fn create(pins: &PinDir, program: BorrowedFd<'_>, ifindex: u32) -> Result<bool> {
    let path = pins.link(Hook::Tcx, ifindex);
    match sys::tcx_link_create(program, ifindex) {
        Ok(link) => {
            // Should this fail, the descriptor is closed and with it the link.
            sys::obj_pin(link.as_fd(), &path).map_err(DataplaneError::pin("pin", path))?;
            Ok(true)
        }
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(DataplaneError::pin("make the link", path)(error)),
    }
}

/// Puts a program into the pinned link, in place. A link that others have got in front of is made
/// anew there, and only then the old one goes.
pub(super) fn adopt(pins: &PinDir, program: BorrowedFd<'_>, ifindex: u32) -> Result<()> {
    let path = pins.link(Hook::Tcx, ifindex);
    let link = sys::obj_get(&path).map_err(DataplaneError::pin("open", &path))?;
    let at = |action| DataplaneError::pin(action, &path);
    let info = sys::link_info(link.as_fd()).map_err(at("look at"))?;
    let chain = sys::tcx_chain(ifindex).map_err(at("look up the chain of"))?;
    if chain.first().is_none_or(|first| first.link_id == info.id) {
        return sys::link_update(link.as_fd(), program)
            .map_err(at("put the new program into the link"));
    }
    match sys::tcx_link_create(program, ifindex) {
        Ok(first) => pins::replace(first.as_fd(), &path),
        // The chain takes a program once: the pinned link runs this very one.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        Err(error) => Err(at("make the link anew, in front,")(error)),
    }
}

/// Looks a link up in the chain of its interface: whether it is there, and who is in front of it.
pub(super) fn place(state: &mut LinkState) -> io::Result<()> {
    let chain = sys::tcx_chain(state.ifindex)?;
    state.listed = chain.iter().any(|one| one.link_id == state.link_id);
    let first = chain.first().filter(|first| first.link_id != state.link_id);
    state.ahead = first.filter(|_| state.listed).map(|first| first.program_id);
    Ok(())
}
