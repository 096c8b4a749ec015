//! The listening socket, and where it is to be.

use std::{
    future::pending,
    io,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connections that wait for being accepted.
const BACKLOG: u32 = 64;

/// Why an address can't be listened at.
#[derive(Debug, Error)]
pub enum PlaceError {
    /// Somebody else does.
    #[error(
        "another program listens at {0}: end it, or name another address with --metrics, \
         OLLAMA_GUARD_METRICS or `listen` under [metrics], or \"off\""
    )]
    Taken(SocketAddr),
    /// This host has no such address.
    #[error("this host has no address {0}: give it the address, or listen at one that it has")]
    NotOurs(IpAddr),
    /// The kernel does not allow it.
    #[error(
        "listening at {0} is not permitted: a port below 1024 takes CAP_NET_BIND_SERVICE when the \
         daemon starts, and another port than that of the start takes a restart"
    )]
    NotPermitted(SocketAddr),
    /// Something else.
    #[error("cannot listen at {address}: {source}")]
    Other {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

/// Where metrics are served, and where they should be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Where they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served_at: Option<SocketAddr>,
    /// Why they are not where they should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// A listening socket that can move.
///
/// An address that can't be had is no error of whoever wants it: the guard guards all the same. It is
/// told and tried again, and what was listened at before goes on until then.
#[derive(Debug)]
pub struct Place {
    wanted: Option<SocketAddr>,
    listening: Option<(SocketAddr, TcpListener)>,
    trouble: Option<String>,
}

impl Place {
    /// Listens there, if it can. Nobody is answered yet. Needs a tokio runtime.
    #[must_use]
    pub fn new(wanted: Option<SocketAddr>) -> Self {
        let mut place = Self { wanted: None, listening: None, trouble: None };
        place.go(wanted);
        place
    }

    /// Goes there, if it can. What it said of that is in [`Place::standing`].
    pub(super) fn go(&mut self, wanted: Option<SocketAddr>) {
        self.wanted = wanted;
        let before = self.trouble.take();
        let Some(address) = wanted else {
            if let Some((old, _)) = self.listening.take() {
                tracing::info!("metrics are not served at {old} any more");
            }
            return;
        };
        if self.served_at() == wanted {
            return;
        }
        match self.listen(address) {
            Ok(listener) => {
                tracing::info!("metrics are served at http://{address}/metrics");
                self.listening = Some((address, listener));
            }
            Err(error) => {
                let text = error.to_string();
                if before.as_ref() != Some(&text) {
                    match self.served_at() {
                        Some(old) => tracing::error!(
                            "metrics stay at {old}: {text}; it is tried again all the time"
                        ),
                        None => tracing::error!(
                            "METRICS ARE NOT SERVED, the guard guards all the same: {text}; it is \
                             tried again all the time"
                        ),
                    }
                }
                self.trouble = Some(text);
            }
        }
    }

    /// Tries again what did not succeed. Returns whether there was anything to try.
    pub(super) fn try_again(&mut self) -> bool {
        let is_elsewhere = self.served_at() != self.wanted;
        if is_elsewhere {
            self.go(self.wanted);
        }
        is_elsewhere
    }

    /// The next client; never, while nothing is listened at. Nothing is lost if the future is
    /// dropped.
    pub(super) async fn accept(&self) -> io::Result<TcpStream> {
        match &self.listening {
            Some((_, listener)) => listener.accept().await.map(|(stream, _)| stream),
            None => pending().await,
        }
    }

    /// Where it is, and why not elsewhere.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing { served_at: self.served_at(), trouble: self.trouble.clone() }
    }

    fn served_at(&self) -> Option<SocketAddr> {
        self.listening.as_ref().map(|(address, _)| *address)
    }

    /// The new one before the old one is left, but where the old one is in the way.
    fn listen(&mut self, address: SocketAddr) -> Result<TcpListener, PlaceError> {
        let error = match listen(address) {
            Err(error @ PlaceError::Taken(_)) => error,
            done => return done,
        };
        let Some((old, _)) = self.listening.take_if(|(old, _)| old.port() == address.port()) else {
            return Err(error);
        };
        listen(address).inspect_err(|_| {
            self.listening = listen(old).ok().map(|listener| (old, listener));
        })
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, PlaceError> {
    let attempt = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        // Connections of an earlier daemon that linger do not keep the port.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    attempt().map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => PlaceError::Taken(address),
        io::ErrorKind::AddrNotAvailable => PlaceError::NotOurs(address.ip()),
        io::ErrorKind::PermissionDenied => PlaceError::NotPermitted(address),
        _ => PlaceError::Other { address, source },
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// A port that is free at this moment.
    fn free() -> SocketAddr {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.local_addr().unwrap()
    }

    #[tokio::test]
    async fn what_is_taken_is_told_and_had_once_it_is_free() {
        let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = taken.local_addr().unwrap();
        let mut place = Place::new(Some(address));
        let standing = place.standing();
        assert_eq!(standing.served_at, None);
        assert!(standing.trouble.unwrap().starts_with("another program listens at 127.0.0.1:"));
        assert!(place.try_again());
        drop(taken);
        assert!(place.try_again());
        assert_eq!(place.standing(), Standing { served_at: Some(address), trouble: None });
        assert!(!place.try_again());
    }

    #[tokio::test]
    async fn the_old_address_stays_until_the_new_one_is_had() {
        let (first, second) = (free(), free());
        let mut place = Place::new(Some(first));
        let taken = std::net::TcpListener::bind(second).unwrap();
        place.go(Some(second));
        assert_eq!(place.standing().served_at, Some(first));
        assert!(place.standing().trouble.is_some());
        TcpStream::connect(first).await.unwrap();
        drop(taken);
        assert!(place.try_again());
        assert_eq!(place.standing(), Standing { served_at: Some(second), trouble: None });
        place.go(None);
        assert_eq!(place.standing(), Standing::default());
        assert!(TcpStream::connect(second).await.is_err());
    }

    #[tokio::test]
    async fn an_address_that_overlaps_with_the_old_one_is_had() {
        let own = free();
        let all = SocketAddr::from((Ipv4Addr::UNSPECIFIED, own.port()));
        let mut place = Place::new(Some(own));
        place.go(Some(all));
        assert_eq!(place.standing(), Standing { served_at: Some(all), trouble: None });
        // TEST-NET-1 (RFC 5737) is on no host, and back is the way then.
        let nowhere = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), own.port()));
        place.go(Some(nowhere));
        assert_eq!(place.standing().served_at, Some(all));
        assert!(place.standing().trouble.unwrap().contains("this host has no address 192.0.2.1"));
    }
}
