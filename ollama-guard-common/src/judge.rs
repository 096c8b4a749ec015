//! The decision.

use crate::{
    abi::THE_SERVICE,
    flow::{Ends, Network, Protocol, Source},
    frame::Frame,
    parse::{Located, Outcome, Start, locate, locate_plainly},
    verdict::{Mode, Reason, Scope, Verdict},
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

/// What a packet asks the rules for, and what comes of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Bits of a [`crate::abi::RuleSet`]: its source has to be allowed all of them.
    pub pairs: u32,
    /// What it is for, as far as that is known.
    pub terms: Terms,
}

/// The terms on which a packet is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The number of its service, or [`Terms::IN_DOUBT`].
    pub service: u8,
    /// Whether the verdict is carried out.
    pub mode: Mode,
}

impl Terms {
    /// No service's number: the packet could be for any.
    pub const IN_DOUBT: u8 = u8::MAX;
}

impl Wanted {
    /// What there is to want with one service and no difference between doors.
    #[inline(always)]
    #[must_use]
    pub const fn plainly(mode: Mode) -> Self {
        Self { pairs: THE_SERVICE, terms: Terms { service: 0, mode } }
    }
}

/// A guarded port that a packet is for; `None` if it could be for any.
pub type Target = Option<(Protocol, u16)>;

/// Which ports are guarded, and who may reach them.
///
/// The source is looked up only for a packet that is, or could be, for a guarded port, so that
/// all other traffic never pays for a lookup.
pub trait Policy {
    /// Whether this port of this protocol is guarded. `port` is in host byte order.
    fn is_guarded(&self, protocol: Protocol, port: u16) -> bool;

    /// Whether any port of this protocol is guarded.
    fn guards_any(&self, protocol: Protocol) -> bool;

    /// What a packet for this target wants. A packet in doubt wants every service whose rules are
    /// enforced, so that it passes only if its source may reach every one.
    #[inline(always)]
    fn wanted(&self, _target: Target) -> Wanted {
        Wanted::plainly(Mode::Enforce)
    }

    /// What the rules say about a source, about all of these pairs at once.
    fn standing(&self, source: &Source, pairs: u32) -> Standing;

    /// Whose packets are decided on.
    #[inline(always)]
    fn scope(&self) -> Scope {
        Scope::All
    }

    /// Whether this host may have put another destination into the packet before it came here. Then one of
    /// loopback is the host's own doing, and says nothing about the source.
    #[inline(always)]
    fn is_behind_nat(&self) -> bool {
        false
    }

    /// Whether an address is one of this host's own: IPv4 as an IPv4-mapped IPv6 address, in network
    /// byte order. Asked only with [`Scope::Local`].
    #[inline(always)]
    fn is_own_address(&self, _destination: &[u8; 16]) -> bool {
        true
    }
}

/// The decision about one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// Why. It implies the verdict.
    pub reason: Reason,
    /// On what terms; of no meaning if it is none of ours.
    pub terms: Terms,
}

impl Ruling {
    /// For a packet that is none of ours.
    pub const NOT_GUARDED: Self =
        Self { reason: Reason::NotGuarded, terms: Wanted::plainly(Mode::Enforce).terms };
}

/// The outcome for one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Why. It implies the verdict.
    pub reason: Reason,
    /// On what terms; of no meaning if it is none of ours.
    pub terms: Terms,
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
    let ruling = judge_plainly(frame, start, policy);
    let Ruling { reason, terms } = ruling.unwrap_or_else(|| judge_carefully(frame, start, policy));
    let packet = match reason {
        Reason::NotGuarded => Located::ELSEWHERE,
        _ => locate(frame, start),
    };
    let is_certain = matches!(packet.outcome, Outcome::At);
    Judgement {
        reason,
        terms,
        network: packet.has_network.then_some(packet.network),
        protocol: packet.protocol,
        transport: is_certain.then_some(packet.transport),
    }
}

/// The decision of [`judge`] about most packets. `None` for those that [`locate_plainly`] has no answer for.
#[inline(always)]
pub fn judge_plainly<F, P>(frame: &F, start: Start, policy: &P) -> Option<Ruling>
where
    F: Frame + ?Sized,
    P: Policy + ?Sized,
{
    let flow = locate_plainly(frame, start)?;
    if !policy.is_guarded(flow.protocol, flow.port) {
        return Some(Ruling::NOT_GUARDED);
    }
    let Wanted { pairs, terms } = policy.wanted(Some((flow.protocol, flow.port)));
    Some(Ruling { reason: decide(frame, &Located::at(flow), pairs, policy), terms })
}

/// The decision about any packet: by [`locate_ours`], [`Policy::wanted`], then [`decide`].
#[inline(always)]
pub fn judge_carefully<F, P>(frame: &F, start: Start, policy: &P) -> Ruling
where
    F: Frame + ?Sized,
    P: Policy + ?Sized,
{
    let Some(packet) = locate_ours(frame, start, policy) else { return Ruling::NOT_GUARDED };
    let Wanted { pairs, terms } = policy.wanted(packet.target());
    Ruling { reason: decide(frame, &packet, pairs, policy), terms }
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

/// Judges a packet that is for a guarded port, or could be, and wants these pairs.
#[inline(always)]
pub fn decide<F, P>(frame: &F, packet: &Located, pairs: u32, policy: &P) -> Reason
where
    F: Frame + ?Sized,
    P: Policy + ?Sized,
{
    let is_certain = matches!(packet.outcome, Outcome::At);
    let known = if packet.has_network { knock(frame, packet.network, pairs, policy) } else { None };
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
fn knock<F, P>(frame: &F, network: Network, pairs: u32, policy: &P) -> Option<Reason>
where
    F: Frame + ?Sized,
    P: Policy + ?Sized,
{
    match network {
        Network::V4(header) => knock_of_family(frame, Network::V4(header), pairs, policy),
        Network::V6(header) => knock_of_family(frame, Network::V6(header), pairs, policy),
    }
}

#[inline(always)]
fn knock_of_family<F, P>(frame: &F, network: Network, pairs: u32, policy: &P) -> Option<Reason>
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
    if destination.is_loopback() && !policy.is_behind_nat() {
        return Some(Reason::DestinationLoopback);
    }
    Some(match policy.standing(&source, pairs) {
        Standing::Allowed => Reason::Allowed,
        Standing::Denied => Reason::Denied,
        Standing::NotListed => Reason::NotListed,
        Standing::RulesAbsent => Reason::RulesAbsent,
    })
}
