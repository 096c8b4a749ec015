//! The decision.

use crate::{
    flow::{Flow, Network, Protocol, Source},
    frame::Frame,
    parse::{Located, Start, Undecidable, locate},
    verdict::{Reason, Scope, Verdict},
};

/// What a policy says about a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Some allow rule covers it, and no deny rule does.
    Allowed,
    /// A deny rule covers it.
    Denied,
    /// No rule covers it.
    NotListed,
    /// The rules themselves are missing.
    RulesAbsent,
}

/// Which ports are guarded, and who may reach them.
///
/// The source is looked up only for a packet that is, or could be, for a guarded port, so that
/// all other traffic never pays for a lookup.
pub trait Policy {
    /// Whether this port of this protocol is guarded. `port` is in host byte order.
    fn is_guarded(&self, protocol: Protocol, port: u16) -> bool;

    /// Whether any port of this protocol is guarded.
    fn guards_any(&self, protocol: Protocol) -> bool;

    /// What the rules say about a source. With several services: about all of them at once, so
    /// that an undecidable packet passes only if its source may reach every one.
    fn standing(&self, source: &Source) -> Standing;

    /// Whose packets are decided on.
    #[inline(always)]
    fn scope(&self) -> Scope {
        Scope::All
    }

    /// Whether an address is one of this host's own: IPv4 as an IPv4-mapped IPv6 address, in network
    /// byte order. Asked only with [`Scope::Local`].
    #[inline(always)]
    fn is_own_address(&self, _destination: &[u8; 16]) -> bool {
        true
    }
}

/// The outcome for one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Why. It implies the verdict.
    pub reason: Reason,
    /// Where the IP header stands, if it was found.
    pub network: Option<Network>,
    /// The transport protocol, if it is known.
    pub protocol: Option<Protocol>,
    /// Where the transport header stands, in bytes from the start of the frame, if its ports can
    /// be read.
    pub transport: Option<usize>,
}

impl Judgement {
    /// What is to be done with the packet, in [`crate::Mode::Enforce`].
    #[inline(always)]
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        self.reason.verdict()
    }
}

/// Judges one packet. Total: returns for any bytes and any policy.
#[inline(always)]
pub fn judge<F, P>(frame: &F, start: Start, policy: &P) -> Judgement
where
    F: Frame + ?Sized,
    P: Policy + ?Sized,
{
    let (packet, transport) = match locate(frame, start) {
        Located::Elsewhere => return NOT_GUARDED,
        Located::At(flow) if !policy.is_guarded(flow.protocol, flow.port) => return NOT_GUARDED,
        Located::At(Flow { network, protocol, transport, .. }) => {
            // Should even the address be out of reach, that is the reason.
            let reason = Reason::IpHeaderCut;
            let packet = Undecidable { reason, network: Some(network), protocol: Some(protocol) };
            (packet, Some(transport))
        }
        Located::Undecidable(Undecidable { protocol: Some(protocol), .. })
            if !policy.guards_any(protocol) =>
        {
            return NOT_GUARDED;
        }
        Located::Undecidable(packet) => (packet, None),
    };
    let known = match packet.network {
        Some(network) => knock(frame, network, policy),
        None => None,
    };
    let reason = match known {
        Some(reason) if transport.is_some() => reason,
        // A packet that is in doubt passes only if its source is known and allowed, or if it is
        // known to be none of our business, and if these ends are the ones that count; it keeps
        // the reason of the doubt otherwise.
        Some(reason @ (Reason::Allowed | Reason::NotForThisHost))
            if !packet.may_hide_a_source() =>
        {
            reason
        }
        _ => packet.reason,
    };
    Judgement { reason, network: packet.network, protocol: packet.protocol, transport }
}

const NOT_GUARDED: Judgement =
    Judgement { reason: Reason::NotGuarded, network: None, protocol: None, transport: None };

/// Who knocks, and what the rules say about that. `None` if the address is out of reach.
#[inline(always)]
fn knock<F, P>(frame: &F, network: Network, policy: &P) -> Option<Reason>
where
    F: Frame + ?Sized,
    P: Policy + ?Sized,
{
    if matches!(policy.scope(), Scope::Local)
        && let Some(destination) = network.destination_host(frame)
        && !policy.is_own_address(&destination)
    {
        return Some(Reason::NotForThisHost);
    }
    let source = network.source(frame)?;
    if let Some(reason) = source.forbidden() {
        return Some(reason);
    }
    if network.is_to_loopback(frame) {
        return Some(Reason::DestinationLoopback);
    }
    Some(match policy.standing(&source) {
        Standing::Allowed => Reason::Allowed,
        Standing::Denied => Reason::Denied,
        Standing::NotListed => Reason::NotListed,
        Standing::RulesAbsent => Reason::RulesAbsent,
    })
}
