//! The commands about maps.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya_obj::generated::{bpf_cmd, bpf_map_type};

use super::{bpf, bpf_fd, zeroed_attr};

/// A map that is to be made.
pub(in super::super) struct NewMap<'a> {
    pub(in super::super) kind: bpf_map_type,
    pub(in super::super) key_bytes: u32,
    pub(in super::super) value_bytes: u32,
    pub(in super::super) entries: u32,
    /// `BPF_F_*`.
    pub(in super::super) flags: u32,
    /// A map like those that it will hold.
    pub(in super::super) inner: Option<BorrowedFd<'a>>,
    /// At most 15 bytes of it.
    pub(in super::super) name: &'a str,
}

/// `BPF_MAP_CREATE`.
pub(in super::super) fn map_create(map: &NewMap<'_>) -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    let mut name = [0; 16];
    for (to, from) in name[..15].iter_mut().zip(map.name.bytes()) {
        *to = from as libc::c_char;
    }
    attr.__bindgen_anon_1.map_type = map.kind as u32;
    attr.__bindgen_anon_1.key_size = map.key_bytes;
    attr.__bindgen_anon_1.value_size = map.value_bytes;
    attr.__bindgen_anon_1.max_entries = map.entries;
    attr.__bindgen_anon_1.map_flags = map.flags;
    attr.__bindgen_anon_1.map_name = name;
    if let Some(inner) = map.inner {
        attr.__bindgen_anon_1.inner_map_fd = inner.as_raw_fd() as u32;
    }
    // SAFETY: the command takes no pointers.
    unsafe { bpf_fd(bpf_cmd::BPF_MAP_CREATE, &mut attr) }
}

/// `BPF_MAP_FREEZE`: from here on no process can write to the map. `EBUSY` while one has mapped it
/// for writing.
pub(in super::super) fn map_freeze(map: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_2.map_fd = map.as_raw_fd() as u32;
    // SAFETY: the command takes no pointers.
    unsafe { bpf(bpf_cmd::BPF_MAP_FREEZE, &mut attr) }.map(drop)
}

/// `BPF_MAP_UPDATE_ELEM` in an array of maps: puts a map into a slot.
pub(in super::super) fn set_inner_map(
    outer: BorrowedFd<'_>,
    index: u32,
    inner: BorrowedFd<'_>,
) -> io::Result<()> {
    let inner = inner.as_raw_fd();
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_2.map_fd = outer.as_raw_fd() as u32;
    attr.__bindgen_anon_2.key = &raw const index as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = &raw const inner as u64;
    // SAFETY: key and value are the four bytes that an array of maps has, and outlive the call.
    unsafe { bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr) }.map(drop)
}

/// `BPF_MAP_DELETE_ELEM` in an array of maps: empties a slot. `ENOENT` if it is empty.
pub(in super::super) fn clear_inner_map(outer: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_2.map_fd = outer.as_raw_fd() as u32;
    attr.__bindgen_anon_2.key = &raw const index as u64;
    // SAFETY: the key is the four bytes that an array of maps has, and outlives the call.
    unsafe { bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attr) }.map(drop)
}

/// `BPF_MAP_LOOKUP_ELEM` in an array of maps: the id of the inner map, without opening it, which
/// would need `CAP_SYS_ADMIN`. `None` for an empty slot.
pub(in super::super) fn inner_map_id(outer: BorrowedFd<'_>, index: u32) -> io::Result<Option<u32>> {
    let mut id = 0_u32;
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_2.map_fd = outer.as_raw_fd() as u32;
    attr.__bindgen_anon_2.key = &raw const index as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = &raw mut id as u64;
    // SAFETY: key and value are the four bytes that an array of maps has, and outlive the call.
    match unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr) } {
        Ok(_) => Ok(Some(id)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}
