//! Which interfaces' drivers can run XDP programs, asked of the kernel (generic netlink, family
//! `netdev`; Linux 6.3 and later).

use std::{collections::BTreeMap, io, os::fd::AsRawFd as _};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use rtnetlink::packet_core::{NlasIterator, parse_u16, parse_u32, parse_u64};

/// `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_ID`, `CTRL_ATTR_FAMILY_NAME`
/// (include/uapi/linux/genetlink.h).
const CONTROLLER: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// `NETDEV_CMD_DEV_GET`, `NETDEV_A_DEV_IFINDEX`, `NETDEV_A_DEV_XDP_FEATURES`, and
/// `NETDEV_XDP_ACT_BASIC` (include/uapi/linux/netdev.h).
const DEV_GET: u8 = 1;
const DEV_IFINDEX: u16 = 1;
const DEV_XDP_FEATURES: u16 = 3;
const XDP_BASIC: u64 = 1;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
/// `struct nlmsghdr` and `struct genlmsghdr`.
const HEADERS: usize = 16 + 4;
const PATIENCE_SECONDS: i64 = 2;

/// Whether native XDP is possible, by ifindex, in the calling thread's network namespace.
///
/// # Errors
///
/// `ENOENT` if the kernel does not have the family.
pub(super) fn native_support() -> io::Result<BTreeMap<u32, bool>> {
    let family = ask(CONTROLLER, REQUEST, GET_FAMILY, &attribute(FAMILY_NAME, b"netdev\0"))?
        .iter()
        .find_map(|attributes| find(attributes, FAMILY_ID).and_then(|v| parse_u16(v).ok()))
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
    let devices = ask(family, REQUEST | DUMP, DEV_GET, &[])?;
    let read = |attributes: &Vec<u8>| {
        let ifindex = parse_u32(find(attributes, DEV_IFINDEX)?).ok()?;
        let features = parse_u64(find(attributes, DEV_XDP_FEATURES)?).ok()?;
        Some((ifindex, features & XDP_BASIC != 0))
    };
    Ok(devices.iter().filter_map(read).collect())
}

/// The attributes of every answer.
fn ask(kind: u16, flags: u16, command: u8, attributes: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkGeneric,
    )?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE_SECONDS, 0))?;
    connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    let length = (HEADERS + attributes.len()) as u32;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence number and port: the kernel fills in the port, and there is one question a socket.
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend(attributes);
    send(socket.as_raw_fd(), &message, MsgFlags::empty())?;
    let mut answers = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if read_answers(&buffer[..length], &mut answers)? || flags & DUMP == 0 {
            return Ok(answers);
        }
    }
}

/// Whether the last answer was among these.
fn read_answers(mut bytes: &[u8], answers: &mut Vec<Vec<u8>>) -> io::Result<bool> {
    let broken = || io::Error::from(io::ErrorKind::InvalidData);
    while bytes.len() >= 16 {
        let length = u32::from_ne_bytes(bytes[..4].try_into().map_err(|_| broken())?) as usize;
        let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
        let message = bytes.get(16..length).ok_or_else(broken)?;
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let code = message.get(..4).and_then(|code| code.try_into().ok());
                return Err(io::Error::from_raw_os_error(-i32::from_ne_bytes(
                    code.ok_or_else(broken)?,
                )));
            }
            _ => answers.push(message.get(4..).ok_or_else(broken)?.to_vec()),
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    // The iterator's items borrow from the slice.
    NlasIterator::new(attributes).flatten().find(|one| one.kind() == kind).map(|one| {
        let start = one.value().as_ptr() as usize - attributes.as_ptr() as usize;
        &attributes[start..start + one.value().len()]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_what_loopback_can_do_or_that_it_does_not_know_the_question() {
        match native_support() {
            // Loopback has no driver that runs XDP; not every kernel lists it.
            Ok(found) => assert_ne!(found.get(&1), Some(&true)),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{error}"),
        }
    }

    #[test]
    fn an_error_and_broken_bytes_are_errors() {
        let mut refusal = 36_u32.to_ne_bytes().to_vec();
        refusal.extend(NLMSG_ERROR.to_ne_bytes());
        refusal.extend([0; 10]);
        refusal.extend((-2_i32).to_ne_bytes());
        refusal.extend([0; 16]);
        let error = read_answers(&refusal, &mut Vec::new()).expect_err("a refusal");
        assert_eq!(error.raw_os_error(), Some(2));
        refusal.truncate(20);
        assert!(read_answers(&refusal, &mut Vec::new()).is_err());
    }
}
