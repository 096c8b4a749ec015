//! Where metrics and health are served.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use crate::policy::quoted;

/// The port that is taken where nobody names one.
pub const DEFAULT_METRICS_PORT: u16 = 9434;

/// The address at which metrics and health are served, if they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metrics {
    /// Nowhere.
    Off,
    /// There. The port is never 0.
    At(SocketAddr),
}

impl Default for Metrics {
    fn default() -> Self {
        Self::At((Ipv4Addr::LOCALHOST, DEFAULT_METRICS_PORT).into())
    }
}

impl Metrics {
    /// The address.
    #[must_use]
    pub const fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }

    /// Whether a running daemon can go over to another choice. It may listen at the port of its start
    /// and at no other, so that nobody who takes it over can pass for another server.
    #[must_use]
    pub const fn can_become(self, new: Self) -> bool {
        match (self, new) {
            (_, Self::Off) => true,
            (Self::Off, Self::At(_)) => false,
            (Self::At(old), Self::At(new)) => old.port() == new.port(),
        }
    }

    /// What to know about an address that others can reach.
    pub(super) fn warning(self) -> Option<String> {
        let address = self.address().filter(|address| !is_own(address.ip()))?;
        Some(format!(
            "metrics are served at {address}, which other hosts can reach: nothing there needs a \
             login, and it shows the names of interfaces, how they are guarded, how many rules there \
             are and how many packets come; keep it to a network of your own, or listen at \
             127.0.0.1:{}",
            address.port()
        ))
    }
}

/// Only programs of this host reach it.
fn is_own(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(address) => address.fmt(f),
        }
    }
}

/// An address with a port, or the word `off`.
pub(super) fn metrics(text: &str) -> Result<Metrics, String> {
    if text == "off" {
        return Ok(Metrics::Off);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match address.port() {
            0 => Err(format!("{}: port 0 is none that anybody could ask", quoted(text))),
            _ => Ok(Metrics::At(address)),
        };
    }
    Err(format!("{} is no address with a port: write {}", quoted(text), instead(text)))
}

/// What was probably meant.
fn instead(text: &str) -> String {
    let port = DEFAULT_METRICS_PORT;
    if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return format!("\"{}\"", SocketAddr::from((address, port)));
    }
    let (host, number) = text.rsplit_once(':').unwrap_or(("localhost", text));
    match (host, number.parse::<u16>()) {
        ("", Ok(number)) => format!("\"0.0.0.0:{number}\" for every address of this host"),
        ("localhost", Ok(number)) => format!("\"127.0.0.1:{number}\""),
        _ => format!("\"127.0.0.1:{port}\", \"[::1]:{port}\" or \"off\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Metrics {
        metrics(text).unwrap()
    }

    #[test]
    fn an_address_has_a_port_and_what_was_meant_is_said() {
        assert_eq!(at("127.0.0.1:9434"), Metrics::default());
        assert_eq!(at("[::1]:80").to_string(), "[::1]:80");
        assert_eq!(at("off"), Metrics::Off);
        for (text, instead) in [
            ("127.0.0.1", "write \"127.0.0.1:9434\""),
            ("::1", "write \"[::1]:9434\""),
            ("[::1]", "write \"[::1]:9434\""),
            (":9100", "write \"0.0.0.0:9100\" for every"),
            ("9100", "write \"127.0.0.1:9100\""),
            ("localhost:9100", "write \"127.0.0.1:9100\""),
            ("example.org:9100", "or \"off\""),
            ("none", "or \"off\""),
            ("127.0.0.1:99999", "or \"off\""),
            ("", "or \"off\""),
            ("0.0.0.0:0", "port 0 is none"),
        ] {
            let message = metrics(text).unwrap_err();
            assert!(message.contains(instead), "{text}: {message}");
        }
    }

    #[test]
    fn only_what_others_can_reach_is_warned_of() {
        for own in ["127.0.0.1:9434", "127.8.8.8:1", "[::1]:9434", "[::ffff:127.0.0.1]:9434", "off"]
        {
            assert_eq!(at(own).warning(), None, "{own}");
        }
        for open in ["0.0.0.0:9434", "[::]:9434", "192.0.2.1:9434"] {
            let warning = at(open).warning().unwrap();
            assert!(warning.contains("login") && warning.contains("127.0.0.1:9434"), "{warning}");
        }
    }

    #[test]
    fn a_running_daemon_keeps_its_port() {
        let before = at("127.0.0.1:9434");
        assert!(before.can_become(at("0.0.0.0:9434")) && before.can_become(Metrics::Off));
        assert!(!before.can_become(at("127.0.0.1:9435")) && !Metrics::Off.can_become(before));
    }
}
