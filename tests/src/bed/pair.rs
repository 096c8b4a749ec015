//! Two hosts and a cable: a server, and a client that speaks as the friend and as strangers.
//!
//! What runs over the cable, such as a tunnel, is the test's own: [`Pair::settle`] then puts the
//! addresses of server, friend and strangers on it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    panic::resume_unwind,
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};

use super::{
    Answer, Asker, CLIENT_INTERFACE, Namespace, SERVER_DOOR, get, next_number, topology::settle,
};
use crate::policy::{FRIEND4, FRIEND6, GUARDED, SERVER4, SERVER6, STRANGER4, STRANGER6};

/// The longest packet on an ordinary cable.
pub const CABLE_MTU: u32 = 1500;

/// The networks of the cable itself are narrow: the documentation networks are for what runs over
/// it.
const CABLE_PREFIX: u8 = 30;
/// How long somebody waits that is expected to be served. Long: the machine may be busy.
const SERVED_PATIENCE: Duration = Duration::from_secs(5);
/// How long somebody waits that is expected to get nothing: the first SYN and its first repeat.
const SILENT_PATIENCE: Duration = Duration::from_millis(1500);

/// A server and a client. The cable ends at [`SERVER_DOOR`] and [`CLIENT_INTERFACE`].
#[derive(Debug)]
pub struct Pair {
    /// The server.
    pub server: Namespace,
    /// The client, which has the addresses of the friend and of strangers.
    pub client: Namespace,
}

impl Pair {
    /// The server's address on the cable.
    pub const SERVER_END: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 241);
    /// The client's address on the cable.
    pub const CLIENT_END: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 242);

    /// Makes both and lays the cable, for packets of this length.
    ///
    /// # Errors
    ///
    /// If something can't be made, mostly for want of root.
    pub fn new(mtu: u32) -> Result<Self> {
        let number = next_number();
        let pair = Self {
            server: Namespace::new(number, "server")?,
            client: Namespace::new(number, "client")?,
        };
        let mtu = mtu.to_string();
        pair.server.ip(&[
            "link",
            "add",
            SERVER_DOOR,
            "mtu",
            &mtu,
            "type",
            "veth",
            "peer",
            "name",
            CLIENT_INTERFACE,
            "mtu",
            &mtu,
            "netns",
            pair.client.name(),
        ])?;
        for (namespace, interface, address) in [
            (&pair.server, SERVER_DOOR, Self::SERVER_END),
            (&pair.client, CLIENT_INTERFACE, Self::CLIENT_END),
        ] {
            let prefix = format!("{address}/{CABLE_PREFIX}");
            namespace.ip(&["address", "add", &prefix, "dev", interface])?;
            namespace.ip(&["link", "set", interface, "up"])?;
        }
        Ok(pair)
    }

    /// Puts the addresses of server, friend and strangers on these devices.
    ///
    /// # Errors
    ///
    /// If there are no such devices.
    pub fn settle(&self, at_server: &str, at_client: &str) -> Result<()> {
        settle(&self.server, at_server, [SERVER4.into(), SERVER6.into()])?;
        let [clients4, clients6]: [[IpAddr; 2]; 2] =
            [[FRIEND4.into(), STRANGER4.into()], [FRIEND6.into(), STRANGER6.into()]];
        settle(&self.client, at_client, clients4.into_iter().chain(clients6))
    }

    /// The friend, in each family, and the server's guarded port as it reaches it.
    #[must_use]
    pub fn friends(&self) -> [(Asker<'_>, SocketAddr); 2] {
        self.askers(FRIEND4.into(), FRIEND6.into())
    }

    /// The strangers, in each family, and the server's guarded port as they reach it.
    #[must_use]
    pub fn strangers(&self) -> [(Asker<'_>, SocketAddr); 2] {
        self.askers(STRANGER4.into(), STRANGER6.into())
    }

    /// Makes sure that nobody is shut out.
    ///
    /// # Errors
    ///
    /// If somebody is; the message says who.
    pub fn everyone_is_served(&self) -> Result<()> {
        let everyone = self.friends().into_iter().chain(self.strangers());
        for (asker, server, answer) in answers(everyone, SERVED_PATIENCE)? {
            ensure!(answer.is_served(), "without a guard, {asker:?} at {server} got {answer:?}");
        }
        Ok(())
    }

    /// Makes sure that the friend is served in both families, and that strangers hear nothing at
    /// all.
    ///
    /// # Errors
    ///
    /// If it is not so; the message says who got what.
    pub fn only_the_friend_is_served(&self) -> Result<()> {
        for (asker, server, answer) in answers(self.friends(), SERVED_PATIENCE)? {
            ensure!(answer.is_served(), "with the guard, {asker:?} at {server} got {answer:?}");
        }
        for (asker, server, answer) in answers(self.strangers(), SILENT_PATIENCE)? {
            let is_silent = answer == Answer::NoAnswer;
            ensure!(is_silent, "with the guard, {asker:?} at {server} got {answer:?}");
        }
        Ok(())
    }

    fn askers(&self, v4: IpAddr, v6: IpAddr) -> [(Asker<'_>, SocketAddr); 2] {
        [
            (Asker::with_address(&self.client, v4), (SERVER4, GUARDED).into()),
            (Asker::with_address(&self.client, v6), (SERVER6, GUARDED).into()),
        ]
    }
}

/// What each of them gets, all asking at the same time.
fn answers<'bed>(
    askers: impl IntoIterator<Item = (Asker<'bed>, SocketAddr)>,
    patience: Duration,
) -> Result<Vec<(Asker<'bed>, SocketAddr, Answer)>> {
    thread::scope(|scope| {
        let asking: Vec<_> = askers
            .into_iter()
            .map(|(asker, server)| {
                scope.spawn(move || Ok((asker, server, get(asker, server, "/", patience)?)))
            })
            .collect();
        asking
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    })
}
