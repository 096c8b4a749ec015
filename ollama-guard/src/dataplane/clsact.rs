//! A filter of a clsact queueing discipline: TC ingress on kernels without TCX.
//!
//! A filter belongs to the interface and not to a descriptor: it outlives the daemon without a
//! pin, and goes with the interface. What is pinned is the program that it runs, as the word that
//! this interface is covered so. It is found again by its name, which says whose it is, and its
//! program is replaced in place (`cls_bpf_change`, net/sched/cls_bpf.c).

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use super::{
    DataplaneError, PinDir, Result,
    links::{Hook, LinkState},
    netlink::{
        NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, TcMessage, attribute, change, dump, find, word,
    },
    pins,
};

// include/uapi/linux/rtnetlink.h
const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_CHAIN: u16 = 11;
// include/uapi/linux/pkt_cls.h
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_FLAGS_GEN: u16 = 9;
const TCA_BPF_ID: u16 = 11;
/// The program's return value is the verdict.
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
/// In software: a network card that ran it would keep counters of its own.
const TCA_CLS_FLAGS_SKIP_HW: u32 = 1;
// include/uapi/linux/pkt_sched.h
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
/// `ETH_P_ALL` in network byte order.
const ANY_PROTOCOL: u32 = 0x0003_u16.to_be() as u32;

/// The longest name of a filter (`CLS_BPF_NAME_LEN`, net/sched/cls_bpf.c, less the final zero).
const LONGEST_NAME: usize = 255;
/// The only filter of its priority.
const HANDLE: u32 = 1;
/// How many places in front are tried: as many may be in use by others.
const PRIORITIES: std::ops::RangeInclusive<u32> = 1..=64;

/// A filter, in the order in which the kernel asks.
#[derive(Debug)]
struct Filter {
    priority: u32,
    handle: u32,
    chain: u32,
    /// 0 for one that is no BPF program.
    program_id: u32,
    name: Vec<u8>,
}

/// Makes the filter, in front of others if there is a place.
pub(super) fn create(pins: &PinDir, program: BorrowedFd<'_>, ifindex: u32) -> Result<()> {
    let path = pins.link(Hook::Clsact, ifindex);
    let at = |action| DataplaneError::pin(action, &path);
    let is_ours = add_qdisc(ifindex).map_err(at("make a queueing discipline for"))?;
    // The word is there before the filter: a daemon that dies in between leaves none that nobody
    // knows of.
    let made = (|| {
        if is_ours {
            pins::replace(program, &pins.qdisc_mark(ifindex))?;
        }
        pins::replace(program, &path)?;
        let filters = filters(ifindex, INGRESS).map_err(at("list the filters beside"))?;
        let is_free = |priority: &u32| filters.iter().all(|filter| filter.priority != *priority);
        let name = name(pins);
        let (priority, flags) = match filters.iter().find(|filter| filter.name == name) {
            // It has only lost its pin.
            Some(ours) => (ours.priority, NLM_F_REPLACE),
            None => {
                let free = PRIORITIES.into_iter().find(is_free).unwrap_or(*PRIORITIES.end());
                (free, NLM_F_CREATE | NLM_F_EXCL)
            }
        };
        put(pins, program, ifindex, priority, flags).map_err(at("make the filter for"))
    })();
    if made.is_err() {
        // Not even an empty queueing discipline stays.
        remove(pins, ifindex)?;
        pins::unpin(&path)?;
    }
    made
}

/// Puts a program into the filter, in place.
pub(super) fn adopt(pins: &PinDir, program: BorrowedFd<'_>, ifindex: u32) -> Result<()> {
    let path = pins.link(Hook::Clsact, ifindex);
    let at = |action| DataplaneError::pin(action, &path);
    let Some(ours) = ours(pins, ifindex).map_err(at("list the filters beside"))? else {
        let gone = io::Error::from(io::ErrorKind::NotFound);
        return Err(at("find the filter of")(gone));
    };
    put(pins, program, ifindex, ours.priority, NLM_F_REPLACE)
        .map_err(at("put the new program into the filter of"))?;
    pins::replace(program, &path)
}

/// Removes the filter, and the queueing discipline if it is ours and nobody else uses it.
pub(super) fn remove(pins: &PinDir, ifindex: u32) -> Result<()> {
    let path = pins.link(Hook::Clsact, ifindex);
    let mark = pins.qdisc_mark(ifindex);
    let at = |action| DataplaneError::pin(action, &path);
    let ours = || ours(pins, ifindex).map_err(at("list the filters beside"));
    if path.exists()
        && let Some(found) = ours()?
        && let Err(error) = delete(ifindex, &found)
        // Somebody else may have been faster.
        && ours()?.is_some()
    {
        return Err(at("remove the filter of")(error));
    }
    if mark.exists() {
        let others = [INGRESS, EGRESS].map(|parent| filters(ifindex, parent));
        if others.into_iter().all(|found| found.is_ok_and(|found| found.is_empty())) {
            delete_qdisc(ifindex).map_err(at("remove the queueing discipline of"))?;
        }
        pins::unpin(&mark)?;
    }
    Ok(())
}

/// What the kernel says of the filter.
pub(super) fn state(pins: &PinDir, ifindex: u32) -> Result<LinkState> {
    let path = pins.link(Hook::Clsact, ifindex);
    let filters =
        filters(ifindex, INGRESS).map_err(DataplaneError::pin("list the filters beside", path))?;
    let name = name(pins);
    let ours = filters.iter().find(|filter| filter.name == name);
    let first = filters.first().filter(|first| first.name != name);
    Ok(LinkState {
        ifindex,
        hook: Hook::Clsact,
        link_id: 0,
        program_id: ours.map_or(0, |ours| ours.program_id),
        alive: ours.is_some(),
        listed: ours.is_some(),
        ahead: ours.and(first).map(|first| first.program_id),
    })
}

/// Whose filter it is: two guards with pins of their own may stand on one interface.
fn name(pins: &PinDir) -> Vec<u8> {
    let mut name = format!("ollama-guard {}", pins.root().display()).into_bytes();
    name.truncate(LONGEST_NAME);
    name
}

fn ours(pins: &PinDir, ifindex: u32) -> io::Result<Option<Filter>> {
    let name = name(pins);
    Ok(filters(ifindex, INGRESS)?.into_iter().find(|filter| filter.name == name))
}

/// Answers whether the queueing discipline is new. One that somebody else has made does as well,
/// also the older `ingress`.
fn add_qdisc(ifindex: u32) -> io::Result<bool> {
    let request =
        TcMessage { ifindex, handle: CLSACT_HANDLE, parent: CLSACT, ..TcMessage::default() };
    match change(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, &request.with(TCA_KIND, b"clsact\0")) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        outcome => outcome.map(|()| true),
    }
}

fn delete_qdisc(ifindex: u32) -> io::Result<()> {
    let request =
        TcMessage { ifindex, handle: CLSACT_HANDLE, parent: CLSACT, ..TcMessage::default() };
    match change(RTM_DELQDISC, 0, &request.with(TCA_KIND, b"clsact\0")) {
        // It went with its interface, or by somebody else's hand (`tc_get_qdisc`, which says
        // EINVAL of one that is not there or is of another kind).
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EINVAL)) =>
        {
            Ok(())
        }
        outcome => outcome,
    }
}

fn put(
    pins: &PinDir,
    program: BorrowedFd<'_>,
    ifindex: u32,
    priority: u32,
    flags: u16,
) -> io::Result<()> {
    let mut name = name(pins);
    name.push(0);
    let options = [
        attribute(TCA_BPF_FD, &(program.as_raw_fd() as u32).to_ne_bytes()),
        attribute(TCA_BPF_NAME, &name),
        attribute(TCA_BPF_FLAGS, &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes()),
        attribute(TCA_BPF_FLAGS_GEN, &TCA_CLS_FLAGS_SKIP_HW.to_ne_bytes()),
    ]
    .concat();
    let request = TcMessage {
        ifindex,
        handle: HANDLE,
        parent: INGRESS,
        info: priority << 16 | ANY_PROTOCOL,
        ..TcMessage::default()
    };
    let request = request.with(TCA_KIND, b"bpf\0").with(TCA_OPTIONS, &options);
    change(RTM_NEWTFILTER, flags, &request)
}

fn delete(ifindex: u32, filter: &Filter) -> io::Result<()> {
    let request = TcMessage {
        ifindex,
        handle: filter.handle,
        parent: INGRESS,
        info: filter.priority << 16 | ANY_PROTOCOL,
        ..TcMessage::default()
    };
    change(RTM_DELTFILTER, 0, &request.with(TCA_KIND, b"bpf\0"))
}

/// Filters of one side of an interface, in the kernel's order. None where there is no clsact.
fn filters(ifindex: u32, parent: u32) -> io::Result<Vec<Filter>> {
    let request = TcMessage { ifindex, parent, ..TcMessage::default() };
    let found = dump(RTM_GETTFILTER, RTM_NEWTFILTER, &request)?;
    let mut filters: Vec<Filter> = found.iter().filter_map(read).collect();
    // Packets start in chain 0; others are only jumped to.
    filters.sort_by_key(|filter| (filter.chain, filter.priority));
    Ok(filters)
}

/// `None` for the head of a priority, which the kernel lists before its filters.
fn read(message: &TcMessage) -> Option<Filter> {
    if message.handle == 0 {
        return None;
    }
    let number = |kind| find(&message.attributes, kind).and_then(|bytes| word(bytes, 0));
    let is_bpf = find(&message.attributes, TCA_KIND) == Some(b"bpf\0");
    let options = find(&message.attributes, TCA_OPTIONS).filter(|_| is_bpf).unwrap_or_default();
    let name = find(options, TCA_BPF_NAME).unwrap_or_default();
    Some(Filter {
        priority: message.info >> 16,
        handle: message.handle,
        chain: number(TCA_CHAIN).unwrap_or(0),
        program_id: find(options, TCA_BPF_ID).and_then(|bytes| word(bytes, 0)).unwrap_or(0),
        name: name.strip_suffix(&[0]).unwrap_or(name).to_vec(),
    })
}
