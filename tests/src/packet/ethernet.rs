//! Ethernet II, IEEE 802.3 with LLC, and VLAN tags.

/// Which kind of VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tpid {
    /// 802.1Q, the customer tag.
    Customer,
    /// 802.1ad, the service tag.
    Service,
    /// Anything else that some switches use.
    Other(u16),
}

impl Tpid {
    const fn number(self) -> u16 {
        match self {
            Self::Customer => 0x8100,
            Self::Service => 0x88a8,
            Self::Other(number) => number,
        }
    }
}

/// An Ethernet header being written.
#[derive(Clone, Debug)]
pub struct Ethernet {
    destination: [u8; 6],
    source: [u8; 6],
    tags: Vec<(Tpid, u16)>,
}

/// A frame between two locally administered addresses.
#[must_use]
pub const fn ethernet() -> Ethernet {
    Ethernet { destination: [2, 0, 0, 0, 0, 1], source: [2, 0, 0, 0, 0, 2], tags: Vec::new() }
}

impl Ethernet {
    /// To this hardware address.
    #[must_use]
    pub const fn to(mut self, destination: [u8; 6]) -> Self {
        self.destination = destination;
        self
    }

    /// From this hardware address.
    #[must_use]
    pub const fn from(mut self, source: [u8; 6]) -> Self {
        self.source = source;
        self
    }

    /// A further tag with a VLAN number, inside the ones before it.
    #[must_use]
    pub fn tag(mut self, tpid: Tpid, vlan: u16) -> Self {
        self.tags.push((tpid, vlan & 0x0fff));
        self
    }

    /// A further tag with a whole control word: priority, drop eligibility and VLAN number.
    #[must_use]
    pub fn control_word(mut self, tpid: Tpid, control: u16) -> Self {
        self.tags.push((tpid, control));
        self
    }

    /// A further 802.1Q tag with VLAN number 0, which Linux takes on any interface.
    #[must_use]
    pub fn priority_tag(self) -> Self {
        self.tag(Tpid::Customer, 0)
    }

    /// `count` tags with VLAN number 0, of both kinds in turn and with changing priorities.
    #[must_use]
    pub fn priority_tags(mut self, count: usize) -> Self {
        for position in 0..count {
            let tpid = if position % 2 == 0 { Tpid::Customer } else { Tpid::Service };
            self.tags.push((tpid, ((position % 8) as u16) << 13));
        }
        self
    }

    /// The frame with any payload.
    #[must_use]
    pub fn carries(&self, ethertype: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(14 + 4 * self.tags.len() + payload.len());
        frame.extend(self.destination);
        frame.extend(self.source);
        for (tpid, control) in &self.tags {
            frame.extend(tpid.number().to_be_bytes());
            frame.extend(control.to_be_bytes());
        }
        frame.extend(ethertype.to_be_bytes());
        frame.extend(payload);
        frame
    }

    /// The frame with an IP packet, whose first four bits choose the EtherType.
    #[must_use]
    pub fn carries_ip(&self, packet: &[u8]) -> Vec<u8> {
        match packet.first().map(|byte| byte >> 4) {
            Some(4) => self.carries(0x0800, packet),
            Some(6) => self.carries(0x86dd, packet),
            other => panic!("no IP packet begins with {other:?}"),
        }
    }

    /// The frame in the form of IEEE 802.3: a length instead of an EtherType.
    #[must_use]
    pub fn carries_with_length(&self, payload: &[u8]) -> Vec<u8> {
        self.carries(payload.len() as u16, payload)
    }
}
