//! Ollama's own settings, read to explain why its listener is where it is.
//!
//! The rules are those of Ollama's `envconfig` (about version 0.32). Nothing is decided by them:
//! what counts is the socket.

use std::fs;

use serde::Serialize;

use super::{
    facts::{Facts, NotSeen},
    finding::{Finding, Severity},
    processes::{self, Processes},
};

/// Names of processes that serve models as Ollama does: Ollama itself, its older runner, and
/// llama.cpp's server.
const LIKE_OLLAMA: [&str; 3] = ["ollama", "ollama_llama_server", "llama-server"];

/// A running Ollama and what it was told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OllamaFacts {
    /// The process.
    pub pid: u32,
    /// `OLLAMA_HOST`, as it is set.
    pub host: Option<String>,
    /// `OLLAMA_ORIGINS`, as it is set.
    pub origins: Option<String>,
}

/// What Ollama makes of `OLLAMA_HOST`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HostSetting {
    /// Empty for all addresses.
    host: String,
    /// The port that it listens on.
    port: u16,
    /// What one would not expect.
    surprise: Option<&'static str>,
}

/// Whether a process serves models as Ollama does.
pub(super) fn is_like(process: &processes::Process) -> bool {
    LIKE_OLLAMA.iter().any(|name| process.is_called(name))
}

/// The settings of every running Ollama server.
pub(super) fn collect(processes: &Processes, not_seen: &mut Vec<NotSeen>) -> Vec<OllamaFacts> {
    let servers = processes.here().filter(|process| process.is_called("ollama"));
    servers
        .filter_map(|process| {
            let path = format!("/proc/{}/environ", process.pid);
            let variables = match fs::read(&path) {
                Ok(bytes) => processes::split(&bytes),
                Err(error) => {
                    not_seen
                        .push(NotSeen::new(format!("the settings of {}", process.title()), error));
                    return None;
                }
            };
            let value = |name: &str| {
                let found = variables.iter().find_map(|one| one.strip_prefix(name));
                found.map(ToOwned::to_owned)
            };
            let (host, origins) = (value("OLLAMA_HOST="), value("OLLAMA_ORIGINS="));
            Some(OllamaFacts { pid: process.pid, host, origins })
        })
        .collect()
}

impl OllamaFacts {
    /// Why it listens where it does, for people.
    pub(super) fn explanation(&self) -> Option<String> {
        let value = self.host.as_deref()?;
        let setting = understand(value);
        let host = if setting.host.is_empty() { "all addresses" } else { &setting.host };
        let mut text = format!("OLLAMA_HOST={value} means {host}, port {}", setting.port);
        if let Some(surprise) = setting.surprise {
            text.push_str(&format!(" ({surprise})"));
        }
        Some(text)
    }
}

fn understand(value: &str) -> HostSetting {
    let text = value.trim().trim_matches(['"', '\'']);
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None if text == "ollama.com" => (Some("https"), "ollama.com:443"),
        None => (None, text),
    };
    let (default, default_is) = match scheme {
        Some("http") => (80, "http:// without a port is 80, not 11434"),
        Some("https") => (443, "https:// without a port is 443, and still speaks plain HTTP"),
        _ => (11434, "the port is not valid, so it is the default"),
    };
    // A path is for clients; the listener ignores it.
    let host_and_port = rest.split('/').next().unwrap_or_default();
    let Some((host, port)) = split_host_port(host_and_port) else {
        let host = match host_and_port {
            "" => "127.0.0.1",
            name => name.trim_matches(['[', ']']),
        };
        let surprise = matches!(scheme, Some("http" | "https")).then_some(default_is);
        return HostSetting { host: host.to_owned(), port: default, surprise };
    };
    let (number, surprise) = match port.parse::<i32>().ok().and_then(|n| u16::try_from(n).ok()) {
        Some(0) => (0, Some("port 0 is a random one")),
        Some(number) => (number, None),
        None => (default, Some(default_is)),
    };
    HostSetting { host: host.to_owned(), port: number, surprise }
}

/// Go's `net.SplitHostPort`: `None` if there is no port, or too many colons.
fn split_host_port(text: &str) -> Option<(&str, &str)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            (host, rest.strip_prefix(':')?)
        }
        None => text.rsplit_once(':').filter(|(host, _)| !host.contains(':'))?,
    };
    let is_plain = |text: &str| !text.contains(['[', ']']);
    (is_plain(host) && is_plain(port) && !port.contains(':')).then_some((host, port))
}

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let everyone = |one: &&OllamaFacts| {
        let origins = one.origins.as_deref().unwrap_or_default();
        origins.trim_matches(['"', '\'']).split(',').any(|origin| origin.trim() == "*")
    };
    let found = facts.ollama.iter().filter(everyone);
    found
        .map(|one| {
            Finding::new(
                "origins",
                Severity::Note,
                format!(
                    "Ollama (process {}) runs with OLLAMA_ORIGINS=*: every web page that is opened \
                     on an allowed host may call it",
                    one.pid
                ),
                "name the origins that need it",
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the facts that are known of Ollama.
    #[test]
    fn ollama_host_means_what_ollama_makes_of_it() {
        let cases = [
            ("", "127.0.0.1", 11434, false),
            ("0.0.0.0", "0.0.0.0", 11434, false),
            ("::", "::", 11434, false),
            ("[::]", "::", 11434, false),
            ("1.2.3.4:5678", "1.2.3.4", 5678, false),
            ("[::1]:5678", "::1", 5678, false),
            ("name:5678", "name", 5678, false),
            (":1234", "", 1234, false),
            ("0.0.0.0:", "0.0.0.0", 11434, true),
            ("0.0.0.0:-1", "0.0.0.0", 11434, true),
            ("0.0.0.0:65536", "0.0.0.0", 11434, true),
            ("0.0.0.0:abc", "0.0.0.0", 11434, true),
            ("http://0.0.0.0:abc", "0.0.0.0", 80, true),
            (":0", "", 0, true),
            ("http://0.0.0.0", "0.0.0.0", 80, true),
            ("https://0.0.0.0", "0.0.0.0", 443, true),
            ("http://0.0.0.0:11434", "0.0.0.0", 11434, false),
            ("http://host:1/path", "host", 1, false),
            ("ollama.com", "ollama.com", 443, false),
            ("name", "name", 11434, false),
            ("  0.0.0.0:8080 ", "0.0.0.0", 8080, false),
            ("\"0.0.0.0:8080\"", "0.0.0.0", 8080, false),
            ("'0.0.0.0:8080'", "0.0.0.0", 8080, false),
        ];
        for (value, host, port, is_surprising) in cases {
            let found = understand(value);
            assert_eq!((found.host.as_str(), found.port), (host, port), "{value:?}");
            assert_eq!(found.surprise.is_some(), is_surprising, "{value:?}: {found:?}");
        }
    }

    #[test]
    fn the_explanation_is_a_sentence() {
        let facts = OllamaFacts { host: Some("http://:1".into()), ..OllamaFacts::default() };
        let text = facts.explanation().unwrap();
        assert_eq!(text, "OLLAMA_HOST=http://:1 means all addresses, port 1");
        assert_eq!(OllamaFacts::default().explanation(), None);
    }

    #[test]
    fn only_a_star_among_the_origins_is_noted() {
        let found = |origins: Option<&str>| {
            let one = OllamaFacts { origins: origins.map(Into::into), ..OllamaFacts::default() };
            findings(&Facts { ollama: vec![one], ..Facts::default() }).len()
        };
        assert_eq!(found(Some("*")), 1);
        assert_eq!(found(Some("https://a.example, *")), 1);
        assert_eq!(found(Some("https://*.example")), 0);
        assert_eq!(found(None), 0);
    }
}
