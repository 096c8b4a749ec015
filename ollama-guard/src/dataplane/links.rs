//! Attaching: one link for each guarded interface, pinned and replaced in place.
//!
//! At XDP where that can be had. Where the slot is somebody else's, or the device refuses, the
//! guard stands at TC ingress ([`tcx`], and [`clsact`] on kernels without TCX): behind XDP, in
//! front of everything else.
//!
//! Long because three hooks are one seam for the daemon: what a link is, and which one to take.
//!
//! [`tcx`]: super::tcx
//! [`clsact`]: super::clsact

use std::{
    fmt, io,
    os::fd::{AsFd as _, BorrowedFd},
};

use ollama_guard_common::abi::INNER_HOOK;
use serde::{Deserialize, Serialize};

use super::{
    DataplaneError, PinDir, Result, clsact, pins,
    sys::{self, LinkKind},
    tcx,
};

/// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE` (include/uapi/linux/if_link.h).
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// Where in the receive path of an interface the kernel asks.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// Before the network stack.
    #[default]
    Xdp,
    /// TC ingress, by a link in the TCX chain (6.6).
    Tcx,
    /// TC ingress, by a filter of a clsact queueing discipline.
    Clsact,
    /// What the sockets of a cgroup receive: the inner door, which is no interface. See
    /// [`super::inner`].
    Cgroup,
}

impl Hook {
    /// Every hook of an interface, the best one first.
    pub const ALL: [Self; 3] = [Self::Xdp, Self::Tcx, Self::Clsact];

    /// The name in pins and status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
            Self::Cgroup => INNER_HOOK,
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where at XDP the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachMode {
    /// In the driver, before a socket buffer is made.
    Native,
    /// At the start of the stack's receive path. Works on every device.
    Generic,
}

impl AttachMode {
    /// The name in configuration and status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    pub(super) const fn flags(self) -> u32 {
        match self {
            Self::Native => XDP_FLAGS_DRV_MODE,
            Self::Generic => XDP_FLAGS_SKB_MODE,
        }
    }
}

impl fmt::Display for AttachMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What to attach to.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The interface's name, for messages.
    pub interface: &'a str,
    /// The interface.
    pub ifindex: u32,
    /// The modes to try, in this order.
    pub modes: &'a [AttachMode],
    /// The program that netlink shows on the interface now, and its mode.
    pub occupied: Option<(AttachMode, u32)>,
}

/// The entry programs for a kind of device.
pub(super) trait Programs {
    /// The one for a hook. It may have to be loaded first.
    fn at(&mut self, hook: Hook) -> Result<BorrowedFd<'_>>;
}

/// How an interface is covered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The hook.
    pub hook: Hook,
    /// At XDP, the mode that the kernel took.
    pub mode: Option<AttachMode>,
    /// The modes that it refused before, and how.
    pub refused: Vec<(AttachMode, String)>,
    /// Elsewhere than at XDP: why not there.
    pub why_not_xdp: Option<String>,
    /// Nothing is new: a link at TC goes on, and is to be adopted.
    pub kept: bool,
}

/// A pinned link, as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkState {
    /// The interface in the pin's name.
    pub ifindex: u32,
    /// Where it attaches to.
    #[serde(default)]
    pub hook: Hook,
    /// The link's id; 0 for a clsact filter, which has none.
    pub link_id: u32,
    /// The program that the link runs.
    pub program_id: u32,
    /// Whether the link still has its interface: a deleted one severs it, and a new interface of
    /// the same name is another one.
    pub alive: bool,
    /// Whether the kernel's list for this interface shows it: not so for an interface that has gone
    /// to another network namespace, where its link goes on. Of XDP netlink has the list.
    #[serde(default = "yes")]
    pub listed: bool,
    /// At TC, the program that sees packets before ours and may let them pass; 0 for a filter that
    /// is no BPF program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ahead: Option<u32>,
}

/// Whether an interface has a pinned link that lives, and that may go on in the mode asked for.
/// A dead one is cleared away.
pub(super) fn can_adopt(pins: &PinDir, target: &Target<'_>) -> Result<bool> {
    match living(pins, target.ifindex)? {
        Some(Hook::Xdp) => {}
        // At XDP it would see more.
        Some(Hook::Tcx | Hook::Clsact | Hook::Cgroup) => return Ok(target.occupied.is_some()),
        None => return Ok(false),
    }
    match (target.occupied, target.modes) {
        (Some((current, _)), [wanted]) if current != *wanted => Err(DataplaneError::OtherMode {
            interface: target.interface.into(),
            current: current.name(),
            wanted: wanted.name(),
        }),
        _ => Ok(true),
    }
}

/// The best hook where an interface has a link that lives. Dead ones are cleared away: their
/// interface is gone, and this is another one that was given its number.
fn living(pins: &PinDir, ifindex: u32) -> Result<Option<Hook>> {
    let mut best = None;
    for hook in Hook::ALL {
        let Some(state) = state(pins, hook, ifindex)? else { continue };
        check(pins, hook, ifindex)?;
        if !state.alive {
            remove(pins, hook, ifindex)?;
        } else if best.is_none() {
            best = Some(hook);
        }
    }
    Ok(best)
}

/// Puts a program into the pinned link of an interface, in place: into the best, if it has several.
pub(super) fn adopt(pins: &PinDir, programs: &mut impl Programs, ifindex: u32) -> Result<Hook> {
    let is_pinned = |hook: &Hook| pins.link(*hook, ifindex).exists();
    let hook = Hook::ALL.into_iter().find(is_pinned).unwrap_or_default();
    let program = programs.at(hook)?;
    match hook {
        Hook::Xdp => {
            let path = pins.link(hook, ifindex);
            let link = sys::obj_get(&path).map_err(DataplaneError::pin("open", &path))?;
            sys::link_update(link.as_fd(), program)
                .map_err(DataplaneError::pin("put the new program into the link", path))?;
        }
        // An interface has none at the last one.
        Hook::Tcx | Hook::Cgroup => tcx::adopt(pins, program, ifindex)?,
        Hook::Clsact => clsact::adopt(pins, program, ifindex)?,
    }
    Ok(hook)
}

/// Puts a program into a link, in place, and leaves it where it is.
pub(super) fn put(pins: &PinDir, program: BorrowedFd<'_>, hook: Hook, ifindex: u32) -> Result<()> {
    let path = pins.link(hook, ifindex);
    if hook == Hook::Clsact {
        return clsact::adopt(pins, program, ifindex);
    }
    let link = sys::obj_get(&path).map_err(DataplaneError::pin("open", &path))?;
    sys::link_update(link.as_fd(), program)
        .map_err(DataplaneError::pin("put another program into the link", path))
}

/// Covers an interface: by an XDP link in the first mode that it takes, else at TC.
pub(super) fn create(
    pins: &PinDir,
    programs: &mut impl Programs,
    target: &Target<'_>,
) -> Result<Outcome> {
    let why_not = match create_xdp(pins, programs.at(Hook::Xdp)?, target)? {
        Ok(outcome) => return Ok(outcome),
        Err(why_not) => why_not,
    };
    let covered = |hook, kept| Outcome {
        hook,
        mode: None,
        refused: Vec::new(),
        why_not_xdp: Some(why_not.clone()),
        kept,
    };
    if let Some(hook) = living(pins, target.ifindex)? {
        return Ok(covered(hook, true));
    }
    let refused = |hook, error: DataplaneError| DataplaneError::NoHook {
        interface: target.interface.into(),
        xdp: why_not.clone(),
        hook,
        cause: Box::new(error),
    };
    // TCX and clsact run the same one.
    let program = programs.at(Hook::Tcx)?;
    match tcx::create(pins, program, target.ifindex) {
        Ok(true) => Ok(covered(Hook::Tcx, false)),
        Ok(false) => clsact::create(pins, program, target.ifindex)
            .map(|()| covered(Hook::Clsact, false))
            .map_err(|error| refused(Hook::Clsact, error)),
        Err(error) => Err(refused(Hook::Tcx, error)),
    }
}

/// Makes an XDP link, pinned, in the first mode that the interface takes. What keeps the guard from
/// there is the inner error, the second half of a sentence about the interface.
fn create_xdp(
    pins: &PinDir,
    program: BorrowedFd<'_>,
    target: &Target<'_>,
) -> Result<Result<Outcome, String>> {
    let mut refused = Vec::new();
    for &mode in target.modes {
        match sys::link_create(program, target.ifindex, mode.flags()) {
            Ok(link) => {
                let path = pins.link(Hook::Xdp, target.ifindex);
                // Should this fail, the descriptor is closed and with it the link: nothing is
                // attached that a dead daemon would take along.
                sys::obj_pin(link.as_fd(), &path).map_err(DataplaneError::pin("pin", path))?;
                let (hook, mode) = (Hook::Xdp, Some(mode));
                return Ok(Ok(Outcome { hook, mode, refused, why_not_xdp: None, kept: false }));
            }
            // Somebody else's program, in the same mode or in the other.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)) => {
                let holder = holder(target);
                return Ok(Err(format!("its XDP slot is taken by {holder}, which is not ours")));
            }
            Err(error) => refused.push((mode, error.to_string())),
        }
    }
    let tried = |(mode, error): &(AttachMode, String)| format!("{mode} mode ({error})");
    let tried: Vec<String> = refused.iter().map(tried).collect();
    Ok(Err(format!("it refuses an XDP program in {}", tried.join(" and in "))))
}

/// Removes the link of an interface at a hook, with its pin. One that is not there is no error.
pub(super) fn remove(pins: &PinDir, hook: Hook, ifindex: u32) -> Result<()> {
    match hook {
        Hook::Clsact => clsact::remove(pins, ifindex)?,
        Hook::Xdp | Hook::Tcx | Hook::Cgroup => sever(pins, hook, ifindex),
    }
    pins::unpin(&pins.link(hook, ifindex))
}

/// Frees an interface at once. Its link goes with the last pin in any case, but then a worker of the
/// kernel's takes it off (`bpf_link_put`, kernel/bpf/syscall.c), and until it has, whoever comes next
/// finds the place taken. So a failure is no error here.
fn sever(pins: &PinDir, hook: Hook, ifindex: u32) {
    let Ok(link) = sys::obj_get(&pins.link(hook, ifindex)) else { return };
    let is_ours = |info: sys::LinkInfo| Some(info.kind) == kind(hook) && info.ifindex == ifindex;
    if sys::link_info(link.as_fd()).is_ok_and(is_ours)
        && let Err(error) = sys::link_detach(link.as_fd())
    {
        tracing::debug!(%error, %hook, ifindex, "the link could not be detached ahead of its pin");
    }
}

/// What the kernel calls the link of a hook; a clsact filter has none.
const fn kind(hook: Hook) -> Option<LinkKind> {
    match hook {
        Hook::Xdp => Some(LinkKind::Xdp),
        Hook::Tcx => Some(LinkKind::TcxIngress),
        Hook::Cgroup => Some(LinkKind::CgroupIngress),
        Hook::Clsact => None,
    }
}

/// The pinned links, dead or alive.
pub(super) fn list(pins: &PinDir) -> Result<Vec<LinkState>> {
    let mut states = Vec::new();
    for (ifindex, hook, _) in pins.pinned_links()? {
        states.extend(state(pins, hook, ifindex)?);
    }
    Ok(states)
}

/// The link of an interface at a hook. `None` if none is pinned. One that is not what its pin's
/// name says is dead.
fn state(pins: &PinDir, hook: Hook, ifindex: u32) -> Result<Option<LinkState>> {
    let path = pins.link(hook, ifindex);
    let object = match sys::obj_get(&path) {
        Ok(object) => object,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(DataplaneError::pin("open", path)(error)),
    };
    let Some(kind) = kind(hook) else {
        // The pin is the program's.
        return clsact::state(pins, ifindex).map(Some);
    };
    let info = sys::link_info(object.as_fd()).map_err(DataplaneError::pin("look at", &path))?;
    let mut state = LinkState {
        ifindex,
        hook,
        link_id: info.id,
        program_id: info.program_id,
        alive: info.kind == kind && info.ifindex == ifindex,
        listed: true,
        ahead: None,
    };
    if hook == Hook::Tcx && state.alive {
        tcx::place(&mut state).map_err(DataplaneError::pin("look up the chain of", path))?;
    }
    Ok(Some(state))
}

/// Refuses a pin of ours that holds what somebody else has put there.
fn check(pins: &PinDir, hook: Hook, ifindex: u32) -> Result<()> {
    let path = pins.link(hook, ifindex);
    let Some(kind) = kind(hook) else { return Ok(()) };
    let link = sys::obj_get(&path).map_err(DataplaneError::pin("open", &path))?;
    let info = sys::link_info(link.as_fd()).map_err(DataplaneError::pin("look at", &path))?;
    let problem = if info.kind != kind {
        format!("it is no {hook} link")
    } else if info.ifindex != 0 && info.ifindex != ifindex {
        format!("it is attached to interface {}", info.ifindex)
    } else {
        return Ok(());
    };
    Err(DataplaneError::ForeignPin { path, problem })
}

const fn yes() -> bool {
    true
}

fn holder(target: &Target<'_>) -> String {
    match target.occupied {
        Some((mode, id)) => format!("program {id} ({mode} mode)"),
        None => "another program".into(),
    }
}
