//! Attaching: XDP links, one for each guarded interface, pinned and replaced in place.

use std::{
    fmt, io,
    os::fd::{AsFd as _, BorrowedFd},
};

use serde::{Deserialize, Serialize};

use super::{DataplaneError, PinDir, Result, pins, sys};

/// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE` (include/uapi/linux/if_link.h).
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// Where in the receive path the program runs.
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

    const fn flags(self) -> u32 {
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

/// How an interface came to be covered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A pinned link was there; it runs the new program now, without a gap.
    Adopted,
    /// A new link.
    Attached {
        /// The mode that the kernel took.
        mode: AttachMode,
        /// The modes that it refused before, and how.
        refused: Vec<(AttachMode, String)>,
    },
}

/// A pinned link, as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkState {
    /// The interface in the pin's name.
    pub ifindex: u32,
    /// The link's id.
    pub link_id: u32,
    /// The program that the link runs.
    pub program_id: u32,
    /// Whether the link still has its interface: a deleted one severs it, and a new interface of
    /// the same name is another one.
    pub alive: bool,
}

/// Attaches a program to an interface, or puts it into the link that is pinned for it.
pub(super) fn attach(
    pins: &PinDir,
    program: BorrowedFd<'_>,
    target: &Target<'_>,
) -> Result<Outcome> {
    if adopt(pins, program, target)? {
        return Ok(Outcome::Adopted);
    }
    let mut refused: Vec<(AttachMode, io::Error)> = Vec::new();
    for &mode in target.modes {
        match sys::link_create(program, target.ifindex, mode.flags()) {
            Ok(link) => {
                let path = pins.xdp_link(target.ifindex);
                // Should this fail, the descriptor is closed and with it the link: nothing is
                // attached that a dead daemon would take along.
                sys::obj_pin(link.as_fd(), &path).map_err(DataplaneError::pin("pin", path))?;
                let refused = refused.into_iter().map(|(mode, e)| (mode, e.to_string())).collect();
                return Ok(Outcome::Attached { mode, refused });
            }
            // Somebody else's program, in the same mode or in the other.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)) => {
                return Err(slot_taken(target));
            }
            Err(error) => refused.push((mode, error)),
        }
    }
    let tried = target.modes.iter().map(|mode| mode.name()).collect::<Vec<_>>().join(" and ");
    let source = refused.pop().map_or_else(|| io::Error::other("no mode to try"), |(_, e)| e);
    Err(DataplaneError::AttachRefused {
        interface: target.interface.into(),
        tried: format!("a program in {tried} mode"),
        source,
    })
}

/// Puts the program into the pinned link of an interface. False if there is none that lives.
fn adopt(pins: &PinDir, program: BorrowedFd<'_>, target: &Target<'_>) -> Result<bool> {
    let path = pins.xdp_link(target.ifindex);
    let link = match sys::obj_get(&path) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(DataplaneError::pin("open", path)(error)),
    };
    let info = sys::link_info(link.as_fd()).map_err(DataplaneError::pin("look at", &path))?;
    if !info.is_xdp {
        return Err(DataplaneError::ForeignPin { path, problem: "it is no XDP link".into() });
    }
    if info.ifindex == target.ifindex {
        if let (Some((current, _)), [wanted]) = (target.occupied, target.modes)
            && current != *wanted
        {
            return Err(DataplaneError::OtherMode {
                interface: target.interface.into(),
                current: current.name(),
                wanted: wanted.name(),
            });
        }
        match sys::link_update(link.as_fd(), program) {
            Ok(()) => return Ok(true),
            // Severed between the look and the update.
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
            Err(error) => return Err(DataplaneError::pin("update the link", path)(error)),
        }
    } else if info.ifindex != 0 {
        let problem = format!("it is attached to interface {}", info.ifindex);
        return Err(DataplaneError::ForeignPin { path, problem });
    }
    pins::unpin(&path)?;
    Ok(false)
}

/// The pinned links, dead or alive.
pub(super) fn list(pins: &PinDir) -> Result<Vec<LinkState>> {
    let mut states = Vec::new();
    for (ifindex, path) in pins.pinned_links()? {
        let link = sys::obj_get(&path).map_err(DataplaneError::pin("open", &path))?;
        let info = sys::link_info(link.as_fd()).map_err(DataplaneError::pin("look at", &path))?;
        states.push(LinkState {
            ifindex,
            link_id: info.id,
            program_id: info.program_id,
            alive: info.is_xdp && info.ifindex == ifindex,
        });
    }
    Ok(states)
}

fn slot_taken(target: &Target<'_>) -> DataplaneError {
    let holder = match target.occupied {
        Some((mode, id)) => format!("program {id} ({mode} mode)"),
        None => "another program".into(),
    };
    DataplaneError::SlotTaken { interface: target.interface.into(), holder }
}
