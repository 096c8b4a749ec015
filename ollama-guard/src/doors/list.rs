//! The kernel's lists, of interfaces first of all, over rtnetlink.
//!
//! The list is complete or an error: an interface that is silently missing from it is an open
//! door. That is why the typed messages of the netlink crates are not used here: they drop a whole
//! message, with nothing but a log line, if they cannot decode one of its hundred attributes, and
//! take a dump that broke off for a complete one.

use std::{convert::Infallible, io, pin::pin};

use futures_util::StreamExt;
use rtnetlink::{
    packet_core::{
        NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
        NetlinkMessage, NetlinkPayload, NetlinkSerializable,
    },
    proto::{self, ConnectionHandle, sys::SocketAddr, sys::protocols::NETLINK_ROUTE},
};

use super::{interface::Interface, link_message};

/// Dumps that are tried: the kernel marks one during which interfaces came or went.
const ATTEMPTS: usize = 8;

/// Why the interfaces could not be listed.
#[derive(Debug, thiserror::Error)]
pub enum DoorsError {
    /// No netlink socket.
    #[error(
        "cannot open a netlink socket to list the interfaces: allow AF_NETLINK (in a systemd unit: \
         RestrictAddressFamilies)"
    )]
    Socket(#[source] io::Error),
    /// The kernel refused to list the interfaces, or broke off.
    #[error("the kernel refuses to list the interfaces over netlink")]
    Refused(#[source] io::Error),
    /// The socket failed before the list was complete.
    #[error("the netlink socket failed before the list of interfaces was complete: try again")]
    Incomplete,
    /// Interfaces came and went during every attempt.
    #[error(
        "interfaces came and went during each of {ATTEMPTS} attempts to list them: try again when \
         fewer containers or tunnels are starting"
    )]
    Unsteady,
    /// The kernel's description of an interface is not what this program understands.
    #[error(
        "the kernel's description of interface number {ifindex} cannot be read: please report it \
         with the output of `ip -details link show`"
    )]
    Malformed {
        /// The interface's number; 0 if not even that can be read.
        ifindex: u32,
    },
}

/// Lists the interfaces of the calling thread's network namespace, in the order of their ifindex.
///
/// The namespace is that of the thread on which the future is first polled. Needs no privilege, and
/// a tokio runtime with I/O.
///
/// # Errors
///
/// If netlink is not available or fails, and if the list would not be complete.
pub async fn list() -> Result<Vec<Interface>, DoorsError> {
    let messages = dump(link_message::RTM_GETLINK, link_message::dump_request()).await?;
    let mut interfaces =
        messages.iter().map(|bytes| link_message::read(bytes)).collect::<Result<Vec<_>, _>>()?;
    interfaces.sort_by_key(|interface| interface.ifindex);
    Ok(interfaces)
}

/// The payloads of everything that the kernel lists for such a request.
pub(super) async fn dump(kind: u16, request: Vec<u8>) -> Result<Vec<Vec<u8>>, DoorsError> {
    let (mut connection, handle, _unsolicited) =
        proto::new_connection::<Payload>(NETLINK_ROUTE).map_err(DoorsError::Socket)?;
    connection.set_forward_done(true);
    let request = Payload { kind, bytes: request };
    tokio::select! {
        // An answer that has arrived counts more than the end of the connection behind it.
        biased;
        list = undisturbed(&handle, request) => list,
        () = pin!(connection) => Err(DoorsError::Incomplete),
    }
}

async fn undisturbed(
    handle: &ConnectionHandle<Payload>,
    request: Payload,
) -> Result<Vec<Vec<u8>>, DoorsError> {
    for _ in 0..ATTEMPTS {
        if let Some(messages) = dump_once(handle, request.clone()).await? {
            return Ok(messages);
        }
    }
    Err(DoorsError::Unsteady)
}

/// `None` if the kernel says that the list changed while it was being read.
async fn dump_once(
    handle: &ConnectionHandle<Payload>,
    request: Payload,
) -> Result<Option<Vec<Vec<u8>>>, DoorsError> {
    let payload = NetlinkPayload::InnerMessage(request);
    let mut request = NetlinkMessage::new(NetlinkHeader::default(), payload);
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let kernel = SocketAddr::new(0, 0);
    let mut answers = handle.request(request, kernel).map_err(|_| DoorsError::Incomplete)?;
    let mut messages = Vec::new();
    let mut is_disturbed = false;
    while let Some(answer) = answers.next().await {
        is_disturbed |= answer.header.flags & NLM_F_DUMP_INTR != 0;
        match answer.payload {
            NetlinkPayload::InnerMessage(Payload { bytes, .. }) => messages.push(bytes),
            NetlinkPayload::Done(done) if done.code == 0 => {
                return Ok((!is_disturbed).then_some(messages));
            }
            NetlinkPayload::Done(done) => {
                return Err(DoorsError::Refused(io::Error::from_raw_os_error(-done.code)));
            }
            NetlinkPayload::Error(error) => return Err(DoorsError::Refused(error.to_io())),
            _ => return Err(DoorsError::Incomplete),
        }
    }
    Err(DoorsError::Incomplete)
}

/// The bytes of a message behind the netlink header, in either direction.
#[derive(Clone, Debug)]
struct Payload {
    kind: u16,
    bytes: Vec<u8>,
}

impl NetlinkSerializable for Payload {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.bytes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.bytes);
    }
}

impl NetlinkDeserializable for Payload {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self { kind: header.message_type, bytes: payload.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_loopback_of_this_machine_is_listed() {
        let interfaces = list().await.expect("netlink answers everybody");
        let loopback = interfaces.iter().find(|i| i.name == "lo").expect("every namespace has one");
        assert_eq!(loopback.arphrd, 772);
        assert!(loopback.is_loopback());
        assert_eq!(loopback.kind, None);
        assert!(loopback.mtu > 0);
        assert!(interfaces.is_sorted_by(|a, b| a.ifindex < b.ifindex));
    }
}
