//! The decision.

use crate::{
    flow::{Network, Protocol, Source},
    frame::Frame,
    parse::{Located, Start, Undecidable, locate},
    verdict::{Reason, Verdict},
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
    match locate(frame, start) {
        Located::Elsewhere => not_guarded(),
        Located::At(flow) if !policy.is_guarded(flow.protocol, flow.port) => not_guarded(),
        Located::At(flow) => Judgement {
            reason: knock(frame, flow.network, policy),
            network: Some(flow.network),
            protocol: Some(flow.protocol),
            transport: Some(flow.transport),
        },
        Located::Undecidable(packet) => doubt(frame, &packet, policy),
    }
}

#[inline(always)]
const fn not_guarded() -> Judgement {
    Judgement { reason: Reason::NotGuarded, network: None, protocol: None, transport: None }
}

/// A packet for a guarded port.
#[inline(always)]
fn knock<F, P>(frame: &F, network: Network, policy: &P) -> Reason
where
    F: Frame + ?Sized,
    P: Policy + ?Sized,
{
    let Some(source) = network.source(frame) else {
        return Reason::IpHeaderCut;
    };
    if let Some(reason) = source.forbidden() {
        return reason;
    }
    if network.is_to_loopback(frame) {
        return Reason::DestinationLoopback;
    }
    match policy.standing(&source) {
        Standing::Allowed => Reason::Allowed,
        Standing::Denied => Reason::Denied,
        Standing::NotListed => Reason::NotListed,
        Standing::RulesAbsent => Reason::RulesAbsent,
    }
}

/// A packet that could be for a guarded port: it passes only if its source is known and allowed,
/// and keeps the reason of the doubt otherwise.
#[inline(always)]
fn doubt<F, P>(frame: &F, packet: &Undecidable, policy: &P) -> Judgement
where
    F: Frame + ?Sized,
    P: Policy + ?Sized,
{
    if let Some(protocol) = packet.protocol {
        if !policy.guards_any(protocol) {
            return not_guarded();
        }
    }
    let reason = match packet.network {
        Some(network) if knock(frame, network, policy).verdict() == Verdict::Pass => {
            Reason::Allowed
        }
        _ => packet.reason,
    };
    Judgement { reason, network: packet.network, protocol: packet.protocol, transport: None }
}
