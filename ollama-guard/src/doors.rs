//! Doors: the interfaces that packets can arrive on.
//!
//! [`list`] asks the kernel what interfaces there are; [`choose`] decides, for every one of them,
//! whether it is to be guarded and how, or why it is not. The choice is a pure function of the
//! list and of the operator's [`Selection`], and answers for every interface, so that `status` can
//! show each of them with a reason.
//!
//! The automatic choice keeps one door for each path and prefers a door too many to one too few: an
//! interface is left out only if it is known that nothing arrives on it from outside, or that another
//! *guarded* interface sees the same packets first.
//!
//! Not here: attaching (the dataplane), and the patterns of the configuration (the selection is
//! handed in as functions of a name).

#![forbid(unsafe_code)]

mod addresses;
mod cgroup;
mod choose;
mod groups;
mod interface;
mod kind;
mod link_message;
mod list;
mod skip;
pub mod sockets;
mod watch;

pub use addresses::{HostAddress, list_addresses};
pub use cgroup::{Cgroup, CgroupError};
pub use choose::{Door, Plan, Selection, choose, loopback_named, unmatched};
pub use groups::{HOST_GROUPS, HostGroups};
pub use interface::{Interface, XdpSlots};
pub use list::{DoorsError, list};
pub use skip::Skip;
pub use watch::Watch;
