//! Processes that hand requests on to a guarded port over loopback, which no guard sees: reverse
//! proxies, tunnels to the outside, forwarding by ssh.
//!
//! Three kinds of evidence, from the best to the weakest: an established connection to the port;
//! the port on the command line, or in the configuration files, of a known proxy; the name of a
//! program whose only purpose is to bring visitors in.

use std::{
    collections::BTreeSet,
    fs,
    io::Read as _,
    net::{IpAddr, SocketAddr},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use serde::Serialize;

use super::{
    facts::{Facts, NotSeen, tcp},
    finding::{Finding, Severity},
    interfaces::Address,
    ollama,
    processes::{Process, Processes},
};
use crate::{doors::sockets::State, policy::Port};

/// A process that leads, or may lead, to a guarded port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Proxy {
    /// The process.
    pub pid: u32,
    /// Its name.
    pub process: String,
    /// What kind of program it is, by its name.
    pub kind: Kind,
    /// How we know.
    pub evidence: Evidence,
    /// Where it takes connections from others.
    pub listens: Vec<SocketAddr>,
}

/// What kind of program it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// One that listens.
    Proxy,
    /// One that connects to the outside, and is called back from there.
    Tunnel,
    /// The other end of ssh: its users have logged in.
    Ssh,
    /// Tailscale, which can serve a port to its network or to everyone.
    Tailscale,
}

/// How we know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "by", content = "what")]
pub enum Evidence {
    /// It is connected to this address.
    Connection(SocketAddr),
    /// Its command line names this port.
    CommandLine(u16),
    /// This file of its configuration names the port.
    File(String),
    /// Only its name.
    Name,
}

/// A program that is known by its name, and where its configuration is.
struct Known {
    name: &'static str,
    kind: Kind,
    /// Whether its name alone is evidence.
    by_name: bool,
    configuration: &'static str,
}

const fn proxy(name: &'static str, configuration: &'static str) -> Known {
    Known { name, kind: Kind::Proxy, by_name: false, configuration }
}

const fn tunnel(name: &'static str, configuration: &'static str) -> Known {
    Known { name, kind: Kind::Tunnel, by_name: true, configuration }
}

const KNOWN: [Known; 26] = [
    proxy("nginx", "/etc/nginx"),
    proxy("caddy", "/etc/caddy"),
    proxy("haproxy", "/etc/haproxy"),
    proxy("apache2", "/etc/apache2"),
    proxy("httpd", "/etc/httpd"),
    proxy("traefik", "/etc/traefik"),
    proxy("envoy", "/etc/envoy"),
    proxy("lighttpd", "/etc/lighttpd"),
    proxy("socat", ""),
    proxy("ncat", ""),
    proxy("gost", ""),
    proxy("rinetd", "/etc/rinetd.conf"),
    tunnel("cloudflared", "/etc/cloudflared"),
    tunnel("ngrok", ""),
    tunnel("frpc", "/etc/frp"),
    tunnel("bore", ""),
    tunnel("zrok", ""),
    tunnel("rathole", ""),
    tunnel("pagekite", ""),
    tunnel("inlets", ""),
    // These have other purposes too.
    Known { by_name: false, ..tunnel("ssh", "") },
    Known { by_name: false, ..tunnel("autossh", "") },
    Known { by_name: false, ..tunnel("chisel", "") },
    Known { by_name: false, ..tunnel("wstunnel", "") },
    Known { kind: Kind::Ssh, ..proxy("sshd", "") },
    Known { kind: Kind::Tailscale, by_name: true, ..proxy("tailscaled", "") },
];

/// Files of one program that are read, bytes of each, and directories below one another.
const MOST_FILES: usize = 200;
const MOST_BYTES: u64 = 1 << 20;
const MOST_DEPTH: usize = 4;

/// Looks for evidence among the processes of this network namespace.
pub(super) fn collect(
    processes: &Processes,
    guarded: &BTreeSet<Port>,
    addresses: &[Address],
    not_seen: &mut Vec<NotSeen>,
) -> Vec<Proxy> {
    let ports = backends(processes, guarded);
    let is_own = |ip: IpAddr| ip.is_loopback() || addresses.iter().any(|one| one.address == ip);
    let mut found = Vec::new();
    for process in processes.here().filter(|process| !ollama::is_like(process)) {
        let known = KNOWN.iter().find(|known| process.is_called(known.name));
        let connected = processes.sockets.iter().find(|socket| {
            socket.state == State::Established
                && ports.contains(&socket.remote.port())
                && is_own(socket.remote.ip())
                && process.sockets.contains(&socket.inode)
        });
        let evidence = match (connected, known) {
            (Some(socket), _) => Some(Evidence::Connection(socket.remote)),
            (None, Some(known)) => named(process, known, &ports, not_seen),
            (None, None) => None,
        };
        if let Some(evidence) = evidence {
            found.push(Proxy {
                pid: process.pid,
                process: process.comm.clone(),
                kind: known.map_or(Kind::Proxy, |known| known.kind),
                evidence,
                listens: processes.open_listeners(process),
            });
        }
    }
    found
}

/// The guarded ports, and those on which an Ollama-like process listens on loopback.
fn backends(processes: &Processes, guarded: &BTreeSet<Port>) -> BTreeSet<u16> {
    let listening = processes.sockets.iter().filter(|socket| socket.state == State::Listen);
    let of_ollama = listening.filter(|socket| processes.holders(socket.inode).any(ollama::is_like));
    tcp(guarded).chain(of_ollama.map(|socket| socket.local.port())).collect()
}

/// The weaker evidence.
fn named(
    process: &Process,
    known: &Known,
    ports: &BTreeSet<u16>,
    not_seen: &mut Vec<NotSeen>,
) -> Option<Evidence> {
    let words = process.arguments.get(1..).unwrap_or_default();
    for &port in ports {
        if words.iter().any(|word| names_port(word, port, false)) {
            return Some(Evidence::CommandLine(port));
        }
    }
    let mut left = MOST_FILES;
    let file = process.option(&["-c", "-f", "--config", "-config"]);
    for path in file.into_iter().chain(Some(known.configuration).filter(|path| !path.is_empty())) {
        if let Some(path) = search(&process.path(path), ports, MOST_DEPTH, &mut left) {
            return Some(Evidence::File(path));
        }
    }
    if left == 0 {
        let why = format!("only {MOST_FILES} files are read");
        not_seen
            .push(NotSeen::new(format!("all of the configuration of {}", process.title()), why));
    }
    known.by_name.then_some(Evidence::Name)
}

/// The first file at or below a path that names one of the ports as an address does: `:11434`.
fn search(path: &Path, ports: &BTreeSet<u16>, depth: usize, left: &mut usize) -> Option<String> {
    // Symbolic links are followed, as the program would; the depth ends every circle.
    let metadata = fs::metadata(path).ok()?;
    if metadata.is_dir() && depth > 0 {
        let mut entries: Vec<_> = fs::read_dir(path).ok()?.flatten().map(|e| e.path()).collect();
        entries.sort_unstable();
        return entries.iter().find_map(|entry| search(entry, ports, depth - 1, left));
    }
    *left = left.checked_sub(1)?;
    if !metadata.is_file() {
        return None;
    }
    let mut text = String::new();
    // The path is somebody's own word, and may have become a pipe in between.
    let file = fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
    file.take(MOST_BYTES).read_to_string(&mut text).ok()?;
    let mut lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let names = |line: &str| ports.iter().any(|&port| names_port(line, port, true));
    lines.any(names).then(|| path.display().to_string())
}

/// Whether a text has this number, not as a part of a longer one; if so asked, behind a colon.
fn names_port(text: &str, port: u16, behind_colon: bool) -> bool {
    let number = port.to_string();
    text.match_indices(&number).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + number.len()..].chars().next();
        let is_whole = !before.is_some_and(|c| c.is_ascii_digit() || c == '.')
            && !after.is_some_and(|c| c.is_ascii_digit());
        is_whole && (!behind_colon || before == Some(':'))
    })
}

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    facts.proxies.iter().filter_map(|proxy| finding(facts, proxy)).collect()
}

fn finding(facts: &Facts, proxy: &Proxy) -> Option<Finding> {
    let title = format!("{} (process {})", proxy.process, proxy.pid);
    let evidence = match &proxy.evidence {
        Evidence::Connection(address) => format!("is connected to {address}"),
        Evidence::CommandLine(port) => format!("has port {port} on its command line"),
        Evidence::File(path) => format!("has the port in its configuration ({path})"),
        Evidence::Name => "runs; where it leads cannot be seen".into(),
    };
    let seen_by_ollama: IpAddr = match proxy.evidence {
        Evidence::Connection(address) => address.ip(),
        _ => std::net::Ipv4Addr::LOCALHOST.into(),
    };
    let found = match (proxy.kind, &proxy.evidence) {
        (Kind::Ssh, _) => Finding::new(
            "ssh-forwarding",
            Severity::Note,
            format!("{title} {evidence}: somebody who logged in by ssh forwards it"),
            "nothing to do if ssh users may reach Ollama; else `AllowTcpForwarding no`",
        ),
        (Kind::Tailscale, Evidence::Name) => Finding::new(
            "tailscale",
            Severity::Note,
            format!("{title} runs: `tailscale serve` and `funnel` would lead around the guard"),
            "see `tailscale serve status`; its interface is a door like others",
        ),
        (Kind::Tunnel | Kind::Tailscale, _) => Finding::new(
            "tunnel",
            Severity::Open,
            format!("{title} {evidence}: what comes through a tunnel crosses no guarded interface"),
            "end it, or let it ask for a login at its far end",
        ),
        (Kind::Proxy, _) => {
            let listens: Vec<_> = proxy
                .listens
                .iter()
                .filter(|address| !facts.is_guarded(address.port()))
                .map(ToString::to_string)
                .collect();
            if listens.is_empty() {
                // Somebody of this host who uses Ollama.
                return None;
            }
            let listens = listens.join(", ");
            Finding::new(
                "local-proxy",
                Severity::Open,
                format!(
                    "{title} {evidence} and listens on {listens}: requests that it hands on come \
                     over loopback, and cross no guarded interface as such"
                ),
                "let it ask for a login, guard its port too, or bind it to 127.0.0.1",
            )
        }
    };
    Some(found.hiding([seen_by_ollama]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::facts::GuardFacts;

    fn found(kind: Kind, evidence: Evidence, listens: &[&str]) -> Option<(String, Severity)> {
        let ports = BTreeSet::from([Port::OLLAMA]);
        let guard = GuardFacts { ports, ..GuardFacts::default() };
        let listens = listens.iter().map(|one| one.parse().unwrap()).collect();
        let proxy = Proxy { pid: 7, process: "p".into(), kind, evidence, listens };
        let facts = Facts { guard, ..Facts::default() };
        finding(&facts, &proxy).map(|finding| {
            assert_eq!(finding.hides_clients.len(), 1);
            (finding.code.to_owned(), finding.severity)
        })
    }

    #[test]
    fn a_proxy_counts_by_where_it_listens() {
        let connected = || Evidence::Connection("127.0.0.1:11434".parse().unwrap());
        let open = Some(("local-proxy".to_owned(), Severity::Open));
        assert_eq!(found(Kind::Proxy, connected(), &["0.0.0.0:80"]), open);
        assert_eq!(found(Kind::Proxy, connected(), &[]), None);
        assert_eq!(found(Kind::Proxy, connected(), &["0.0.0.0:11434"]), None);
    }

    #[test]
    fn a_tunnel_counts_by_its_name_and_ssh_and_tailscale_are_notes() {
        let code = |kind, evidence| found(kind, evidence, &[]);
        let open = Some(("tunnel".to_owned(), Severity::Open));
        assert_eq!(code(Kind::Tunnel, Evidence::Name), open);
        assert_eq!(code(Kind::Tailscale, Evidence::CommandLine(11434)), open);
        let note = |code: &str| Some((code.to_owned(), Severity::Note));
        assert_eq!(code(Kind::Tailscale, Evidence::Name), note("tailscale"));
        assert_eq!(code(Kind::Ssh, Evidence::CommandLine(11434)), note("ssh-forwarding"));
    }

    #[test]
    fn a_port_is_named_only_whole() {
        assert!(names_port("tcp:127.0.0.1:11434", 11434, true));
        assert!(names_port("11434", 11434, false));
        assert!(!names_port("11434", 11434, true));
        assert!(!names_port(":114340", 11434, true));
        assert!(!names_port("211434", 11434, false));
        assert!(!names_port("10.0.0.80", 80, false), "an address is no port");
    }

    #[test]
    fn configuration_files_are_searched_but_not_their_comments() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("conf.d/sites");
        fs::create_dir_all(&below).unwrap();
        fs::write(directory.path().join("a.conf"), "# proxy_pass http://127.0.0.1:11434;\n")
            .unwrap();
        let look = || search(directory.path(), &BTreeSet::from([11434]), MOST_DEPTH, &mut 10);
        assert_eq!(look(), None);
        fs::write(below.join("b.conf"), "  proxy_pass http://127.0.0.1:11434/;\n").unwrap();
        assert!(look().is_some_and(|path| path.ends_with("conf.d/sites/b.conf")));
        std::os::unix::fs::symlink(directory.path(), directory.path().join("0-circle")).unwrap();
        assert!(look().is_some(), "a circle of links ends");
        assert_eq!(search(directory.path(), &BTreeSet::from([11434]), 4, &mut 0), None);
    }

    #[test]
    fn no_program_is_known_twice() {
        let names: BTreeSet<_> = KNOWN.iter().map(|known| known.name).collect();
        assert_eq!(names.len(), KNOWN.len());
    }
}
