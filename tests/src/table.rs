//! The one table of packets: name, bytes, policy, verdict and reason.
//!
//! Its rows are the ways past a packet filter that Linux is known to deliver (or not), by the
//! layer they play with, and a corpus of ordinary traffic. Every row about IP stands here twice:
//! as a frame with an Ethernet header and without. Rows that end in a decision stand for each
//! kind of source.
//!
//! The same table runs through `judge` on the host and through the loaded kernel object.

mod ipv4;
mod ipv6;
mod link;
mod ordinary;
mod scope;
mod transport;

use std::net::{Ipv4Addr, Ipv6Addr};

use ollama_guard_common::{Judgement, Reason, Start, Verdict, judge};

use crate::{
    packet::ethernet,
    policy::{DENIED4, DENIED6, FRIEND4, FRIEND6, Lists, STRANGER4, STRANGER6},
};

/// One packet and what is to become of it.
#[derive(Clone, Debug)]
pub struct Case {
    /// The section, a sentence, and then who sends it and where the frame starts.
    pub name: String,
    /// Where the frame starts.
    pub start: Start,
    /// The bytes.
    pub frame: Vec<u8>,
    /// The policy in force.
    pub lists: Lists,
    /// The outcome in enforce mode.
    pub expect: (Verdict, Reason),
}

impl Case {
    /// Fewest bytes that `BPF_PROG_TEST_RUN` takes for an XDP program (an Ethernet header).
    const TEST_RUN_BYTES: usize = 14;

    /// Whether the kernel takes this frame for a test run. Shorter ones can be judged on the host
    /// only.
    #[must_use]
    pub const fn fits_test_run(&self) -> bool {
        self.frame.len() >= Self::TEST_RUN_BYTES
    }

    /// Judges the frame on the host.
    #[must_use]
    pub fn judged(&self) -> Judgement {
        judge(self.frame.as_slice(), self.start, &self.lists.policy())
    }
}

/// The whole table. Names are unique.
#[must_use]
pub fn table() -> Vec<Case> {
    let mut table = Table::default();
    type Rows = fn(&mut Table);
    let sections = [
        ("link", link::rows as Rows),
        ("ipv4", ipv4::rows),
        ("ipv6", ipv6::rows),
        ("transport", transport::rows),
        ("ordinary", ordinary::rows),
        ("scope", scope::rows),
    ];
    for (section, rows) in sections {
        table.section = section;
        rows(&mut table);
    }
    table.cases
}

/// The table being written.
#[derive(Default)]
struct Table {
    section: &'static str,
    cases: Vec<Case>,
}

type Expect = (Verdict, Reason);

const fn drop(reason: Reason) -> Expect {
    (Verdict::Drop, reason)
}

const NOT_GUARDED: Expect = (Verdict::Pass, Reason::NotGuarded);
const ALLOWED: Expect = (Verdict::Pass, Reason::Allowed);

/// Who sends, what the standard lists answer if the ports can be read, in IPv4 and IPv6.
const SENDERS: [(&str, Reason, Ipv4Addr, Ipv6Addr); 3] = [
    ("a_stranger", Reason::NotListed, STRANGER4, STRANGER6),
    ("a_friend", Reason::Allowed, FRIEND4, FRIEND6),
    ("a_denied_source", Reason::Denied, DENIED4, DENIED6),
];

impl Table {
    /// A frame with an Ethernet header.
    fn frame(&mut self, name: &str, lists: Lists, frame: Vec<u8>, expect: Expect) {
        self.push(format!("{name}/link"), Start::Link, lists, frame, expect);
    }

    /// A packet from a device without one.
    fn bare(&mut self, name: &str, lists: Lists, packet: Vec<u8>, expect: Expect) {
        self.push(format!("{name}/network"), Start::Network, lists, packet, expect);
    }

    /// An IP packet, with an Ethernet header and without.
    fn packet(&mut self, name: &str, lists: Lists, packet: &[u8], expect: Expect) {
        self.frame(name, lists, ethernet().carries_ip(packet), expect);
        self.bare(name, lists, packet.to_vec(), expect);
    }

    /// Frames that are decided on: the source's standing is the answer.
    fn decided_frame4(&mut self, name: &str, frame: impl Fn(Ipv4Addr) -> Vec<u8>) {
        for (sender, reason, source, _) in SENDERS {
            let expect = (reason.verdict(), reason);
            self.frame(&format!("{name}/{sender}"), Lists::Standard, frame(source), expect);
        }
    }

    /// Packets that are decided on, under the standard lists.
    fn decided4(&mut self, name: &str, packet: impl Fn(Ipv4Addr) -> Vec<u8>) {
        self.decided4_under(Lists::Standard, name, packet);
    }

    /// Packets that are decided on.
    fn decided4_under(&mut self, lists: Lists, name: &str, packet: impl Fn(Ipv4Addr) -> Vec<u8>) {
        for (sender, reason, source, _) in SENDERS {
            let name = format!("{name}/{sender}");
            self.packet(&name, lists, &packet(source), (reason.verdict(), reason));
        }
    }

    /// The same for IPv6, under the standard lists.
    fn decided6(&mut self, name: &str, packet: impl Fn(Ipv6Addr) -> Vec<u8>) {
        self.decided6_under(Lists::Standard, name, packet);
    }

    /// The same for IPv6.
    fn decided6_under(&mut self, lists: Lists, name: &str, packet: impl Fn(Ipv6Addr) -> Vec<u8>) {
        for (sender, reason, _, source) in SENDERS {
            let name = format!("{name}/{sender}");
            self.packet(&name, lists, &packet(source), (reason.verdict(), reason));
        }
    }

    /// Packets that can't be read to the end, from a source that can be read: an allowed one
    /// passes, any other is dropped for the reason that stood in the way.
    fn undecidable4(&mut self, name: &str, reason: Reason, packet: impl Fn(Ipv4Addr) -> Vec<u8>) {
        for (sender, standing, source, _) in SENDERS {
            let expect = if standing == Reason::Allowed { ALLOWED } else { drop(reason) };
            self.packet(&format!("{name}/{sender}"), Lists::Standard, &packet(source), expect);
        }
    }

    /// The same for IPv6.
    fn undecidable6(&mut self, name: &str, reason: Reason, packet: impl Fn(Ipv6Addr) -> Vec<u8>) {
        for (sender, standing, _, source) in SENDERS {
            let expect = if standing == Reason::Allowed { ALLOWED } else { drop(reason) };
            self.packet(&format!("{name}/{sender}"), Lists::Standard, &packet(source), expect);
        }
    }

    /// IPv6 packets whose chain of headers is not followed to its end. What is inside may have a
    /// source of its own, so that nobody's outer source helps.
    fn not_followed6(&mut self, name: &str, reason: Reason, packet: impl Fn(Ipv6Addr) -> Vec<u8>) {
        for (sender, _, _, source) in SENDERS {
            let name = format!("{name}/{sender}");
            self.packet(&name, Lists::Standard, &packet(source), drop(reason));
        }
    }

    /// Frames that are dropped whoever sends them, even where everyone is allowed.
    fn always_dropped_frame(&mut self, name: &str, reason: Reason, frame: &[u8]) {
        for (suffix, lists) in [("", Lists::Empty), ("/everyone_allowed", Lists::Everyone)] {
            self.frame(&format!("{name}{suffix}"), lists, frame.to_vec(), drop(reason));
        }
    }

    /// Packets that are dropped whoever sends them, even where everyone is allowed.
    fn always_dropped(&mut self, name: &str, reason: Reason, packet: &[u8]) {
        for (suffix, lists) in [("", Lists::Empty), ("/everyone_allowed", Lists::Everyone)] {
            self.packet(&format!("{name}{suffix}"), lists, packet, drop(reason));
        }
    }

    /// Packets that nobody is asked about: they pass under an empty allowlist.
    fn ordinary(&mut self, name: &str, packet: &[u8]) {
        self.packet(name, Lists::Empty, packet, NOT_GUARDED);
    }

    /// Frames that nobody is asked about.
    fn ordinary_frame(&mut self, name: &str, frame: Vec<u8>) {
        self.frame(name, Lists::Empty, frame, NOT_GUARDED);
    }

    fn push(&mut self, name: String, start: Start, lists: Lists, frame: Vec<u8>, expect: Expect) {
        let name = format!("{}/{name}", self.section);
        self.cases.push(Case { name, start, frame, lists, expect });
    }
}
