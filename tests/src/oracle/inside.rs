//! A server's side of its doors: what arrives behind the guard, on every device at once. A packet
//! socket of one device would need the device's hardware address, which a tun device has not.

use std::{
    io::IoSliceMut,
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};
use nix::{
    ifaddrs::getifaddrs,
    net::if_::if_nametoindex,
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg, sendto,
        setsockopt, socket, sockopt,
    },
};

use super::{case::Door, lab::CABLES};
use crate::bed::Namespace;

/// Room for a batch.
const RECEIVE_BUFFER: usize = 64 << 20;
/// `PACKET_OUTGOING` of `linux/if_packet.h`: a frame that this host sends.
const OUTGOING: u8 = 4;

/// A packet socket on every device of a server.
#[derive(Debug)]
pub struct Inside {
    socket: OwnedFd,
    doors: Vec<(usize, Door)>,
    cables: [LinkAddr; 2],
}

impl Inside {
    /// Opens it; the doors are there.
    ///
    /// # Errors
    ///
    /// If one is not.
    pub fn open(namespace: &Namespace, doors: &[(&str, Door)]) -> Result<Self> {
        namespace.enter(|| {
            let flags = SockFlag::SOCK_CLOEXEC;
            let all = SockProtocol::EthAll;
            let socket = socket(AddressFamily::Packet, SockType::Raw, flags, all)?;
            setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
            let doors = doors
                .iter()
                .map(|(name, door)| {
                    let index = if_nametoindex(*name).with_context(|| format!("no {name}"))?;
                    Ok((index as usize, *door))
                })
                .collect::<Result<_>>()?;
            let cable = |name: &str| {
                getifaddrs()?
                    .filter(|entry| entry.interface_name == name)
                    .find_map(|entry| entry.address?.as_link_addr().copied())
                    .with_context(|| format!("no {name}"))
            };
            Ok(Self { socket, doors, cables: [cable(CABLES[0])?, cable(CABLES[1])?] })
        })?
    }

    /// The next frame that came in by a door, if there is one. Does not wait.
    pub fn poll<'b>(&self, buffer: &'b mut [u8]) -> Option<(&'b [u8], Door)> {
        loop {
            let mut parts = [IoSliceMut::new(buffer)];
            let socket = self.socket.as_raw_fd();
            let message =
                recvmsg::<LinkAddr>(socket, &mut parts, None, MsgFlags::MSG_DONTWAIT).ok()?;
            let (length, from) = (message.bytes, message.address?);
            let door = self.doors.iter().find(|door| door.0 == from.ifindex());
            if let Some((_, door)) = door
                && from.pkttype() != OUTGOING
            {
                return Some((&buffer[..length], *door));
            }
        }
    }

    /// Sends a frame out by a cable.
    ///
    /// # Errors
    ///
    /// If the device does not take it.
    pub fn send(&self, cable: usize, frame: &[u8]) -> Result<()> {
        sendto(self.socket.as_raw_fd(), frame, &self.cables[cable], MsgFlags::empty())
            .with_context(|| format!("sending a frame out by {}", CABLES[cable]))?;
        Ok(())
    }
}
