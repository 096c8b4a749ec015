//! TCP sockets, from `/proc/<process>/net/tcp` and `tcp6`.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use ollama_guard_common::Protocol;

use crate::policy::Port;

/// The states that matter here (`TCP_ESTABLISHED`, `TCP_LISTEN`, include/net/tcp_states.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Connected.
    Established,
    /// Waiting for connections.
    Listen,
    /// Any other.
    Other,
}

/// One socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Its own end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Its state.
    pub state: State,
    /// The number by which the descriptors of processes name it; unique on this host.
    pub inode: u64,
}

/// Every TCP socket of the network namespace that this `net` directory shows.
///
/// # Errors
///
/// If its files can't be read.
pub fn read(net: &Path) -> io::Result<Vec<Socket>> {
    let mut sockets = parse(&fs::read_to_string(net.join("tcp"))?);
    match fs::read_to_string(net.join("tcp6")) {
        Ok(text) => sockets.extend(parse(&text)),
        // IPv6 may be switched off altogether.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(sockets)
}

/// Who is connected to these ports of this host, by the calling thread's network namespace: the source and the
/// local port, each pair once.
///
/// # Errors
///
/// If that can't be read.
pub fn connected(ports: &BTreeSet<Port>) -> io::Result<BTreeSet<(IpAddr, Port)>> {
    let sockets = read(Path::new("/proc/thread-self/net"))?;
    let connected = sockets.iter().filter(|socket| socket.state == State::Established);
    let pairs = connected.filter_map(|socket| {
        let port = Port { protocol: Protocol::Tcp, number: socket.local.port() };
        let source = socket.remote.ip();
        (ports.contains(&port) && !source.is_loopback()).then_some((source, port))
    });
    Ok(pairs.collect())
}

fn parse(text: &str) -> Vec<Socket> {
    text.lines().skip(1).filter_map(line).collect()
}

/// `0: 0100007F:2CAA 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 12345 1 ...`.
fn line(text: &str) -> Option<Socket> {
    let mut words = text.split_whitespace().skip(1);
    let local = address(words.next()?)?;
    let remote = address(words.next()?)?;
    let state = match words.next()? {
        "01" => State::Established,
        "0A" => State::Listen,
        _ => State::Other,
    };
    let inode = words.nth(5)?.parse().ok()?;
    Some(Socket { local, remote, state, inode })
}

/// The address as 32-bit words, each printed as a number of the host's byte order; the port as a
/// number.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| -> Option<[u8; 4]> {
        Some(u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes())
    };
    let ip: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            // A connection over IPv4 through a socket of both families.
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some((ip, port).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn recorded_lines_are_read() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n\
            0: 0100007F:2CAA 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 \
            58142 1 0000000000000000 100 0 0 10 0\n\
            1: 0100007F:C350 0100007F:2CAA 01 00000000:00000000 00:00000000 00000000     0        0 \
            58143 1 0000000000000000 20 4 30 10 -1\n";
        let expected = [
            Socket {
                local: "127.0.0.1:11434".parse().unwrap(),
                remote: "0.0.0.0:0".parse().unwrap(),
                state: State::Listen,
                inode: 58142,
            },
            Socket {
                local: "127.0.0.1:50000".parse().unwrap(),
                remote: "127.0.0.1:11434".parse().unwrap(),
                state: State::Established,
                inode: 58143,
            },
        ];
        assert_eq!(parse(text), expected);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn both_kinds_of_v6_addresses_are_read() {
        let read = |text| address(text).unwrap().to_string();
        assert_eq!(read("00000000000000000000000000000000:2CAA"), "[::]:11434");
        assert_eq!(read("B80D0120000000000000000001000000:0050"), "[2001:db8::1]:80");
        assert_eq!(read("0000000000000000FFFF00000100007F:2CAA"), "127.0.0.1:11434");
    }

    #[test]
    fn lines_that_are_none_are_passed_over() {
        assert_eq!(parse(""), []);
        assert_eq!(parse("head\n0: xyz 1 2\n1: 0100007F:2CAA\n"), []);
        assert_eq!(address("0100007F00:2CAA"), None);
    }
}
