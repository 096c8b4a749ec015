//! Two network namespaces without a name, a cable between them, and a listener.

use std::{
    collections::BTreeSet,
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd as _,
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use netlink_packet_route::address::AddressHeaderFlags;
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, setns, unshare},
};
use ollama_guard_common::Scope;
use rtnetlink::{
    Handle, LinkUnspec, LinkVeth, RouteMessageBuilder, packet_route::route::RouteScope,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket},
    task::JoinHandle,
    time::timeout,
};

use super::{super::frames::reachable, Knock, LiveError, trouble};
use crate::{
    dataplane::{
        AttachMode,
        replica::{Replica, ReplicaLink},
    },
    policy::Family,
};

/// How long an answer may take where nothing stands in the way.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(3);
/// How long nothing may come where nothing is to come: the kernel sends a second SYN after a
/// second.
pub(super) const SILENCE: Duration = Duration::from_millis(1300);

/// Addresses of the listener (RFC 2544, RFC 3849). The second one is for the case that the first
/// is a source.
const LISTENER_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 18, 0, 1), Ipv4Addr::new(198, 18, 0, 2)];
const LISTENER_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2),
];
const DOOR: &str = "og-door";
const KNOCKER: &str = "og-knocker";
const GREETING: &[u8] = b"ollama-guard verify\n";

/// Both namespaces. They belong to the thread that made them, which stays in one of them.
pub(super) struct Bed {
    door: File,
    knocker: File,
    /// IPv4 and IPv6, where there is an address for it.
    listener: [Option<IpAddr>; 2],
    listeners: Vec<JoinHandle<()>>,
    sources: BTreeSet<IpAddr>,
    /// What cannot be tried here, a sentence each.
    pub(super) left_out: Vec<String>,
}

impl Bed {
    /// Makes the namespaces, lays the cable, and listens on every port that will be knocked at.
    /// Where only packets for this host are decided on, the listener has its addresses.
    pub(super) async fn new(
        knocks: &[Knock],
        scope: Scope,
        own: &BTreeSet<IpAddr>,
    ) -> Result<Self, LiveError> {
        let (door, knocker) = (new_namespace()?, new_namespace()?);
        let sources: BTreeSet<IpAddr> = knocks.iter().map(|knock| knock.source).collect();
        let listener =
            [Family::V4, Family::V6].map(|family| listener(family, scope, own, &sources));
        enter(&door)?;
        lay_cable(&knocker).await?;
        let mut bed = Self {
            door,
            knocker,
            listener,
            listeners: Vec::new(),
            sources: BTreeSet::new(),
            left_out: Vec::new(),
        };
        bed.settle(&sources).await?;
        let ports: BTreeSet<(bool, u16)> = knocks
            .iter()
            .filter(|knock| bed.has(knock))
            .map(|knock| (knock.source.is_ipv4(), knock.port.number))
            .collect();
        enter(&bed.door)?;
        for (is_v4, port) in ports {
            let Some(address) = bed.listener[usize::from(!is_v4)] else { continue };
            let address = SocketAddr::from((address, port));
            let listener = TcpListener::bind(address)
                .await
                .map_err(|error| trouble("listen")(&format!("{address}: {error}")))?;
            bed.listeners.push(tokio::spawn(greet(listener)));
        }
        Ok(bed)
    }

    /// Gives both ends their addresses. A source that the kernel does not take is left out.
    async fn settle(&mut self, sources: &BTreeSet<IpAddr>) -> Result<(), LiveError> {
        let failed = trouble("set the cable up");
        enter(&self.door)?;
        let door = End::open(DOOR)?;
        let mut families = BTreeSet::new();
        if self.listener.contains(&None) {
            self.left_out.push(
                "real connections over both families: this host has no address for one of them"
                    .into(),
            );
        }
        for address in self.listener.into_iter().flatten() {
            match door.add_address(address).await {
                Ok(()) => drop(families.insert(address.is_ipv4())),
                Err(error) => self.left_out.push(format!(
                    "real connections over {}: the kernel refuses {address}: {error}",
                    if address.is_ipv4() { "IPv4" } else { "IPv6" }
                )),
            }
        }
        door.up().await.map_err(|error| failed(&error))?;
        enter(&self.knocker)?;
        let knocker = End::open(KNOCKER)?;
        for &source in sources.iter().filter(|source| families.contains(&source.is_ipv4())) {
            match knocker.add_address(source).await {
                Ok(()) => drop(self.sources.insert(source)),
                Err(error) => self.left_out.push(format!(
                    "real connections from {source}: the kernel refuses it as an address: {error}"
                )),
            }
        }
        knocker.up().await.map_err(|error| failed(&error))?;
        for address in self.listener.into_iter().flatten() {
            if !families.contains(&address.is_ipv4()) {
                continue;
            }
            knocker.add_route(address).await.map_err(|error| failed(&error))?;
        }
        enter(&self.door)?;
        for source in &self.sources {
            door.add_route(*source).await.map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    /// Whether a knock can be tried.
    pub(super) fn has(&self, knock: &Knock) -> bool {
        self.sources.contains(&knock.source)
    }

    /// Puts the program at the door.
    pub(super) fn attach(
        &self,
        replica: &mut Replica,
        mode: AttachMode,
    ) -> Result<ReplicaLink, LiveError> {
        enter(&self.door)?;
        let ifindex = if_nametoindex(DOOR).map_err(|error| trouble("find the cable")(&error))?;
        replica.attach(ifindex, mode).map_err(|error| trouble("attach the program")(&error))
    }

    /// Knocks, all at the same time, and says who was answered.
    pub(super) async fn knock(
        &self,
        knocks: &[Knock],
        patience: Duration,
    ) -> Result<Vec<(Knock, bool)>, LiveError> {
        // The sockets are made at once, and stay in the namespace that they were made in.
        enter(&self.knocker)?;
        let mut asking = FuturesUnordered::new();
        for (position, knock) in knocks.iter().enumerate() {
            let socket =
                if knock.source.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
            let socket = socket.map_err(|error| trouble("open a socket")(&error))?;
            let source = SocketAddr::from((knock.source, 0));
            socket
                .bind(source)
                .map_err(|error| trouble("knock")(&format!("from {source}: {error}")))?;
            let target = self.listener[usize::from(!knock.source.is_ipv4())];
            let Some(target) = target else { continue };
            let target = SocketAddr::from((target, knock.port.number));
            asking.push(async move {
                let asked = timeout(patience, async {
                    let mut stream = socket.connect(target).await.ok()?;
                    let mut answer = Vec::new();
                    stream.read_to_end(&mut answer).await.ok()?;
                    (answer == GREETING).then_some(())
                });
                (position, matches!(asked.await, Ok(Some(()))))
            });
        }
        let mut answers: Vec<(usize, bool)> = Vec::new();
        while let Some(answer) = asking.next().await {
            answers.push(answer);
        }
        answers.sort_unstable();
        Ok(answers.into_iter().map(|(at, answered)| (knocks[at].clone(), answered)).collect())
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for listener in &self.listeners {
            listener.abort();
        }
    }
}

/// Says the greeting to everyone.
async fn greet(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            // A knocker that is gone has had its answer or does not want it.
            let _ = stream.write_all(GREETING).await;
        });
    }
}

/// An address for the listener that is no source: where only packets for this host are decided on,
/// one of its own.
fn listener(
    family: Family,
    scope: Scope,
    own: &BTreeSet<IpAddr>,
    sources: &BTreeSet<IpAddr>,
) -> Option<IpAddr> {
    let anybodys: [IpAddr; 2] = match family {
        Family::V4 => LISTENER_V4.map(IpAddr::from),
        Family::V6 => LISTENER_V6.map(IpAddr::from),
    };
    match scope {
        Scope::All => anybodys.into_iter().find(|address| !sources.contains(address)),
        Scope::Local => reachable(family, own.iter().filter(|address| !sources.contains(address))),
    }
}

/// Moves this thread into a new namespace, and gives a hold on it.
fn new_namespace() -> Result<File, LiveError> {
    let failed = trouble("make a network namespace");
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| failed(&error))?;
    File::open("/proc/thread-self/ns/net").map_err(|error| failed(&error))
}

fn enter(namespace: &File) -> Result<(), LiveError> {
    setns(namespace, CloneFlags::CLONE_NEWNET)
        .map_err(|error| trouble("enter a network namespace")(&error))
}

/// Makes both interfaces here, and moves one of them there.
async fn lay_cable(there: &File) -> Result<(), LiveError> {
    let failed = trouble("lay a cable");
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| failed(&error))?;
    let connection = tokio::spawn(connection);
    let veth = LinkVeth::new(DOOR, KNOCKER).build();
    handle.link().add(veth).execute().await.map_err(|error| failed(&error))?;
    let end = LinkUnspec::new_with_name(KNOCKER).setns_by_fd(there.as_raw_fd()).build();
    handle.link().set(end).execute().await.map_err(|error| failed(&error))?;
    connection.abort();
    Ok(())
}

/// One end of the cable, in the namespace that this thread was in when it was opened.
struct End {
    handle: Handle,
    connection: JoinHandle<()>,
    ifindex: u32,
}

impl End {
    fn open(name: &str) -> Result<Self, LiveError> {
        let failed = trouble("find the cable");
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|error| failed(&error))?;
        let ifindex = if_nametoindex(name).map_err(|error| failed(&error))?;
        Ok(Self { handle, connection: tokio::spawn(connection), ifindex })
    }

    async fn add_address(&self, address: IpAddr) -> Result<(), rtnetlink::Error> {
        let length = if address.is_ipv4() { 32 } else { 128 };
        let mut request = self.handle.address().add(self.ifindex, address, length);
        if address.is_ipv6() {
            // Nobody else is here who could have it.
            request.message_mut().header.flags = AddressHeaderFlags::Nodad;
        }
        request.execute().await
    }

    async fn up(&self) -> Result<(), rtnetlink::Error> {
        let up = LinkUnspec::new_with_index(self.ifindex).up().build();
        self.handle.link().set(up).execute().await
    }

    async fn add_route(&self, to: IpAddr) -> Result<(), rtnetlink::Error> {
        let message = match to {
            IpAddr::V4(to) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(to, 32)
                .scope(RouteScope::Link)
                .output_interface(self.ifindex)
                .build(),
            IpAddr::V6(to) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(to, 128)
                .output_interface(self.ifindex)
                .build(),
        };
        self.handle.route().add(message).execute().await
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
