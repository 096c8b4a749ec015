//! What people and programs read about a drop.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use jiff::Timestamp;
use ollama_guard_common::{
    Mode, Protocol, Reason,
    abi::{DropEvent, INNER_HOOK, INNER_NAME},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{fold::Folded, mark::Mark, text::Printable};

/// What was done with the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was dropped.
    Drop,
    /// It passed because the mode is observe, and would have been dropped in enforce.
    WouldDrop,
}

impl Outcome {
    /// The name in JSON and in text.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::WouldDrop => "would-drop",
        }
    }
}

/// One drop, or the repeats of one, as one JSON object or one line of text.
///
/// What could not be read from the packet is `None` (`null` in JSON), never a made-up zero.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, with milliseconds. For repeats, when the last one was.
    #[serde(serialize_with = "write_time", deserialize_with = "read_time")]
    pub time: Timestamp,
    /// What was done.
    pub verdict: Outcome,
    /// The name of the [`Reason`], or `reason-N` for a number that this version does not know.
    pub reason: String,
    /// Who sent it.
    pub source: Option<IpAddr>,
    /// From which port.
    pub source_port: Option<u16>,
    /// To which address.
    pub destination: Option<IpAddr>,
    /// To which port.
    pub destination_port: Option<u16>,
    /// The name of the [`Protocol`], or `protocol-N` for one without ports to guard.
    pub protocol: Option<String>,
    /// The name of the interface that it arrived on, if it is still known; or `inner door`.
    pub door: Option<String>,
    /// The index of that interface. At the inner door, in the network namespace of the socket.
    pub ifindex: u32,
    /// `cgroup`, if it was the inner door that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
    /// Bytes of the frame. For repeats, of the last one.
    pub length: u32,
    /// How many packets this event stands for, none of which another event stands for.
    pub count: u64,
    /// When, in milliseconds since the host was started: no setting of the clock changes it.
    #[serde(default)]
    pub boot_ms: u64,
    /// What is remarkable about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub marks: Vec<Mark>,
}

impl Event {
    /// The titles of the columns of the text form.
    pub const TITLES: &'static str = "TIME                      VERDICT     PROTOCOL  SOURCE                        \
         DESTINATION                   DOOR             LENGTH  COUNT  REASON                       MARKS";

    /// The width of the column of the reason: the longest has as many letters.
    const REASON_WIDTH: usize = 27;

    /// Makes an event readable. `door` finds the name of an interface by its index.
    pub fn new(folded: &Folded, door: impl FnOnce(u32) -> Option<String>) -> Self {
        let drop = &folded.record.drop;
        // No service can guard port 0, so 0 says that the ports could not be read.
        let (mode, is_inner) = drop.decided();
        let ports_known = drop.destination_port != 0;
        Self {
            time: folded.record.time,
            verdict: match mode {
                Mode::Enforce => Outcome::Drop,
                Mode::Observe => Outcome::WouldDrop,
            },
            reason: match Reason::from_number(drop.reason) {
                Some(reason) => reason.name().to_owned(),
                None => format!("reason-{}", drop.reason),
            },
            source: address(drop, drop.source),
            source_port: ports_known.then_some(drop.source_port),
            destination: address(drop, drop.destination),
            destination_port: ports_known.then_some(drop.destination_port),
            protocol: protocol(drop.protocol),
            door: if is_inner { Some(INNER_NAME.to_owned()) } else { door(drop.ifindex) },
            ifindex: drop.ifindex,
            hook: is_inner.then(|| INNER_HOOK.to_owned()),
            length: drop.length,
            count: folded.count,
            boot_ms: drop.boot_ns / 1_000_000,
            marks: Vec::new(),
        }
    }
}

fn address(drop: &DropEvent, bytes: [u8; 16]) -> Option<IpAddr> {
    match drop.family {
        4 => {
            let [a, b, c, d, ..] = bytes;
            Some(Ipv4Addr::new(a, b, c, d).into())
        }
        6 => Some(Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

fn protocol(number: u8) -> Option<String> {
    match (number, Protocol::from_number(number)) {
        (0, _) => None,
        (_, Some(protocol)) => Some(protocol.name().to_owned()),
        (_, None) => Some(format!("protocol-{number}")),
    }
}

fn write_time<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&milliseconds(*time))
}

fn read_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

/// RFC 3339 in UTC, always with three decimals, so that columns line up.
fn milliseconds(time: Timestamp) -> impl fmt::Display {
    time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
}

/// One line of columns, as in [`Event::TITLES`]. Marks, which most events have none of, come last.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let door = match &self.door {
            Some(name) => Printable(name).to_string(),
            None => format!("if{}", self.ifindex),
        };
        write!(
            f,
            "{}  {:<10}  {:<8}  {:<28}  {:<28}  {:<15}  {:>6}  {:>5}  {}",
            milliseconds(self.time),
            self.verdict.name(),
            Printable(self.protocol.as_deref().unwrap_or("-")).to_string(),
            endpoint(self.source, self.source_port),
            endpoint(self.destination, self.destination_port),
            door,
            self.length,
            self.count,
            Printable(&self.reason),
        )?;
        if self.marks.is_empty() {
            return Ok(());
        }
        let pad = Self::REASON_WIDTH.saturating_sub(self.reason.len());
        write!(f, "{:pad$}  {}", "", Mark::join(&self.marks))
    }
}

fn endpoint(address: Option<IpAddr>, port: Option<u16>) -> String {
    match (address, port) {
        (Some(address), Some(port)) => SocketAddr::new(address, port).to_string(),
        (Some(address), None) => address.to_string(),
        (None, _) => "-".to_owned(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use bytemuck::Zeroable;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::events::record::Record;

    fn folded() -> Folded {
        let mut drop = DropEvent::zeroed();
        drop.family = 4;
        drop.source[..4].copy_from_slice(&[203, 0, 113, 66]);
        drop.destination[..4].copy_from_slice(&[192, 0, 2, 1]);
        drop.source_port = 40_000;
        drop.destination_port = 11_434;
        drop.protocol = 6;
        drop.reason = Reason::NotListed as u8;
        drop.ifindex = 7;
        drop.length = 74;
        let time = "2026-03-01T12:00:00.1234567Z".parse().expect("a timestamp");
        Folded { record: Record { drop, time }, count: 3 }
    }

    /// A drop of a knock at Ollama's port.
    pub(in crate::events) fn knock(source: &str) -> Event {
        Event { source: source.parse().ok(), ..event(|_| ()) }
    }

    fn event(change: impl FnOnce(&mut DropEvent)) -> Event {
        let mut folded = folded();
        change(&mut folded.record.drop);
        Event::new(&folded, |_| Some("eth0".to_owned()))
    }

    #[test]
    fn json_is_what_is_documented_and_is_read_back() {
        let written = serde_json::to_value(event(|_| ())).expect("json");
        let expected = json!({
            "time": "2026-03-01T12:00:00.123Z", "verdict": "drop", "reason": "not-listed",
            "source": "203.0.113.66", "source_port": 40000,
            "destination": "192.0.2.1", "destination_port": 11434, "protocol": "tcp",
            "door": "eth0", "ifindex": 7, "length": 74, "count": 3, "boot_ms": 0,
        });
        assert_eq!(written, expected);
        let read: Event = serde_json::from_value(written).expect("an event");
        assert_eq!(serde_json::to_value(read).expect("json"), expected);
    }

    #[test]
    fn what_could_not_be_read_is_null() {
        let event = event(|drop| {
            *drop = DropEvent { family: 0, destination_port: 0, source_port: 0, ..*drop };
            drop.protocol = 0;
        });
        assert_eq!((event.source, event.destination), (None, None));
        assert_eq!((event.source_port, event.destination_port), (None, None));
        assert_eq!(event.protocol, None);
    }

    #[test]
    fn a_source_port_of_zero_is_shown_when_the_ports_were_read() {
        assert_eq!(event(|drop| drop.source_port = 0).source_port, Some(0));
    }

    #[test]
    fn numbers_of_another_version_are_not_lost() {
        let event = event(|drop| {
            drop.reason = 31;
            drop.protocol = 89;
        });
        assert_eq!(event.reason, "reason-31");
        assert_eq!(event.protocol.as_deref(), Some("protocol-89"));
    }

    #[test]
    fn observe_mode_says_would_drop() {
        let event = event(|drop| drop.mode = Mode::Observe as u8);
        assert_eq!(serde_json::to_value(event.verdict).expect("json"), "would-drop");
        assert!(event.to_string().contains("  would-drop  "));
    }

    #[test]
    fn columns_stand_under_their_titles() {
        let six = event(|drop| {
            drop.family = 6;
            drop.source = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9).octets();
        });
        for (line, source) in [(event(|_| ()), "203.0.113.66:40000"), (six, "[2001:db8::9]:40000")]
        {
            let line = line.to_string();
            let column = |title: &str| &line[Event::TITLES.find(title).expect("a title")..];
            assert!(column("VERDICT").starts_with("drop "), "{line}");
            assert!(column("PROTOCOL").starts_with("tcp "), "{line}");
            assert!(column("SOURCE").starts_with(source), "{line}");
            assert!(column("DOOR").starts_with("eth0 "), "{line}");
            assert!(column("REASON").starts_with("not-listed"), "{line}");
            let end = |title: &str| Event::TITLES.find(title).expect("a title") + title.len();
            assert!(line[..end("LENGTH")].ends_with("    74"), "{line}");
            assert!(line[..end("COUNT")].ends_with("    3"), "{line}");
        }
    }

    #[test]
    fn marks_are_words_in_json_and_in_a_column_of_their_own() {
        let mut marked = event(|_| ());
        marked.marks = vec![Mark::FirstSeen, Mark::Burst];
        let json = serde_json::to_value(&marked).expect("json");
        assert_eq!(json["marks"], json!(["first-seen", "burst"]));
        assert_eq!(serde_json::from_value::<Event>(json).expect("an event").marks, marked.marks);
        let (line, title) = (marked.to_string(), Event::TITLES.find("MARKS").expect("a title"));
        assert_eq!(&line[title..], "first-seen,burst");
        let longest = Reason::ALL.iter().map(|reason| reason.name().len()).max();
        assert_eq!(longest, Some(Event::REASON_WIDTH));
    }

    #[test]
    fn an_event_of_an_older_version_is_read() {
        let mut json = serde_json::to_value(event(|_| ())).expect("json");
        json.as_object_mut().expect("an object").remove("boot_ms");
        assert_eq!(serde_json::from_value::<Event>(json).expect("an event").boot_ms, 0);
    }

    #[test]
    fn a_hostile_interface_name_does_not_reach_the_terminal() {
        let event = Event::new(&folded(), |_| Some("e\x1b[2J".to_owned()));
        assert!(event.to_string().contains("e\\u{1b}[2J"));
        let gone = Event::new(&folded(), |_| None);
        assert!(gone.to_string().contains(" if7 "));
    }

    proptest! {
        /// Whatever stands in the ring, whoever put it there: one line of JSON that can be read
        /// back, and one line of text.
        #[test]
        fn any_record_is_an_event_of_one_line(
            bytes in proptest::collection::vec(any::<u8>(), size_of::<DropEvent>()),
            count in any::<u64>(),
            wall in "[0-9]{4}-0[1-9]-0[1-9]T00:00:00Z",
        ) {
            let wall = wall.parse().expect("a timestamp");
            let clock = crate::events::Clock::pair(1, wall);
            let record = Record::decode(&bytes, &clock).expect("a record of the right size");
            let event = Event::new(&Folded { record, count }, |_| None);
            let json = serde_json::to_string(&event).expect("json");
            let read: Event = serde_json::from_str(&json).expect("an event");
            prop_assert_eq!(serde_json::to_string(&read).expect("json"), json);
            let text = event.to_string();
            prop_assert!(!text.chars().any(char::is_control), "{:?}", text);
        }
    }
}
