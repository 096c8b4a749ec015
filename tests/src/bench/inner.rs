//! What the inner door costs: an exchange with a server that it stands before, a dropped SYN of a flood, and at
//! which door a flood ends.
//!
//! It stands at a cgroup of the benchmark's own, in which the server answers, so that nobody else on the
//! machine is measured.

use std::{
    env,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    os::fd::AsFd as _,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf,
    programs::{
        CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, XdpMode, cgroup_skb::CgroupSkbLinkId,
    },
};
use ollama_guard::{
    dataplane::{AttachMode, counters::INNER_DOOR},
    doors,
};
use ollama_guard_common::{Mode, Reason};

use super::{
    Options,
    bystander::{exchanges, serve},
    feeder,
    flood::{addressed, commands, flood, set_checksum},
    lists::{self, Kind},
    plot::Bars,
    program::{allowing, knock, rules},
    report::{Report, Table},
    summary::Summary,
};
use crate::{
    bed::{
        CABLE_MTU, CLIENT_INTERFACE, Cgroup, Contained, Flood, Pair, Process, SERVER_DOOR, start,
        until,
    },
    loaded::{Loaded, Variant},
    policy::GUARDED,
};

/// A port that nobody guards.
const OTHER: u16 = 8443;
/// One that NAT turns into the guarded one.
const PUBLISHED: u16 = 8080;
const LIMIT: Duration = Duration::from_secs(20);
const SHARE_OF: u64 = 20_000;
const SIZE: usize = 1_000;

/// Answers at all of these addresses, until it is killed: the server, as a process of its own.
///
/// # Errors
///
/// If it can't listen.
pub fn answer_at(addresses: &str) -> Result<()> {
    let mut servers = Vec::new();
    for address in addresses.split(',') {
        let address: SocketAddr = address.parse().context("an address to answer at")?;
        let listener =
            TcpListener::bind(address).with_context(|| format!("listen at {address}"))?;
        servers.push(std::thread::spawn(move || serve(&listener)));
    }
    servers.into_iter().try_for_each(|server| {
        server.join().map_err(|_| anyhow::anyhow!("a server that has ended"))
    })
}

/// A cable with a server in a cgroup at its end, and the guard's programs, loaded.
struct Bed {
    pair: Pair,
    cgroup: doors::Cgroup,
    guard: Loaded,
    bare: Ebpf,
    _server: Process,
    _kept: Cgroup,
}

impl Bed {
    fn new() -> Result<Self> {
        let pair = Pair::new(CABLE_MTU)?;
        // As on a network card: without this a veth has no receive path of its own.
        let gro = ["-K", SERVER_DOOR, "gro", "on"];
        pair.server.run("ethtool", &gro, LIMIT)?.expect_success()?;
        let kept = Cgroup::new()?;
        let mut command = kept.command(&pair.server, env::current_exe()?);
        let addresses = [GUARDED, OTHER].map(|port| format!("{}:{port}", Pair::SERVER_END));
        command.arg("--answer").arg(addresses.join(","));
        let server = start(command.stdin(Stdio::null()).stdout(Stdio::null()))?;
        until("the server to listen", LIMIT, || {
            let connect = || std::net::TcpStream::connect((Pair::SERVER_END, OTHER));
            pair.client.enter(connect).is_ok_and(|stream| stream.is_ok())
        })?;
        let mut list = rules(Kind::Prefixes, SIZE);
        list.push(IpAddr::from(Pair::CLIENT_END).into());
        let mut guard = Loaded::of(Variant::Usual, 65_536)?;
        guard.apply(&allowing(&list), Mode::Enforce)?;
        let bare = feeder::load(&feeder::object()?, &knock(false), &[], 0)?;
        let cgroup = doors::Cgroup::find(Some(kept.path()))?;
        Ok(Self { pair, cgroup, guard, bare, _server: server, _kept: kept })
    }

    /// Packets that a door has dropped for want of a rule, and those it has let pass.
    fn counted_at(&self, door: u32) -> Result<[u64; 2]> {
        let counters = self.guard.snapshot()?.counters;
        let door = counters.doors.iter().find(|one| one.ifindex == Some(door));
        let of = |reason: Reason| {
            door.map_or(0, |door| {
                door.counts.in_mode(Mode::Enforce).get(reason.name()).copied().unwrap_or(0)
            })
        };
        Ok([of(Reason::NotListed), of(Reason::Allowed)])
    }

    fn bare_inner(&mut self) -> Result<&mut CgroupSkb> {
        let program = self.bare.program_mut("bare_inner").context("no program bare_inner")?;
        let program: &mut CgroupSkb = program.try_into()?;
        if program.fd().is_err() {
            program.load()?;
        }
        Ok(program)
    }
}

/// What stands before the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Nothing,
    Bare,
    Guard,
}

impl Before {
    fn put(self, bed: &mut Bed) -> Result<Option<CgroupSkbLinkId>> {
        match self {
            Self::Nothing => Ok(None),
            Self::Bare => {
                let directory = bed.cgroup.as_fd().try_clone_to_owned()?;
                let kind = CgroupSkbAttachType::Ingress;
                // A link always lets others stand beside it, and takes no flags.
                let mode = CgroupAttachMode::Single;
                Ok(Some(bed.bare_inner()?.attach(directory, kind, mode)?))
            }
            Self::Guard => bed.guard.stand_inside(&bed.cgroup).map(|()| None),
        }
    }

    fn take(self, bed: &mut Bed, link: Option<CgroupSkbLinkId>) -> Result<()> {
        match (self, link) {
            (Self::Bare, Some(link)) => Ok(bed.bare_inner()?.detach(link)?),
            (Self::Guard, _) => bed.guard.leave_inside(),
            _ => Ok(()),
        }
    }
}

/// Measures the inner door.
///
/// # Errors
///
/// If the bed fails, or packets do not end where they should.
pub fn measure(options: &Options, report: &mut Report, say: &dyn Fn(&str)) -> Result<()> {
    say("inner door");
    let mut bed = Bed::new()?;
    allowed(options, &mut bed, report)?;
    dropped(options, &mut bed, report)?;
    shares(&mut bed, report)
}

/// What those notice who are let in, and those who have nothing to do with it.
fn allowed(options: &Options, bed: &mut Bed, report: &mut Report) -> Result<()> {
    let ways = [
        ("nothing", Before::Nothing, OTHER),
        ("a program that only lets pass", Before::Bare, OTHER),
        ("inner door, another port", Before::Guard, OTHER),
        ("inner door, an allowed client of a guarded port", Before::Guard, GUARDED),
    ];
    let mut found = ways.map(|_| Vec::with_capacity(options.rounds()));
    for round in 0..options.rounds() {
        for place in 0..ways.len() {
            let place = if round % 2 == 0 { place } else { ways.len() - 1 - place };
            let (name, before, port) = ways[place];
            let link = before.put(bed).context(name)?;
            let [_, passed] = bed.counted_at(INNER_DOOR)?;
            let address = SocketAddr::from((Pair::SERVER_END, port));
            let exchange = bed.pair.client.enter(|| exchanges(address))??;
            let judged = bed.counted_at(INNER_DOOR)?[1] - passed;
            before.take(bed, link)?;
            ensure!((judged > 4_000) == (port == GUARDED), "{name}: {judged} packets were judged");
            found[place].push(exchange);
        }
    }
    let middle = |place: usize| (ways[place].0.to_owned(), Summary::of(&found[place]).median);
    report.bars.push(Bars {
        title: "An exchange with a server behind the inner door: half take less".into(),
        rows: (0..ways.len()).map(middle).collect(),
    });
    let rows = ways.iter().zip(&found).map(|((name, ..), rounds)| {
        vec![
            (*name).to_owned(),
            format!("{:.2}", Summary::of(rounds)),
            format!("{:.3}", Summary::ratio(rounds, &found[0]).median),
        ]
    });
    report.tables.push(Table {
        title: "An exchange with a server behind the inner door".into(),
        note: format!(
            "Half of 4,000 exchanges of 64 bytes over TCP took less than so many microseconds, client and server \
             on one processor; no door at the interfaces, {SIZE} prefixes. Ratios to nothing."
        ),
        head: ["before the server", "exchange", "ratio"].map(String::from).to_vec(),
        rows: rows.collect(),
    });
    let ratio = |place: usize| Summary::ratio(&found[place], &found[1]).median;
    let what = "inner door, exchange, another port, ratio to a program that only lets pass";
    report.at_most(what, 1.01, ratio(2));
    let what = "inner door, exchange, an allowed client, ratio to a program that only lets pass";
    report.at_most(what, 1.02, ratio(3));
    Ok(())
}

/// What a dropped SYN costs here, beside the door at the interface.
fn dropped(options: &Options, bed: &mut Bed, report: &mut Report) -> Result<()> {
    let packet = addressed(&bed.pair, knock(false))?;
    let listed = rules(Kind::Prefixes, SIZE);
    let mut sources = lists::strangers(&listed, false);
    sources.iter_mut().for_each(|source| set_checksum(source, &packet.frame));
    let ifindex = bed.pair.client.enter(|| nix::net::if_::if_nametoindex(CLIENT_INTERFACE))??;
    let mut sender = feeder::load(&feeder::object()?, &packet, &sources, ifindex)?;
    feeder::program(&mut sender, "flood")?;
    let names = ["bare XDP_DROP, native", "door at the interface, native", "inner door"];
    let mut found = names.map(|_| Vec::with_capacity(options.rounds()));
    for round in 0..options.rounds() {
        for place in 0..names.len() {
            let place = if round % 2 == 0 { place } else { names.len() - 1 - place };
            let Bed { pair, guard, bare, cgroup, .. } = bed;
            let server = &pair.server;
            let mut link = None;
            match place {
                0 => {
                    let program = feeder::program(bare, "bare_drop")?;
                    link = Some(server.enter(|| program.attach(SERVER_DOOR, XdpMode::Driver))??);
                }
                1 => _ = guard.attach(server, SERVER_DOOR, &[AttachMode::Native])??,
                _ => guard.stand_inside(cgroup)?,
            }
            let spent = pair.client.enter(|| flood(&mut sender, &packet))??;
            match (place, link) {
                (0, Some(link)) => feeder::program(bare, "bare_drop")?.detach(link)?,
                (1, _) => guard.release(server, SERVER_DOOR)?,
                _ => guard.leave_inside()?,
            }
            found[place].push(spent);
        }
    }
    let middle = |place: usize| (names[place].to_owned(), Summary::of(&found[place]).median);
    report.bars.push(Bars {
        title: "A dropped SYN of a flood at a listening server: processor time, sender included"
            .into(),
        rows: (0..names.len()).map(middle).collect(),
    });
    let rows = names.iter().zip(&found).map(|(name, rounds)| {
        let ratio = Summary::ratio(rounds, &found[0]);
        vec![(*name).to_owned(), format!("{:.0}", Summary::of(rounds)), format!("{ratio:.2}")]
    });
    report.tables.push(Table {
        title: "A flood at a listening server".into(),
        note: format!(
            "Nanoseconds of processor time for each dropped SYN to a port that somebody listens at, sender and \
             receiver together; IPv4, {SIZE} prefixes. At the inner door a packet has come through the stack."
        ),
        head: ["who drops", "ns a packet", "ratio to bare"].map(String::from).to_vec(),
        rows: rows.collect(),
    });
    Ok(())
}

/// Where a flood ends while both doors are closed.
fn shares(bed: &mut Bed, report: &mut Report) -> Result<()> {
    let server = &bed.pair.server;
    let nat = format!(
        "nft 'table ip bench {{ chain published {{ type nat hook prerouting priority dstnat; tcp dport \
         {PUBLISHED} redirect to :{GUARDED}; }}; }}'"
    );
    commands(server, &[nat])?;
    bed.guard.attach(server, SERVER_DOOR, &[AttachMode::Native])??;
    bed.guard.stand_inside(&bed.cgroup)?;
    let ifindex = server.enter(|| nix::net::if_::if_nametoindex(SERVER_DOOR))??;
    let stranger = Ipv4Addr::new(198, 51, 100, 243);
    let cable = [(&bed.pair.client, CLIENT_INTERFACE), (server, SERVER_DOOR)];
    let pair = [(stranger.into(), Pair::SERVER_END.into())];
    let mut rows = Vec::new();
    for (name, port) in
        [("the guarded port", GUARDED), ("a port that NAT turns into it", PUBLISHED)]
    {
        let before = [bed.counted_at(ifindex)?[0], bed.counted_at(INNER_DOOR)?[0]];
        let frames = Contained::knocks_between(cable, &pair, port)?;
        let sent = Flood::start(cable[0].0, cable[0].1, frames, SHARE_OF, LIMIT)?.finish()?;
        let after = [bed.counted_at(ifindex)?[0], bed.counted_at(INNER_DOOR)?[0]];
        let share = |door: usize| (after[door] - before[door]) as f64 * 100.0 / sent as f64;
        let end = usize::from(port == PUBLISHED);
        ensure!(share(end) > 50.0 && share(1 - end) == 0.0, "{name}: {before:?}, {after:?}");
        rows.push(vec![
            name.to_owned(),
            format!("{:.1} %", share(0)),
            format!("{:.1} %", share(1)),
            format!("{:.1} %", 100.0 - share(0) - share(1)),
        ]);
    }
    report.tables.push(Table {
        title: "Which door drops a flood".into(),
        note: format!(
            "{SHARE_OF} SYNs of a stranger, both doors closed. What is lost before either has full queues to thank."
        ),
        head: ["sent to", "at the interface", "inner door", "lost before"].map(String::from).to_vec(),
        rows,
    });
    bed.guard.leave_inside()?;
    bed.guard.release(server, SERVER_DOOR)
}
