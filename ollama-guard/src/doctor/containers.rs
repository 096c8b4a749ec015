//! Container ports that a process publishes: Docker's proxy, and those of rootless containers.
//!
//! What publishes by a rule of the packet filter is found there.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::{
    facts::Facts,
    finding::{Finding, Severity},
    processes::{Process, Processes},
};

/// A published port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Published {
    /// The process that publishes it.
    pub pid: u32,
    /// Its name.
    pub process: String,
    /// The address of this host; `None` for all.
    pub host: Option<IpAddr>,
    /// The first port of this host.
    pub host_port: u16,
    /// The container's address, if it is told.
    pub container: Option<IpAddr>,
    /// The first port of the container; `None` if it cannot be seen.
    pub container_port: Option<u16>,
    /// How many ports, one after the other.
    pub count: u16,
}

/// Processes that publish ports without saying which on their command line.
const SECRETIVE: [&str; 3] = ["rootlessport", "slirp4netns", "rootlesskit"];

/// What the processes of this network namespace publish.
pub(super) fn collect(processes: &Processes) -> Vec<Published> {
    let mut published = Vec::new();
    for process in processes.here() {
        if process.is_called("docker-proxy") {
            published.extend(docker_proxy(process));
        } else if process.is_called("pasta") || process.is_called("passt") {
            published.extend(pasta(process));
        } else if SECRETIVE.iter().any(|name| process.is_called(name)) {
            published.extend(processes.open_listeners(process).into_iter().map(|address| {
                Published {
                    host: Some(address.ip()).filter(|ip| !ip.is_unspecified()),
                    host_port: address.port(),
                    ..unknown(process)
                }
            }));
        }
    }
    published
}

fn unknown(process: &Process) -> Published {
    Published {
        pid: process.pid,
        process: process.comm.clone(),
        host: None,
        host_port: 0,
        container: None,
        container_port: None,
        count: 1,
    }
}

/// `-proto tcp -host-ip 0.0.0.0 -host-port 8080 -container-ip 172.17.0.2 -container-port 11434`.
fn docker_proxy(process: &Process) -> Option<Published> {
    if process.option(&["-proto"]).is_some_and(|protocol| protocol != "tcp") {
        return None;
    }
    let host: Option<IpAddr> = process.option(&["-host-ip"]).and_then(|text| text.parse().ok());
    Some(Published {
        host: host.filter(|ip| !ip.is_unspecified()),
        host_port: process.option(&["-host-port"])?.parse().ok()?,
        container: process.option(&["-container-ip"]).and_then(|text| text.parse().ok()),
        container_port: process.option(&["-container-port"]).and_then(|text| text.parse().ok()),
        ..unknown(process)
    })
}

/// `-t 8080:11434`, `-t 192.0.2.1/8080-8090:11434-11444`, lists of these, again and again.
fn pasta(process: &Process) -> Vec<Published> {
    let mut published = Vec::new();
    for (at, word) in process.arguments.iter().enumerate() {
        let value = match word.split_once('=') {
            Some(("--tcp-ports", value)) => Some(value),
            _ if word == "-t" || word == "--tcp-ports" => {
                process.arguments.get(at + 1).map(String::as_str)
            }
            _ => None,
        };
        let parts = value.into_iter().flat_map(|value| value.split(','));
        published.extend(parts.filter_map(|part| pasta_ports(process, part)));
    }
    published
}

fn pasta_ports(process: &Process, text: &str) -> Option<Published> {
    let (address, ports) = match text.split_once('/') {
        Some((address, ports)) => (Some(address.split('%').next()?), ports),
        None => (None, text),
    };
    let host: Option<IpAddr> = address.and_then(|text| text.parse().ok());
    let (outer, inner) = ports.split_once(':').unwrap_or((ports, ports));
    let first = |text: &str| text.split('-').next().and_then(|port| port.parse::<u16>().ok());
    let last = |text: &str| text.split('-').next_back().and_then(|port| port.parse::<u16>().ok());
    Some(Published {
        host: host.filter(|ip| !ip.is_unspecified()),
        host_port: first(outer)?,
        container_port: first(inner),
        count: last(outer)?.checked_sub(first(outer)?)?.saturating_add(1),
        ..unknown(process)
    })
}

impl Published {
    /// The host's ports that lead to this one of the container.
    fn leading_to(&self, port: u16) -> Option<u16> {
        let offset = port.checked_sub(self.container_port?)?;
        (offset < self.count).then(|| self.host_port.checked_add(offset)).flatten()
    }

    fn is_loopback(&self) -> bool {
        self.host.is_some_and(|ip| ip.is_loopback())
    }
}

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let elsewhere = facts.listeners.iter().find(|one| {
        !one.is_here && !one.is_loopback() && (one.is_ollama || facts.is_guarded(one.port))
    });
    for published in facts.published.iter().filter(|one| !one.is_loopback()) {
        for served in facts.served() {
            let Some(port) = published.leading_to(served) else { continue };
            if !facts.is_guarded(port) {
                findings.push(around(facts, published, port, served));
            }
        }
        let is_suspect = published.container_port.is_none() && elsewhere.is_some();
        if is_suspect && !facts.is_guarded(published.host_port) {
            findings.push(Finding::new(
                "published-port",
                Severity::Open,
                format!(
                    "{} (process {}) publishes port {}, where to cannot be seen, and a container \
                     has a listener for it to lead to",
                    published.process, published.pid, published.host_port
                ),
                format!("if it leads to Ollama, guard {}/tcp too", published.host_port),
            ));
        }
    }
    findings
}

fn around(facts: &Facts, published: &Published, port: u16, served: u16) -> Finding {
    let target = match published.container {
        Some(ip) => SocketAddr::from((ip, served)).to_string(),
        None => format!("port {served} of a container"),
    };
    let gateways = facts
        .addresses
        .iter()
        .filter(|one| published.container.is_some_and(|container| one.is_near(container)));
    Finding::new(
        "published-port",
        Severity::Open,
        format!(
            "{} (process {}) publishes {target} as port {port}, which is not guarded: packets \
             arrive with that port, not with {served}",
            published.process, published.pid
        ),
        format!("guard {port}/tcp too (`--port {port}`)"),
    )
    .hiding(gateways.map(|one| one.address))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        doctor::{facts::GuardFacts, interfaces::Address, listeners::Listener},
        policy::Port,
    };

    fn process(line: &str) -> Process {
        let arguments: Vec<_> = line.split(' ').map(ToOwned::to_owned).collect();
        Process { pid: 7, comm: arguments[0].clone(), arguments, ..Process::default() }
    }

    fn found(published: Vec<Published>, listeners: Vec<Listener>) -> Vec<Finding> {
        let ports = BTreeSet::from([Port::OLLAMA]);
        let guard = GuardFacts { ports, ..GuardFacts::default() };
        let address = "172.17.0.1".parse().unwrap();
        let addresses = vec![Address { interface: "docker0".into(), address, prefix: 16 }];
        findings(&Facts { guard, published, addresses, listeners, ..Facts::default() })
    }

    const PROXY: &str = "docker-proxy -proto tcp -host-ip 0.0.0.0 -host-port 8080 -container-ip \
                         172.17.0.2 -container-port 11434";

    #[test]
    fn dockers_proxy_to_another_port_is_open_and_hides_clients() {
        let published = docker_proxy(&process(PROXY)).unwrap();
        assert_eq!((published.host, published.host_port), (None, 8080));
        let found = found(vec![published], vec![]);
        assert_eq!(found.len(), 1);
        assert!(found[0].advice.contains("guard 8080/tcp too"), "{}", found[0]);
        assert_eq!(found[0].hides_clients, ["172.17.0.1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn a_guarded_port_another_service_and_loopback_are_no_finding() {
        for line in [
            PROXY.replace("8080", "11434"),
            PROXY.replace("-container-port 11434", "-container-port 80"),
            PROXY.replace("0.0.0.0", "127.0.0.1"),
        ] {
            let published = docker_proxy(&process(&line)).unwrap();
            assert_eq!(found(vec![published], vec![]), [], "{line}");
        }
        assert_eq!(docker_proxy(&process(&PROXY.replace("tcp", "udp"))), None);
    }

    #[test]
    fn pastas_ranges_are_counted() {
        let line = "pasta --config-net -t 192.0.2.1/8080-8090:11430-11440,80 -u 53 -T none";
        let published = pasta(&process(line));
        assert_eq!(published.len(), 2);
        assert_eq!(published[0].leading_to(11434), Some(8084));
        assert_eq!(published[0].leading_to(11441), None);
        assert_eq!((published[1].host_port, published[1].container_port), (80, Some(80)));
        assert_eq!(found(published, vec![]).len(), 1);
        assert_eq!(pasta(&process("pasta -t auto --tcp-ports=none")), []);
    }

    #[test]
    fn a_port_that_leads_nobody_knows_where_counts_if_there_is_somewhere_to_lead() {
        let published = Published { host_port: 8080, ..unknown(&process("rootlessport")) };
        let listener = Listener {
            address: "0.0.0.0".parse().unwrap(),
            port: 11434,
            pid: Some(8),
            process: Some("ollama".into()),
            is_ollama: true,
            is_here: false,
        };
        assert_eq!(found(vec![published.clone()], vec![listener]).len(), 1);
        assert_eq!(found(vec![published], vec![]), []);
    }
}
