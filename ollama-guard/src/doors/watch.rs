//! The kernel's word that something about an interface has changed.
//!
//! What changed is not read from the message: whoever waits here lists the interfaces anew and
//! compares. So a message that was lost, because the socket's buffer was full, costs nothing: the
//! kernel says that one was lost, and that is a change too.

use std::{io, time::Duration};

use rtnetlink::proto::sys::{
    AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE,
};
use tokio::time::{Instant, timeout, timeout_at};

use super::list::DoorsError;

/// `RTNLGRP_LINK` (include/uapi/linux/rtnetlink.h): interfaces that come, go or change.
const LINK_GROUP: u32 = 1;
/// `RTNLGRP_IPV4_IFADDR` and `RTNLGRP_IPV6_IFADDR`: addresses that come or go.
const ADDRESS_GROUPS: [u32; 2] = [5, 9];

/// One `ip link` command makes several messages: wait until they have stopped...
const QUIET: Duration = Duration::from_millis(10);
/// ...but not for ever: some hosts never stop.
const LONGEST: Duration = Duration::from_millis(100);

/// A socket on which the kernel tells of every change.
pub struct Watch {
    socket: TokioSocket,
}

impl Watch {
    /// Opens it, in the network namespace of the calling thread. Needs no privilege, and a tokio
    /// runtime. Changes from now on are told: of interfaces, and of addresses if they matter.
    ///
    /// # Errors
    ///
    /// If netlink is not available.
    pub fn open(with_addresses: bool) -> Result<Self, DoorsError> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(DoorsError::Socket)?;
        let inner = socket.socket_mut();
        inner.bind(&SocketAddr::new(0, 0)).map_err(DoorsError::Socket)?;
        inner.add_membership(LINK_GROUP).map_err(DoorsError::Socket)?;
        for group in ADDRESS_GROUPS.into_iter().filter(|_| with_addresses) {
            inner.add_membership(group).map_err(DoorsError::Socket)?;
        }
        Ok(Self { socket })
    }

    /// Waits until something changes, and then until the messages about it have stopped, a tenth
    /// of a second at most. Cancel-safe: a change that was not answered for is still a change to
    /// whoever lists the interfaces.
    ///
    /// # Errors
    ///
    /// If the socket does not work any more.
    pub async fn changed(&self) -> Result<(), DoorsError> {
        self.message().await?;
        let end = Instant::now() + LONGEST;
        while let Ok(Ok(message)) = timeout_at(end, timeout(QUIET, self.message())).await {
            message?;
        }
        Ok(())
    }

    async fn message(&self) -> Result<(), DoorsError> {
        match self.socket.recv_from_full().await {
            Ok(_) => Ok(()),
            Err(error) if is_overrun(&error) => Ok(()),
            Err(error) => Err(DoorsError::Socket(error)),
        }
    }
}

/// More was said than the socket's buffer holds (netlink(7)).
fn is_overrun(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32)
}
