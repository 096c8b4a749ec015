//! What listens on a server. Nothing here runs by itself: the trial calls [`Services::serve`]
//! between two looks at the wires, so that both servers have done the same when they are
//! compared.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
};

use anyhow::{Context as _, Result};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, listen,
    setsockopt, socket, sockopt,
};

use super::cast::{LOOPBACK_PORT, OTHER_PORT, SERVER_LINK_LOCAL, SINGLE_PORT, SINGLE4, SINGLE6};
use crate::{
    bed::Namespace,
    policy::{GUARDED, SERVER4, SERVER6},
};

/// Room for the datagrams of one batch.
const RECEIVE_BUFFER: usize = 16 << 20;

/// Somebody whom a listener has got to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Who.
    pub peer: IpAddr,
    /// At which port.
    pub port: u16,
}

/// The listeners of a server.
#[derive(Debug)]
pub struct Services {
    listeners: Vec<(u16, TcpListener)>,
    echoes: Vec<UdpSocket>,
    connections: Vec<TcpStream>,
}

impl Services {
    /// Listens in a namespace, which has its addresses: on every address, on 127.0.0.1 only, and
    /// on one address of each family only.
    ///
    /// # Errors
    ///
    /// If a port is taken.
    pub fn start_in(namespace: &Namespace) -> Result<Self> {
        namespace.enter(|| {
            let everywhere = |port| SocketAddr::from(([0_u16; 8], port));
            let listeners = [
                everywhere(GUARDED),
                everywhere(OTHER_PORT),
                ([127, 0, 0, 1], LOOPBACK_PORT).into(),
                (SINGLE4, SINGLE_PORT).into(),
                (SINGLE6, SINGLE_PORT).into(),
            ];
            let listeners = listeners
                .into_iter()
                .map(|address| Ok((address.port(), listener(address)?)))
                .collect::<Result<_>>()?;
            let echoes = [GUARDED, OTHER_PORT]
                .map(everywhere)
                .into_iter()
                .map(echo)
                .collect::<Result<_>>()?;
            Ok(Self { listeners, echoes, connections: Vec::new() })
        })?
    }

    /// Does what there is to do, and tells who has come.
    ///
    /// # Errors
    ///
    /// If a socket fails for another reason than its peer.
    pub fn serve(&mut self) -> Result<Vec<Guest>> {
        let mut guests = Vec::new();
        for (port, listener) in &self.listeners {
            loop {
                match listener.accept() {
                    Ok((stream, peer)) => {
                        stream.set_nonblocking(true)?;
                        guests.push(Guest { peer: peer.ip().to_canonical(), port: *port });
                        self.connections.push(stream);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                    Err(error) => return Err(error).context("accepting"),
                }
            }
        }
        self.connections.retain_mut(|stream| !has_answered(stream));
        let mut buffer = vec![0; 64 * 1024];
        for echo in &self.echoes {
            // Errors of earlier answers, such as an unreachable sender, are none of this one.
            loop {
                match echo.recv_from(&mut buffer) {
                    // A source that is made up as one of ours would be answered for ever.
                    Ok((_, peer)) if is_own(peer.ip().to_canonical()) => {}
                    Ok((length, peer)) => {
                        let _ = echo.send_to(&buffer[..length], peer);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(_) => {}
                }
            }
        }
        Ok(guests)
    }
}

fn is_own(address: IpAddr) -> bool {
    let own: [IpAddr; 5] =
        [SERVER4.into(), SINGLE4.into(), SERVER6.into(), SINGLE6.into(), SERVER_LINK_LOCAL.into()];
    address.is_loopback() || own.contains(&address)
}

/// Answers a connection that has asked something, and ends it; or finds that it has ended.
fn has_answered(stream: &mut TcpStream) -> bool {
    let mut request = [0; 1024];
    match stream.read(&mut request) {
        Ok(0) => true,
        Ok(length) => {
            let heard = String::from_utf8_lossy(&request[..length]);
            // A client that went away early is its own business.
            let _ = write!(stream, "served: {heard}");
            true
        }
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// With the longest queue there is, which the standard library does not offer.
fn listener(address: SocketAddr) -> Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, SockProtocol::Tcp)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))
        .with_context(|| format!("binding {address}"))?;
    listen(&socket, Backlog::MAXALLOWABLE).with_context(|| format!("listening on {address}"))?;
    Ok(socket.into())
}

fn echo(address: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(address).with_context(|| format!("binding {address} for UDP"))?;
    socket.set_nonblocking(true)?;
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
    Ok(socket)
}
