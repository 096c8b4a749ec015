//! The few bpf(2) commands that aya 0.14 does not offer, or not in a form that can be trusted.

mod maps;

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::generated::{
    BPF_F_BEFORE, bpf_attach_type, bpf_attr, bpf_cmd, bpf_insn, bpf_link_info, bpf_link_type,
    bpf_prog_info, bpf_prog_type,
};

pub(super) use self::maps::{
    NewMap, clear_inner_map, inner_map_id, map_create, map_freeze, set_inner_map,
};

/// The most programs that a TCX chain can hold (`BPF_MPROG_MAX`, include/linux/bpf_mprog.h).
const LONGEST_CHAIN: usize = 64;

/// The most maps that a program can use (`MAX_USED_MAPS`, include/linux/bpf_verifier.h).
const MOST_MAPS: usize = 64;

/// What the kernel says about a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkInfo {
    pub(super) id: u32,
    pub(super) program_id: u32,
    pub(super) kind: LinkKind,
    /// The interface; 0 once it is gone (`bpf_xdp_link_fill_link_info`, net/core/dev.c, and
    /// `tcx_link_fill_info`, kernel/bpf/tcx.c).
    pub(super) ifindex: u32,
    /// The cgroup's id; 0 once it is gone, and of any other link.
    pub(super) cgroup: u64,
}

/// What a link attaches to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkKind {
    Xdp,
    /// The TCX chain of an interface's receiving side.
    TcxIngress,
    /// What a cgroup's sockets receive.
    CgroupIngress,
    Other,
}

/// One program in a TCX chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chained {
    pub(super) program_id: u32,
    /// 0 if it is there without a link.
    pub(super) link_id: u32,
}

/// `BPF_OBJ_GET`: opens a pin.
pub(super) fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    // SAFETY: the path outlives the call.
    unsafe { bpf_fd(bpf_cmd::BPF_OBJ_GET, &mut attr) }
}

/// `BPF_OBJ_PIN`: pins an object to a path that must not exist.
pub(super) fn obj_pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = object.as_raw_fd() as u32;
    // SAFETY: the path outlives the call.
    unsafe { bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr) }.map(drop)
}

/// `BPF_LINK_CREATE` for XDP. `flags` are `XDP_FLAGS_*`.
pub(super) fn link_create(
    program: BorrowedFd<'_>,
    ifindex: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
    attr.link_create.attach_type = bpf_attach_type::BPF_XDP as u32;
    attr.link_create.flags = flags;
    // SAFETY: the command takes no pointers with these fields.
    unsafe { bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr) }
}

/// `BPF_LINK_CREATE` for the first place in the TCX chain of an interface's receiving side.
/// `EINVAL` from a kernel that has none (before 6.6).
pub(super) fn tcx_link_create(program: BorrowedFd<'_>, ifindex: u32) -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
    attr.link_create.attach_type = bpf_attach_type::BPF_TCX_INGRESS as u32;
    // Before nothing in particular: before everything.
    attr.link_create.flags = BPF_F_BEFORE;
    // SAFETY: the command takes no pointers with these fields.
    unsafe { bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr) }
}

/// `BPF_LINK_CREATE` for what a cgroup's sockets receive. Without flags: links there always stand beside
/// others (`cgroup_bpf_link_attach`, kernel/bpf/cgroup.c).
pub(super) fn cgroup_link_create(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
) -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    attr.link_create.__bindgen_anon_2.target_fd = cgroup.as_raw_fd() as u32;
    attr.link_create.attach_type = bpf_attach_type::BPF_CGROUP_INET_INGRESS as u32;
    // SAFETY: the command takes no pointers with these fields.
    unsafe { bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr) }
}

/// `BPF_PROG_QUERY`: the TCX chain of an interface's receiving side, in the order in which the
/// programs run. Needs `CAP_NET_ADMIN` only: no program is opened.
pub(super) fn tcx_chain(ifindex: u32) -> io::Result<Vec<Chained>> {
    let (mut programs, mut links) = ([0_u32; LONGEST_CHAIN], [0_u32; LONGEST_CHAIN]);
    let mut attr = zeroed_attr();
    attr.query.__bindgen_anon_1.target_ifindex = ifindex;
    attr.query.attach_type = bpf_attach_type::BPF_TCX_INGRESS as u32;
    attr.query.prog_ids = programs.as_mut_ptr() as u64;
    attr.query.link_ids = links.as_mut_ptr() as u64;
    attr.query.__bindgen_anon_2.count = LONGEST_CHAIN as u32;
    // SAFETY: both arrays are writable for `count` words and outlive the call.
    match unsafe { bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr) } {
        // No chain, or no such interface.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {
            return Ok(Vec::new());
        }
        outcome => outcome?,
    };
    // SAFETY: the member that this command uses.
    let query = unsafe { attr.query };
    // SAFETY: the kernel has written the number that there are, a plain integer.
    let count = unsafe { query.__bindgen_anon_2.count } as usize;
    let chained = |(&program_id, &link_id)| Chained { program_id, link_id };
    Ok(programs.iter().zip(&links).take(count).map(chained).collect())
}

/// `BPF_LINK_UPDATE`: puts another program into a link, atomically for packets.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.link_update.link_fd = link.as_raw_fd() as u32;
    attr.link_update.__bindgen_anon_1.new_prog_fd = program.as_raw_fd() as u32;
    // SAFETY: the command takes no pointers.
    unsafe { bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

/// `BPF_LINK_DETACH` (5.9): the interface is free when this returns. The link stays, severed.
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.link_detach.link_fd = link.as_raw_fd() as u32;
    // SAFETY: the command takes no pointers.
    unsafe { bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr) }.map(drop)
}

/// `BPF_OBJ_GET_INFO_BY_FD` for a link.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    // SAFETY: plain data, for which all zeros is a valid value.
    let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
    let mut attr = zeroed_attr();
    attr.info.bpf_fd = link.as_raw_fd() as u32;
    attr.info.info_len = size_of_val(&info) as u32;
    attr.info.info = &raw mut info as u64;
    // SAFETY: `info` is writable for `info_len` bytes and outlives the call.
    unsafe { bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    let mut cgroup = 0;
    let (kind, ifindex) = if info.type_ == bpf_link_type::BPF_LINK_TYPE_XDP as u32 {
        // SAFETY: for this link type the kernel filled the xdp member of the union.
        (LinkKind::Xdp, unsafe { info.__bindgen_anon_1.xdp.ifindex })
    } else if info.type_ == bpf_link_type::BPF_LINK_TYPE_TCX as u32 {
        // SAFETY: for this link type the kernel filled the tcx member of the union.
        let tcx = unsafe { info.__bindgen_anon_1.tcx };
        let is_ingress = tcx.attach_type == bpf_attach_type::BPF_TCX_INGRESS as u32;
        (if is_ingress { LinkKind::TcxIngress } else { LinkKind::Other }, tcx.ifindex)
    } else if info.type_ == bpf_link_type::BPF_LINK_TYPE_CGROUP as u32 {
        // SAFETY: for this link type the kernel filled the cgroup member of the union.
        let found = unsafe { info.__bindgen_anon_1.cgroup };
        cgroup = found.cgroup_id;
        let is_ingress = found.attach_type == bpf_attach_type::BPF_CGROUP_INET_INGRESS as u32;
        (if is_ingress { LinkKind::CgroupIngress } else { LinkKind::Other }, 0)
    } else {
        (LinkKind::Other, 0)
    };
    Ok(LinkInfo { id: info.id, program_id: info.prog_id, kind, ifindex, cgroup })
}

/// `BPF_OBJ_GET_INFO_BY_FD` for anything: its type and its id, with which the information about
/// programs, maps and links all begins. Ids are unique among objects of one sort.
pub(super) fn identity(object: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    let mut head = [0_u32; 2];
    let mut attr = zeroed_attr();
    attr.info.bpf_fd = object.as_raw_fd() as u32;
    attr.info.info_len = size_of_val(&head) as u32;
    attr.info.info = &raw mut head as u64;
    // SAFETY: `head` is writable for `info_len` bytes and outlives the call.
    unsafe { bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    let [kind, id] = head;
    Ok((kind, id))
}

/// `BPF_OBJ_GET_INFO_BY_FD` for a program: the ids of the maps that it uses. aya 0.14 opens the
/// program by its id for that, which would need `CAP_SYS_ADMIN`.
pub(super) fn map_ids(program: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; MOST_MAPS];
    // SAFETY: the struct is plain integers, for which zero is a value.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    info.nr_map_ids = ids.len() as u32;
    info.map_ids = ids.as_mut_ptr() as u64;
    let mut attr = zeroed_attr();
    attr.info.bpf_fd = program.as_raw_fd() as u32;
    attr.info.info_len = size_of_val(&info) as u32;
    attr.info.info = &raw mut info as u64;
    // SAFETY: both are writable, for `info_len` bytes and `nr_map_ids` words, and outlive the call.
    unsafe { bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    ids.truncate(info.nr_map_ids as usize);
    Ok(ids)
}

/// `BPF_PROG_LOAD` of the smallest XDP program there is: it returns `XDP_PASS`.
pub(super) fn load_smallest_xdp() -> io::Result<OwnedFd> {
    const XDP_PASS: i32 = 2;
    let instruction = |code, imm| bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(0, 0),
        off: 0,
        imm,
    };
    // BPF_ALU64 | BPF_MOV | BPF_K into r0, BPF_JMP | BPF_EXIT.
    let instructions = [instruction(0xb7, XDP_PASS), instruction(0x95, 0)];
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_3.prog_type = bpf_prog_type::BPF_PROG_TYPE_XDP as u32;
    attr.__bindgen_anon_3.insns = instructions.as_ptr() as u64;
    attr.__bindgen_anon_3.insn_cnt = instructions.len() as u32;
    attr.__bindgen_anon_3.license = c"GPL".as_ptr() as u64;
    // SAFETY: instructions and licence outlive the call; there is no log buffer.
    unsafe { bpf_fd(bpf_cmd::BPF_PROG_LOAD, &mut attr) }
}

/// `BPF_PROG_TEST_RUN` of an XDP program with a packet and a context (`struct xdp_md`), for what
/// the kernel says to it; the verdict is not read.
pub(super) fn test_run_with_context(
    program: BorrowedFd<'_>,
    packet: &[u8],
    context: &[u32; 6],
) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.test.prog_fd = program.as_raw_fd() as u32;
    attr.test.data_in = packet.as_ptr() as u64;
    attr.test.data_size_in = packet.len() as u32;
    attr.test.ctx_in = context.as_ptr() as u64;
    attr.test.ctx_size_in = size_of_val(context) as u32;
    // SAFETY: packet and context are readable for the sizes given; nothing is asked to be written.
    unsafe { bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr) }.map(drop)
}

fn zeroed_attr() -> bpf_attr {
    // SAFETY: a union of plain data, for which all zeros is a valid value, and the one that the
    // kernel demands of fields that a command does not use.
    unsafe { std::mem::zeroed() }
}

/// # Safety
///
/// Every pointer in `attr` that the command reads or writes must be valid for it.
unsafe fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is writable for its whole size; its pointers are the caller's promise.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_int, &raw mut *attr, size_of::<bpf_attr>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// # Safety
///
/// As [`bpf`], for a command that returns a new descriptor.
unsafe fn bpf_fd(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { bpf(command, attr) }?;
    // SAFETY: on success the command returns a descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
