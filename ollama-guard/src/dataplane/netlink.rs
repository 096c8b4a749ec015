//! Requests to the kernel's packet schedulers over rtnetlink, one at a time.
//!
//! Encoded by hand: aya does not list filters, and the typed messages of the netlink crates drop a
//! whole message if they can't decode one of its attributes.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

/// `struct nlmsghdr` (include/uapi/linux/netlink.h).
const HEADER: usize = 16;
/// `struct tcmsg` (include/uapi/linux/rtnetlink.h).
const TC_HEADER: usize = 20;
/// The kernel never sends more at once (`netlink_recvmsg`, net/netlink/af_netlink.c).
const LARGEST: usize = 64 * 1024;
/// Dumps that are tried: the kernel marks one during which filters came or went.
const ATTEMPTS: usize = 8;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
/// Replace what is there.
pub(super) const NLM_F_REPLACE: u16 = 0x100;
/// Fail with `EEXIST` if it is there.
pub(super) const NLM_F_EXCL: u16 = 0x200;
/// Make it if it is not there.
pub(super) const NLM_F_CREATE: u16 = 0x400;

/// A message about a queueing discipline or a filter: `struct tcmsg` and attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TcMessage {
    pub(super) ifindex: u32,
    pub(super) handle: u32,
    pub(super) parent: u32,
    /// Of a filter: priority in the upper half, the link protocol in network byte order in the
    /// lower.
    pub(super) info: u32,
    pub(super) attributes: Vec<u8>,
}

impl TcMessage {
    /// Adds an attribute.
    pub(super) fn with(mut self, kind: u16, payload: &[u8]) -> Self {
        self.attributes.extend(attribute(kind, payload));
        self
    }

    fn encode(&self) -> Vec<u8> {
        // Family AF_UNSPEC and padding.
        let mut bytes = vec![0; 4];
        for word in [self.ifindex, self.handle, self.parent, self.info] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(&self.attributes);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let [ifindex, handle, parent, info] = [4, 8, 12, 16].map(|at| word(bytes, at));
        Some(Self {
            ifindex: ifindex?,
            handle: handle?,
            parent: parent?,
            info: info?,
            attributes: bytes.get(TC_HEADER..)?.to_vec(),
        })
    }
}

/// One attribute, padded.
pub(super) fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + 8);
    bytes.extend((payload.len() as u16 + 4).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The attributes in a message or in an attribute.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(half(bytes, 0)?);
        // The two upper bits are flags (`NLA_TYPE_MASK`).
        let kind = half(bytes, 2)? & 0x3fff;
        let payload = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    })
}

/// The first attribute of a kind.
pub(super) fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, payload)| payload)
}

/// A number in host byte order.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Asks for a change and waits for the kernel's answer.
pub(super) fn change(kind: u16, flags: u16, message: &TcMessage) -> io::Result<()> {
    let socket = open()?;
    put(&socket, kind, NLM_F_REQUEST | NLM_F_ACK | flags, message)?;
    loop {
        let bytes = take(&socket)?;
        for (kind, _, payload) in messages(&bytes)? {
            if kind == NLMSG_ERROR {
                return outcome(payload);
            }
        }
    }
}

/// Lists what the request selects, of the kind `answer`: all of it, or an error.
pub(super) fn dump(kind: u16, answer: u16, request: &TcMessage) -> io::Result<Vec<TcMessage>> {
    for _ in 0..ATTEMPTS {
        if let Some(found) = dump_once(kind, answer, request)? {
            return Ok(found);
        }
    }
    Err(io::Error::other("the list changed during every attempt to read it"))
}

fn dump_once(kind: u16, answer: u16, request: &TcMessage) -> io::Result<Option<Vec<TcMessage>>> {
    let socket = open()?;
    put(&socket, kind, NLM_F_REQUEST | NLM_F_DUMP, request)?;
    let (mut found, mut is_disturbed) = (Vec::new(), false);
    loop {
        let bytes = take(&socket)?;
        for (kind, flags, payload) in messages(&bytes)? {
            is_disturbed |= flags & NLM_F_DUMP_INTR != 0;
            match kind {
                NLMSG_ERROR => return outcome(payload).map(|()| None),
                NLMSG_DONE => {
                    outcome(payload)?;
                    return Ok((!is_disturbed).then_some(found));
                }
                kind if kind == answer => {
                    found.push(TcMessage::decode(payload).ok_or_else(malformed)?);
                }
                _ => {}
            }
        }
    }
}

fn open() -> io::Result<OwnedFd> {
    let route = SockProtocol::NetlinkRoute;
    Ok(socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, route)?)
}

fn put(socket: &OwnedFd, kind: u16, flags: u16, message: &TcMessage) -> io::Result<()> {
    let body = message.encode();
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // Sequence number and port: the socket is for this request alone.
    bytes.extend([0; 8]);
    bytes.extend(body);
    // Without an address it goes to the kernel.
    send(socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
    Ok(())
}

fn take(socket: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; LARGEST];
    let length = recv(socket.as_raw_fd(), &mut bytes, MsgFlags::empty())?;
    bytes.truncate(length);
    Ok(bytes)
}

/// Kind, flags and payload of each message in a datagram.
fn messages(mut bytes: &[u8]) -> io::Result<Vec<(u16, u16, &[u8])>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let parts = || {
            let length = word(bytes, 0)? as usize;
            Some((half(bytes, 4)?, half(bytes, 6)?, bytes.get(HEADER..length)?, length))
        };
        let (kind, flags, payload, length) = parts().ok_or_else(malformed)?;
        found.push((kind, flags, payload));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(found)
}

/// The error number at the begin of an answer; 0 is success.
fn outcome(payload: &[u8]) -> io::Result<()> {
    match word(payload, 0).ok_or_else(malformed)? as i32 {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(-number)),
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's netlink answer can't be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_back_as_they_were_put() {
        let inner = attribute(7, b"name\0");
        let message = TcMessage {
            ifindex: 3,
            handle: 1,
            parent: 0xffff_fff2,
            info: 9,
            ..TcMessage::default()
        }
        .with(1, b"bpf\0")
        .with(2 | 0x8000, &inner);
        let back = TcMessage::decode(&message.encode()).unwrap();
        assert_eq!(back, message);
        assert_eq!(find(&back.attributes, 1), Some(&b"bpf\0"[..]));
        let nested = find(&back.attributes, 2).unwrap();
        assert_eq!(find(nested, 7), Some(&b"name\0"[..]));
        assert_eq!(find(nested, 8), None);
    }

    #[test]
    fn cut_answers_are_errors_and_no_panics() {
        let whole = TcMessage::default().with(1, b"bpf\0").encode();
        for length in 0..whole.len() {
            let _ = TcMessage::decode(&whole[..length]).map(|m| attributes(&m.attributes).count());
            assert!(messages(&whole[..length]).is_err() || length == 0, "{length}");
        }
        assert!(outcome(&[0, 0]).is_err());
    }
}
