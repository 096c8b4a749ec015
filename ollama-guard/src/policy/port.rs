//! Guarded ports.

use std::{fmt, str::FromStr};

use ollama_guard_common::Protocol;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::quoted;

/// A port of a transport protocol: `11434/tcp`. Never port 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Port {
    /// The protocol.
    pub protocol: Protocol,
    /// The number, in host byte order; 1 to 65535.
    pub number: u16,
}

/// Why a text is no port, and what to write instead.
///
/// `text` is always as it was written, in quotes and clipped.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PortError {
    /// Not a number, or not a port's number.
    #[error("{text} is no port: write a number from 1 to 65535, as in 11434 or 11434/tcp")]
    Number {
        /// As written.
        text: String,
    },
    /// From one port to another.
    #[error("{text} is a range of ports, which is not accepted yet: write each port by itself")]
    Range {
        /// As written.
        text: String,
    },
    /// No protocol that can be guarded.
    #[error("{text} names no protocol with ports: write {instead}")]
    Protocol {
        /// As written.
        text: String,
        /// The port with the protocols that exist.
        instead: String,
    },
}

impl Port {
    /// Where Ollama listens unless it is told otherwise.
    pub const OLLAMA: Self = Self { protocol: Protocol::Tcp, number: 11434 };
}

impl FromStr for Port {
    type Err = PortError;

    /// Reads `11434`, which is TCP, or `11434/udp`.
    fn from_str(text: &str) -> Result<Self, PortError> {
        let (digits, name) = match text.split_once('/') {
            Some((digits, name)) => (digits, Some(name)),
            None => (text, None),
        };
        let number = parse_number(digits).ok_or_else(|| match digits.split_once('-') {
            Some((first, last)) if parse_number(first).and(parse_number(last)).is_some() => {
                PortError::Range { text: quoted(text) }
            }
            _ => PortError::Number { text: quoted(text) },
        })?;
        let protocol = match name {
            None => Protocol::Tcp,
            Some(name) => Protocol::ALL
                .into_iter()
                .find(|protocol| protocol.name() == name)
                .ok_or_else(|| unknown_protocol(text, number, name))?,
        };
        Ok(Self { protocol, number })
    }
}

/// Only plain digits: no sign, no leading zero, no white space.
fn parse_number(digits: &str) -> Option<u16> {
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
    digits.parse().ok().filter(|_| plain)
}

fn unknown_protocol(text: &str, number: u16, name: &str) -> PortError {
    let meant = Protocol::ALL.iter().find(|protocol| protocol.name().eq_ignore_ascii_case(name));
    let instead = match meant {
        Some(protocol) => format!("{number}/{}", protocol.name()),
        None => {
            let [others @ .., last] =
                Protocol::ALL.map(|protocol| format!("{number}/{}", protocol.name()));
            format!("{} or {last}", others.join(", "))
        }
    };
    PortError::Protocol { text: quoted(text), instead }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol.name())
    }
}

impl TryFrom<String> for Port {
    type Error = PortError;

    fn try_from(text: String) -> Result<Self, PortError> {
        text.parse()
    }
}

impl From<Port> for String {
    fn from(port: Port) -> Self {
        port.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_without_a_protocol_is_tcp() {
        assert_eq!("11434".parse(), Ok(Port::OLLAMA));
        assert_eq!("11434/tcp".parse(), Ok(Port::OLLAMA));
        assert_eq!(Port::OLLAMA.to_string(), "11434/tcp");
        for protocol in Protocol::ALL {
            let port = Port { protocol, number: 65535 };
            assert_eq!(port.to_string().parse(), Ok(port));
        }
    }

    #[test]
    fn every_refusal_says_what_to_write_instead() {
        let number = "write a number from 1 to 65535";
        let cases = [
            ("0", number),
            ("65536", number),
            ("011434", number),
            ("+80", number),
            (" 80", number),
            ("", number),
            ("/tcp", number),
            ("ollama", number),
            ("8000-8010", "write each port by itself"),
            ("8000-8010/udp", "write each port by itself"),
            ("80/icmp", "write 80/tcp, 80/udp, 80/dccp, 80/sctp or 80/udplite"),
            ("80/", "write 80/tcp"),
            ("80/UDP", "write 80/udp"),
        ];
        for (text, expected) in cases {
            let message = text.parse::<Port>().unwrap_err().to_string();
            assert!(message.contains(expected), "{text:?}: {message}");
        }
    }
}
