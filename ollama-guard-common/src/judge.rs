//! The decision.

use crate::{
    flow::{Ends, Network, Protocol, Source},
    frame::Frame,
    parse::{Located, Outcome, Start, locate, locate_plainly},
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
#[must_use]
pub fn judge<F, P>(frame: &F, start: Start, policy: &P) -> Judgement
where
    F: Frame + ?Sized,
    P: Policy + ?Sized,
{
    let reason = judge_with(frame, start, policy, || match locate_ours(frame, start, policy) {
        Some(packet) => decide(frame, &packet, policy),
        None => Reason::NotGuarded,
    });
    let packet = match reason {
        Reason::NotGuarded => Located::ELSEWHERE,
        _ => locate(frame, start),
    };
    let is_certain = matches!(packet.outcome, Outcome::At);
    Judgement {
        reason,
        network: packet.has_network.then_some(packet.network),
        protocol: packet.protocol,
        transport: is_certain.then_some(packet.transport),
    }
}

/// The reason of [`judge`] only; `carefully` judges packets that [`locate_plainly`] has no answer for:
/// by [`locate_ours`], then [`decide`].
///
/// A program for the kernel has each of these two in a function of its own. The verifier looks at
/// their many ways once, and not once for every kind of packet that a program can have found before,
/// and the usual packet's few steps stay few.
#[inline(always)]
pub fn judge_with<F, P>(
    frame: &F,
    start: Start,
    policy: &P,
    carefully: impl FnOnce() -> Reason,
) -> Reason
where
    F: Frame + ?Sized,
    P: Policy + ?Sized,
{
    match locate_plainly(frame, start) {
        Some(flow) if !policy.is_guarded(flow.protocol, flow.port) => Reason::NotGuarded,
        Some(flow) => decide(frame, &Located::at(flow), policy),
        None => carefully(),
    }
}

/// Finds the port that a frame is for. `None` if it is not for a guarded one, and can't be.
#[inline(always)]
pub fn locate_ours<F, P>(frame: &F, start: Start, policy: &P) -> Option<Located>
where
    F: Frame + ?Sized,
    P: Policy + ?Sized,
{
    let packet = locate(frame, start);
    let is_ours = match (packet.outcome, packet.protocol) {
        (Outcome::Elsewhere, _) => false,
        (Outcome::At, Some(protocol)) => policy.is_guarded(protocol, packet.port),
        (Outcome::Undecidable, Some(protocol)) => policy.guards_any(protocol),
        (_, None) => true,
    };
    if is_ours { Some(packet) } else { None }
}

/// Judges a packet that is for a guarded port, or could be.
#[inline(always)]
pub fn decide<F, P>(frame: &F, packet: &Located, policy: &P) -> Reason
where
    F: Frame + ?Sized,
    P: Policy + ?Sized,
{
    let is_certain = matches!(packet.outcome, Outcome::At);
    let known = if packet.has_network { knock(frame, packet.network, policy) } else { None };
    match known {
        Some(reason) if is_certain => reason,
        // A packet that is in doubt passes only if its source is known and allowed, or if it is
        // known to be none of our business, and if these ends are the ones that count; it keeps
        // the reason of the doubt otherwise.
        Some(reason @ (Reason::Allowed | Reason::NotForThisHost))
            if !packet.may_hide_a_source() =>
        {
            reason
        }
        // Should even the address be out of reach, that is the reason.
        _ if is_certain => Reason::IpHeaderCut,
        _ => packet.reason,
    }
}

/// Who knocks, and what the rules say about that. `None` if the address is out of reach.
///
/// The families part here once and for all: where they met again in between, the compiler would have
/// to carry one's addresses, which were never read, past the other's.
#[inline(always)]
fn knock<F, P>(frame: &F, network: Network, policy: &P) -> Option<Reason>
where
    F: Frame + ?Sized,
    P: Policy + ?Sized,
{
    match network {
        Network::V4(header) => knock_of_family(frame, Network::V4(header), policy),
        Network::V6(header) => knock_of_family(frame, Network::V6(header), policy),
    }
}

#[inline(always)]
fn knock_of_family<F, P>(frame: &F, network: Network, policy: &P) -> Option<Reason>
where
    F: Frame + ?Sized,
    P: Policy + ?Sized,
{
    let Ends { source, destination } = network.ends(frame)?;
    if matches!(policy.scope(), Scope::Local)
        && let Some(host) = destination.host()
        && !policy.is_own_address(&host)
    {
        return Some(Reason::NotForThisHost);
    }
    if let Some(reason) = source.forbidden() {
        return Some(reason);
    }
    if destination.is_loopback() {
        return Some(Reason::DestinationLoopback);
    }
    Some(match policy.standing(&source) {
        Standing::Allowed => Reason::Allowed,
        Standing::Denied => Reason::Denied,
        Standing::NotListed => Reason::NotListed,
        Standing::RulesAbsent => Reason::RulesAbsent,
    })
}
