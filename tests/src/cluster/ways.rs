//! Every way to the server, and who is served by it.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::objects::{HOST_PORT, LOCAL_NODE_PORT, NODE_PORT};
use crate::{
    bed::{Answer, Bed, Host, Namespace, get},
    policy::{GUARDED, SERVER4, SERVER6},
};

/// What everybody asks for: llama.cpp says whether it is well.
pub(super) const HEALTH: &str = "/health";
/// How long somebody waits that is to be served; the machine may be busy.
pub(super) const SERVED: Duration = Duration::from_secs(10);
/// How long somebody waits that is to hear nothing: the first SYN and its first repeat.
pub(super) const SILENT: Duration = Duration::from_millis(1500);

/// A way to the server.
#[derive(Clone, Debug)]
pub(super) struct Way {
    /// What it is called.
    pub(super) name: &'static str,
    /// Where it begins, in each family.
    pub(super) sockets: Vec<SocketAddr>,
    /// Whether whoever comes by it from a pod is seen as the node, because it is given the node's address on the
    /// way: by kube-proxy at a NodePort with the policy `Cluster`, by the CNI's portmap at a hostPort.
    hides_pods: bool,
    /// Whether it is a Service's, which leads nowhere while Kubernetes takes the node for not ready.
    pub(super) is_service: bool,
}

impl Way {
    /// The same where pods are seen before they are given another address.
    pub(super) fn seen(self) -> Self {
        Self { hides_pods: false, ..self }
    }

    /// Whether somebody is not seen by this way, but the node instead.
    pub(super) const fn hides(&self, asker: &Asker<'_>) -> bool {
        self.hides_pods && asker.is_pod
    }
}

/// Somebody who asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker<'a> {
    /// Where.
    pub(super) namespace: &'a Namespace,
    /// Whether the rules let it in.
    pub(super) is_friend: bool,
    /// Whether it is in a pod.
    pub(super) is_pod: bool,
    /// Whether it has an address of IPv4, and of IPv6.
    speaks: [bool; 2],
}

impl<'a> Asker<'a> {
    /// Somebody outside of the cluster.
    pub(super) fn outside(host: &'a Host, is_friend: bool) -> Self {
        let speaks = [host.v4.is_some(), host.v6.is_some()];
        Self { namespace: &host.namespace, is_friend, is_pod: false, speaks }
    }

    /// Somebody in a pod.
    pub(super) const fn pod(namespace: &'a Namespace, is_friend: bool) -> Self {
        Self { namespace, is_friend, is_pod: true, speaks: [true; 2] }
    }

    /// Whether it can speak to this address.
    pub(super) fn speaks(&self, server: &SocketAddr) -> bool {
        self.speaks[usize::from(server.is_ipv6())]
    }
}

/// All ways to the server with these addresses of its own and of its service.
pub(super) fn ways(pod: &[IpAddr], service: &[IpAddr]) -> Vec<Way> {
    let node = [IpAddr::from(SERVER4), IpAddr::from(SERVER6)];
    let at = |addresses: &[IpAddr], port| {
        addresses.iter().map(|&address| SocketAddr::new(address, port)).collect::<Vec<_>>()
    };
    let way = |name, sockets| Way { name, sockets, hides_pods: false, is_service: false };
    let service_way = |name, sockets| Way { is_service: true, ..way(name, sockets) };
    vec![
        way("pod IP", at(pod, GUARDED)),
        way("node IP, hostNetwork", at(&node, GUARDED)),
        Way { hides_pods: true, ..way("hostPort, another port", at(&node, HOST_PORT)) },
        service_way("cluster IP", at(service, GUARDED)),
        Way { hides_pods: true, ..service_way("NodePort, guarded as well", at(&node, NODE_PORT)) },
        service_way("NodePort, policy Local", at(&node, LOCAL_NODE_PORT)),
    ]
}

/// How often somebody was served, and how often nothing was heard.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    /// Served.
    pub(super) served: usize,
    /// Heard nothing.
    pub(super) silent: usize,
    /// Strangers in pods that were served because they were given the node's address on the way.
    pub(super) hidden: usize,
}

/// Lets everybody ask by every way, in both families: all are served if there is no guard, and otherwise those who
/// are let in.
///
/// # Errors
///
/// If somebody got something else; the message says who, where and what.
pub(super) fn everybody_asks(
    askers: &[Asker<'_>],
    ways: &[Way],
    is_guarded: bool,
) -> Result<Count> {
    let mut total = Count::default();
    for way in ways {
        let questions = askers.iter().flat_map(|asker| {
            let sockets = way.sockets.iter().filter(|server| asker.speaks(server));
            sockets.map(move |&server| (asker, server))
        });
        let questions: Vec<_> = questions.collect();
        let answers = thread::scope(|scope| {
            let asking: Vec<_> = questions
                .iter()
                .map(|&(asker, server)| {
                    let is_silent = is_guarded && !asker.is_friend && !way.hides(asker);
                    let patience = if is_silent { SILENT } else { SERVED };
                    scope.spawn(move || get(asker.namespace, server, HEALTH, patience))
                })
                .collect();
            let answers = asking
                .into_iter()
                .map(|asked| asked.join().unwrap_or_else(|_| Err(anyhow!("a client panicked"))));
            answers.collect::<Result<Vec<_>>>()
        })?;
        for ((asker, server), answer) in questions.into_iter().zip(answers) {
            let is_let_in = asker.is_friend || !is_guarded;
            let is_served = is_let_in || way.hides(asker);
            let is_right = if is_served { answer.is_served() } else { answer == Answer::NoAnswer };
            ensure!(
                is_right,
                "{}: {} at {server} got {answer:?}",
                way.name,
                asker.namespace.name()
            );
            match (is_served, is_let_in) {
                (true, true) => total.served += 1,
                (true, false) => total.hidden += 1,
                (false, _) => total.silent += 1,
            }
        }
    }
    Ok(total)
}

/// Lays the ways from the clients to pods and services: through the node.
pub(super) fn lay(bed: &Bed, networks: &[&str]) -> Result<()> {
    for host in bed.clients() {
        for network in networks {
            let (is_v6, gateway) = if network.contains(':') {
                (true, SERVER6.to_string())
            } else {
                (false, SERVER4.to_string())
            };
            let has = if is_v6 { host.v6.is_some() } else { host.v4.is_some() };
            if has {
                let family = if is_v6 { "-6" } else { "-4" };
                let route = [family, "route", "add", network, "via", &gateway, "dev", "eth0"];
                host.namespace.ip(&route).with_context(|| format!("the way to {network}"))?;
            }
        }
    }
    Ok(())
}
