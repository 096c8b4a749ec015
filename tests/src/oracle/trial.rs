//! One batch of cases before all servers.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use anyhow::{Context as _, Result};
use ollama_guard::dataplane::{Hook, PinDir, Snapshot, Twin, test_run::SHORTEST_FRAME};
use ollama_guard_common::{Policy as _, Protocol, Reason, Standing, Start};

use super::{
    answer::{Answer, Heard, SynAck},
    case::{Case, Door, Frame},
    cast::{POLICIES, policies, standing},
    lab::{CABLES, Lab, Seen, Server, TUN, VXLAN},
    model::{Extent, Layer, Placed, expected},
    services::Guest,
    verdict::{Finding, Witness},
};
use crate::{
    bed::{Guard, GuardSetup, SERVER_MAC},
    packet::{ACK, PSH, RST, Segment, ethernet, ipv4, ipv6, tcp},
    policy::HostPolicy,
};

/// Frames between two looks at the wires: fewer than a driver's queue holds.
const STRIDE: usize = 100;
/// One in so many begun connections is carried on.
const SAMPLE: u32 = 4;
/// What the servers are called; the first has no guard.
pub const ROLES: [&str; 1 + POLICIES] = ["bare", "native", "generic"];

/// Three servers: without a guard, with one in native mode, with one in generic mode. Tunnels,
/// which know no native mode, are at the first and the last.
pub struct Trial<'lab> {
    servers: Vec<Server<'lab>>,
    guards: Vec<Guarded<'lab>>,
    policies: [HostPolicy; POLICIES],
}

struct Guarded<'lab> {
    _guard: Guard<'lab>,
    pins: PinDir,
    link: Twin,
    network: Twin,
    counted: BTreeMap<String, u64>,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What is not as it is to be.
    pub findings: Vec<Finding>,
    /// Frames that were sent, not counting the copies for the other servers.
    pub frames: usize,
    /// Cases that the server without a guard answered in some way.
    pub answered: usize,
    /// Cases from sources that are not allowed, which it answered from a guarded port.
    pub knocks: usize,
    /// Cases in which a guard was to drop a frame as undecidable, or always.
    pub doubtful: usize,
    /// Cases with a mutation that nobody planned.
    pub wild: usize,
    /// Connections that were carried on to an answer with data, at a guarded server.
    pub served: usize,
    /// Frames by the reason that the first guard was to have.
    pub reasons: BTreeMap<&'static str, u64>,
}

impl<'lab> Trial<'lab> {
    /// Furnishes the lab and starts the guards.
    ///
    /// # Errors
    ///
    /// If something can't be made, mostly for want of root, or a guard does not start.
    pub fn new(lab: &'lab Lab) -> Result<Self> {
        let servers = ROLES
            .iter()
            .enumerate()
            .map(|(number, role)| Server::new(lab, number, role, *role != "native"))
            .collect::<Result<_>>()?;
        let policies = policies();
        let native = GuardSetup::automatic().attach("native");
        let generic = GuardSetup::automatic().attach("generic");
        let doors = [&CABLES[..], &[CABLES[0], CABLES[1], TUN, VXLAN]];
        let guards = [native, generic]
            .into_iter()
            .enumerate()
            .map(|(number, setup)| {
                Guarded::start(setup, doors[number], &policies[number], lab, number + 1)
            })
            .collect::<Result<_>>()?;
        Ok(Self { servers, guards, policies })
    }

    /// Sends a batch of cases to all servers, and compares.
    ///
    /// # Errors
    ///
    /// If the lab fails; what a server or a guard does wrong is a finding.
    pub fn run(&mut self, cases: &[Case]) -> Result<Outcome> {
        let frames: Vec<&Frame> = cases.iter().flat_map(|case| &case.frames).collect();
        self.send(&frames)?;
        let mut seen: Vec<Seen> = self.servers.iter_mut().map(Server::take_seen).collect();
        let carried_on = self.carry_on(cases, &mut seen)?;
        let mut outcome = Outcome { frames: frames.len(), ..Outcome::default() };
        for number in 0..POLICIES {
            let has = |frame: &Frame| self.servers[number + 1].has(frame.door);
            let twin = self.guards[number].judge(cases, has)?;
            let counted = self.guards[number].count()?;
            let witness = Witness {
                number,
                server: ROLES[number + 1],
                policy: &self.policies[number],
                cases,
                has: &has,
                twin,
                counted,
                carried_on: &carried_on[number],
                bare: &seen[0],
                guarded: &seen[number + 1],
            };
            witness.examine(&mut outcome);
        }
        Ok(outcome)
    }

    fn send(&mut self, frames: &[&Frame]) -> Result<()> {
        for stride in frames.chunks(STRIDE) {
            for server in &mut self.servers {
                for frame in stride.iter().filter(|frame| server.has(frame.door)) {
                    server.send(frame)?;
                }
                server.settle()?;
            }
        }
        Ok(())
    }

    /// Carries some begun connections on: the acknowledgement and a question, then an abort. A
    /// guarded server that has begun none with a stranger gets what the other one would have got:
    /// a guess. Returns the reasons that the guards are to have had for these segments.
    fn carry_on(&mut self, cases: &[Case], seen: &mut [Seen]) -> Result<[Vec<Reason>; POLICIES]> {
        let sampled: HashMap<IpAddr, u32> = cases
            .iter()
            .filter(|case| case.number.is_multiple_of(SAMPLE))
            .flat_map(|case| case.sources.iter().map(|source| (*source, case.number)))
            .collect();
        let begun = |seen: &Seen| -> BTreeMap<(IpAddr, u16, IpAddr, u16), SynAck> {
            let begun = seen.heard.iter().filter_map(|heard| heard.syn_ack);
            begun
                .filter(|syn_ack| sampled.contains_key(&syn_ack.client.0))
                .map(|s| ((s.client.0, s.client.1, s.server.0, s.server.1), s))
                .collect()
        };
        let bare = begun(&seen[0]);
        let mut reasons = [const { Vec::new() }; POLICIES];
        for (number, server) in self.servers.iter_mut().enumerate() {
            let own = begun(&seen[number]);
            for pass in [ask, abort] {
                for (known, syn_ack) in &bare {
                    let is_guess = self.policies[0].is_guarded(Protocol::Tcp, known.3)
                        && standing(known.0) != Standing::Allowed;
                    let guess = is_guess.then_some(syn_ack);
                    let Some(syn_ack) = own.get(known).or(guess) else { continue };
                    let frame = pass(syn_ack);
                    if let Some(policy) = number.checked_sub(1) {
                        reasons[policy].push(plain_reason(&frame, &self.policies[policy]));
                    }
                    server.send(&frame)?;
                }
                server.settle()?;
            }
            let more = server.take_seen();
            seen[number].heard.extend(more.heard);
            seen[number].guests.extend(more.guests);
        }
        Ok(reasons)
    }
}

/// The acknowledgement and a question in one segment.
fn ask(syn_ack: &SynAck) -> Frame {
    plain(syn_ack, |segment| {
        let next = syn_ack.sequence.wrapping_add(1);
        let question = format!("question from {}", syn_ack.client.0);
        segment.flags(PSH | ACK).acknowledgement(next).payload(question.as_bytes())
    })
}

/// The end, whatever was heard.
fn abort(syn_ack: &SynAck) -> Frame {
    let question = format!("question from {}", syn_ack.client.0).len() as u32;
    plain(syn_ack, |segment| {
        segment.flags(RST).sequence(syn_ack.acknowledged.wrapping_add(question))
    })
}

/// A segment of the client's, without any tricks.
fn plain(syn_ack: &SynAck, make: impl Fn(Segment) -> Segment) -> Frame {
    let SynAck { server, client, acknowledged, .. } = *syn_ack;
    let segment = make(tcp(client.1, server.1).sequence(acknowledged));
    let packet = match (client.0, server.0) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ipv4(source, destination).carries(&segment)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            ipv6(source, destination).carries(&segment)
        }
        mixed => unreachable!("a connection has ends of one family: {mixed:?}"),
    };
    let bytes = ethernet().to(SERVER_MAC).carries_ip(&packet);
    Frame { door: Door::First, bytes, expect: None }
}

/// What the guard is to say of such a segment.
fn plain_reason(frame: &Frame, policy: &HostPolicy) -> Reason {
    let address = |at: usize, length: usize| frame.bytes[at..at + length].to_vec();
    let layers = if frame.bytes[12] == 8 {
        let ends = [26, 30].map(|at| <[u8; 4]>::try_from(address(at, 4)).unwrap_or_default());
        let [source, destination] = ends.map(Into::into);
        let extent = Extent::Whole;
        vec![Layer::V4 { source, destination, version: 4, words: 5, extent, protocol: 6 }]
    } else {
        let ends = [22, 38].map(|at| <[u8; 16]>::try_from(address(at, 16)).unwrap_or_default());
        let [source, destination] = ends.map(Into::into);
        vec![Layer::V6 { source, destination, version: 6, payload: 0 }, Layer::Upper(6)]
    };
    let places = [14, 54];
    let placed: Vec<Placed> =
        layers.into_iter().zip(places).map(|(layer, at)| Placed { at, layer }).collect();
    expected(Start::Link, &placed, &frame.bytes, policy)
}

impl<'lab> Guarded<'lab> {
    fn start(
        setup: GuardSetup,
        doors: &[&str],
        policy: &HostPolicy,
        lab: &'lab Lab,
        server: usize,
    ) -> Result<Self> {
        let interface = |setup: GuardSetup, door: &&str| setup.arguments(&["--interface", door]);
        let setup = doors.iter().fold(setup, interface);
        let setup = policy.ports.iter().fold(setup, |setup, (protocol, port)| {
            setup.arguments(&["--port", &format!("{port}/{}", protocol.name())])
        });
        let setup = policy.allow.iter().fold(setup, GuardSetup::allow);
        let setup = policy.deny.iter().fold(setup, GuardSetup::deny);
        let guard = setup.start(&lab.servers[server])?;
        let status = guard.status()?;
        for door in doors {
            let door = status.door(door)?;
            let mode = if ROLES[server] == "native" { "native" } else { "generic" };
            anyhow::ensure!(
                door.is_covered && door.attach.as_deref() == Some(mode),
                "this door is not covered as it is to be: {door:?}"
            );
        }
        let pins = PinDir::new(guard.pin_dir());
        let link = Twin::open(&pins, Hook::Xdp, Start::Link)?;
        let network = Twin::open(&pins, Hook::Xdp, Start::Network)?;
        Ok(Self { _guard: guard, pins, link, network, counted: BTreeMap::new() })
    }

    /// What the twin says of each frame that this server gets.
    fn judge(&self, cases: &[Case], has: impl Fn(&Frame) -> bool) -> Result<Vec<Option<Reason>>> {
        let frames = cases.iter().flat_map(|case| &case.frames);
        frames
            .map(|frame| {
                if !has(frame) || frame.bytes.len() < SHORTEST_FRAME {
                    return Ok(None);
                }
                let is_link = frame.door.start() == Start::Link;
                let twin = if is_link { &self.link } else { &self.network };
                Ok(Some(twin.run(&frame.bytes).context("asking the twin")?.reason))
            })
            .collect()
    }

    /// What the live program has counted since this was asked last.
    fn count(&mut self) -> Result<BTreeMap<String, u64>> {
        let total = Snapshot::read(&self.pins)?.counters.total.enforce;
        let since = |(name, now): (&String, &u64)| {
            let before = self.counted.get(name).copied().unwrap_or(0);
            (*now > before).then(|| (name.clone(), now - before))
        };
        let news = total.iter().filter_map(since).collect();
        self.counted = total;
        Ok(news)
    }
}

/// The answers to each address, in an order of their own.
#[must_use]
pub fn by_receiver(heard: &[Heard]) -> HashMap<IpAddr, Vec<Answer>> {
    let mut answers: HashMap<IpAddr, Vec<Answer>> = HashMap::new();
    for heard in heard {
        answers.entry(heard.to).or_default().extend(heard.answer.clone());
    }
    answers.values_mut().for_each(|answers| answers.sort_unstable());
    answers
}

/// The guests of a server's guarded ports.
pub fn guests<'seen>(
    seen: &'seen Seen,
    policy: &'seen HostPolicy,
) -> impl Iterator<Item = &'seen Guest> {
    seen.guests.iter().filter(|guest| policy.ports.iter().any(|port| port.1 == guest.port))
}
