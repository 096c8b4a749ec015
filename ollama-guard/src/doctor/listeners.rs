//! TCP listeners: on guarded ports, and of Ollama-like processes wherever they are.

use std::{collections::BTreeSet, net::IpAddr, path::Path};

use serde::Serialize;

use super::{
    facts::{Facts, NotSeen, tcp, written},
    finding::{Finding, Severity},
    ollama,
    processes::{Process, Processes},
};
use crate::{
    doors::sockets::{self, Socket, State},
    policy::Port,
};

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listener {
    /// The address that it is bound to; unspecified for all.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The process that holds it, if it may be seen.
    pub pid: Option<u32>,
    /// Its name.
    pub process: Option<String>,
    /// Whether it serves models as Ollama does, by its name.
    pub is_ollama: bool,
    /// Whether it is in our network namespace, and not in a container's.
    pub is_here: bool,
}

impl Listener {
    /// Whether only this host can reach it.
    pub(super) fn is_loopback(&self) -> bool {
        self.address.is_loopback()
    }

    fn written(&self) -> String {
        let process = match (&self.process, self.pid) {
            (Some(name), Some(pid)) => format!("{name} (process {pid})"),
            _ => "a process that cannot be seen".into(),
        };
        format!("{process} listens on {}", std::net::SocketAddr::from((self.address, self.port)))
    }
}

/// The listeners that concern the guard, in every network namespace that there is a process in.
pub(super) fn collect(
    processes: &Processes,
    guarded: &BTreeSet<Port>,
    not_seen: &mut Vec<NotSeen>,
) -> Vec<Listener> {
    let mut listeners = concerning(processes, guarded, &processes.sockets, true);
    for process in processes.other_namespaces() {
        let net = Path::new("/proc").join(process.pid.to_string()).join("net");
        match sockets::read(&net) {
            Ok(sockets) => listeners.extend(concerning(processes, guarded, &sockets, false)),
            // It may have ended in between.
            Err(_) if !net.exists() => {}
            Err(error) => {
                let what = format!("sockets in the network namespace of {}", process.title());
                not_seen.push(NotSeen::new(what, error));
            }
        }
    }
    listeners
}

fn concerning(
    processes: &Processes,
    guarded: &BTreeSet<Port>,
    sockets: &[Socket],
    is_here: bool,
) -> Vec<Listener> {
    let listening = sockets.iter().filter(|socket| socket.state == State::Listen);
    listening
        .filter_map(|socket| {
            let holders: Vec<&Process> = processes.holders(socket.inode).collect();
            let like = holders.iter().copied().find(|process| ollama::is_like(process));
            let holder = like.or(holders.first().copied());
            let port = socket.local.port();
            let concerns = like.is_some() || tcp(guarded).any(|guarded| guarded == port);
            concerns.then(|| Listener {
                address: socket.local.ip(),
                port,
                pid: holder.map(|process| process.pid),
                process: holder.map(|process| process.comm.clone()),
                is_ollama: like.is_some(),
                is_here,
            })
        })
        .collect()
}

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let here = || facts.listeners.iter().filter(|one| one.is_here);
    let mut findings = Vec::new();
    if !facts.guard.loaded && !facts.guard.unknown {
        findings.push(no_guard(facts));
    }
    for listener in here().filter(|one| one.is_ollama && !one.is_loopback()) {
        if !facts.is_guarded(listener.port) {
            findings.push(unguarded(facts, listener));
        }
    }
    for port in tcp(&facts.guard.ports) {
        let mut on_port = here().filter(|one| one.port == port).peekable();
        if on_port.peek().is_some() && on_port.all(Listener::is_loopback) {
            findings.push(Finding::new(
                "loopback-listener",
                Severity::Note,
                format!("who listens on {port}/tcp does so on loopback only"),
                "from outside, only proxies and tunnels of this host lead there",
            ));
        }
    }
    findings
}

fn no_guard(facts: &Facts) -> Finding {
    let ports = written(&facts.guard.ports);
    let exposed = facts
        .listeners
        .iter()
        .find(|one| one.is_here && !one.is_loopback() && facts.is_guarded(one.port));
    let advice = "start one with `ollama-guard run`";
    match exposed {
        Some(listener) => {
            let what = format!("no guard is loaded, and {}: {ports} is open", listener.written());
            Finding::new("no-guard", Severity::Open, what, advice)
        }
        None => {
            let what = format!("no guard is loaded; nobody listens on {ports} for others");
            Finding::new("no-guard", Severity::Note, what, advice)
        }
    }
}

fn unguarded(facts: &Facts, listener: &Listener) -> Finding {
    let settings = facts.ollama.iter().find(|one| Some(one.pid) == listener.pid);
    let why = settings.and_then(|one| one.explanation());
    let why = why.map(|text| format!("; {text}")).unwrap_or_default();
    Finding::new(
        "unguarded-listener",
        Severity::Open,
        format!("{}, which is not guarded{why}", listener.written()),
        format!(
            "guard {}/tcp as well (`--port`, `ports`), or let it listen on a guarded port or on \
             127.0.0.1",
            listener.port
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::facts::GuardFacts;

    fn listener(address: &str, port: u16) -> Listener {
        Listener {
            address: address.parse().unwrap(),
            port,
            pid: Some(7),
            process: Some("ollama".into()),
            is_ollama: true,
            is_here: true,
        }
    }

    fn found(loaded: bool, listeners: Vec<Listener>) -> Vec<(&'static str, Severity)> {
        let ports = BTreeSet::from([Port::OLLAMA]);
        let guard = GuardFacts { loaded, ports, ..GuardFacts::default() };
        let facts = Facts { guard, listeners, ..Facts::default() };
        findings(&facts).iter().map(|finding| (finding.code, finding.severity)).collect()
    }

    #[test]
    fn ollama_behind_a_guard_is_no_finding() {
        assert_eq!(found(true, vec![listener("0.0.0.0", 11434)]), []);
        assert_eq!(found(true, vec![]), []);
    }

    #[test]
    fn ollama_on_another_port_is_open_unless_it_is_on_loopback_or_elsewhere() {
        let expected = [("unguarded-listener", Severity::Open)];
        assert_eq!(found(true, vec![listener("::", 80)]), expected);
        assert_eq!(found(true, vec![listener("127.0.0.1", 34567)]), []);
        let elsewhere = Listener { is_here: false, ..listener("::", 80) };
        assert_eq!(found(true, vec![elsewhere]), []);
        let another = Listener { is_ollama: false, ..listener("::", 80) };
        assert_eq!(found(true, vec![another]), []);
    }

    #[test]
    fn without_a_guard_a_listener_for_others_is_open() {
        let expected = [("no-guard", Severity::Open)];
        assert_eq!(found(false, vec![listener("192.0.2.1", 11434)]), expected);
        assert_eq!(found(false, vec![]), [("no-guard", Severity::Note)]);
    }

    #[test]
    fn a_listener_on_loopback_only_is_a_note() {
        let loopback = listener("::1", 11434);
        assert_eq!(found(true, vec![loopback.clone()]), [("loopback-listener", Severity::Note)]);
        assert_eq!(found(true, vec![loopback, listener("::", 11434)]), []);
    }
}
