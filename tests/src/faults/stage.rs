//! The place of an injected run: a door, a guard behind it, strangers that never stop, and the
//! question whom the door lets pass. It is asked by frames to the guarded port, where nobody
//! listens, and answered by the host, which refuses whatever reaches it: an answer that leaves the
//! door tells of a frame that came in, whichever hook of the kernel the guard is at.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{End, Fault, Places, Target, Traced};
use crate::{
    bed::{
        Bed, Capture, Direction, Finished, Guard, GuardSetup, SERVER_DOOR, SWITCH_TO_SERVER, Wire,
        pins, until, until_some, xdp_program_id,
    },
    packet::{ends, ethernet, ipv4, ipv6, tcp},
    policy::{FRIEND4, FRIEND6, GUARDED, SERVER4, SERVER6, STRANGER4, STRANGER6},
};

/// How long anything may take. Long: the machine may be busy, and a traced daemon is slow.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the kernel may take to let go of what nobody holds any more.
const GONE: Duration = Duration::from_secs(5);
/// Frames of each family at once, and the pause behind them: some thousand a second, all the time.
/// Not as fast as it goes: the flood must leave the machine to what it floods.
const FLOOD_BURST: u16 = 2;
const FLOOD_PAUSE: Duration = Duration::from_millis(2);
/// Source ports of the flood, and of the questions.
const FLOOD_PORTS: u16 = 20_000;
const FIRST_ROUND: u16 = 40_000;
/// How late an answer may be that was asked for before one that is there.
const LATE: Duration = Duration::from_millis(10);
/// Where the answers go.
const NOWHERE: &str = "02:00:00:00:0f:0f";
/// A port that nobody guards.
const FREE_PORT: u16 = 9;

/// A kind of source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Who {
    /// In every policy.
    Friend,
    /// In the old policy only.
    Old,
    /// In the new policy only.
    New,
    /// In none.
    Stranger,
}

impl Who {
    const ALL: [Self; 4] = [Self::Friend, Self::Old, Self::New, Self::Stranger];

    /// Its addresses.
    #[must_use]
    pub const fn addresses(self) -> (Ipv4Addr, Ipv6Addr) {
        const fn v6(last: u16) -> Ipv6Addr {
            Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, last)
        }
        match self {
            Self::Friend => (FRIEND4, FRIEND6),
            Self::Old => (Ipv4Addr::new(198, 51, 100, 2), v6(0x502)),
            Self::New => (Ipv4Addr::new(198, 51, 100, 3), v6(0x503)),
            Self::Stranger => (STRANGER4, STRANGER6),
        }
    }

    /// Its addresses as text.
    #[must_use]
    pub fn texts(self) -> [String; 2] {
        let (v4, v6) = self.addresses();
        [v4.to_string(), v6.to_string()]
    }
}

/// A set of sources.
pub type Passing = BTreeSet<Who>;

/// Frames of a flood that never ends. Dropping it ends it.
#[derive(Debug)]
struct Strangers {
    stop: Arc<AtomicBool>,
    sender: Option<JoinHandle<()>>,
}

/// A bed with a guard that can be made to fail.
#[derive(Debug)]
pub struct Stage<'bed> {
    bed: &'bed Bed,
    /// The guard: its daemon is started by this stage and not by itself.
    pub guard: Guard<'bed>,
    wire: Wire,
    round: u16,
    strangers: Option<Strangers>,
    leaked: Capture,
}

impl<'bed> Stage<'bed> {
    /// Prepares a guard, which does not run yet, and makes sure that the questions are answered:
    /// without a guard everybody passes, and the flood is heard.
    ///
    /// # Errors
    ///
    /// If it is not so.
    pub fn new(bed: &'bed Bed) -> Result<Self> {
        let setup = GuardSetup::of(SERVER_DOOR).attach("native");
        let guard = setup.config(&Self::config(&[Who::Friend])).prepare(&bed.server.namespace)?;
        let wire = Wire::open(&bed.switch, SWITCH_TO_SERVER)?;
        for address in Who::ALL.into_iter().flat_map(Who::texts) {
            // Nobody is there to say where it is, and it is to be answered.
            let neighbour = ["neighbour", "replace", &address, "lladdr", NOWHERE];
            let place = ["dev", SERVER_DOOR, "nud", "permanent"];
            bed.server.namespace.ip(&[&neighbour[..], &place[..]].concat())?;
        }
        let leaked = Capture::start(&bed.server.namespace, SERVER_DOOR, |frame, direction| {
            direction == Direction::Out
                && ends(frame).is_some_and(|ends| {
                    let port = ends.destination.port();
                    ends.source.port() == GUARDED
                        && (FLOOD_PORTS..FLOOD_PORTS + FLOOD_BURST).contains(&port)
                })
        })?;
        let round = FIRST_ROUND;
        let mut stage = Self { bed, guard, wire, round, strangers: None, leaked };
        ensure!(
            stage.passing()? == Passing::from(Who::ALL),
            "without a guard not everybody passes"
        );
        stage.flood()?;
        stage.leaked.wait_for(1, PATIENCE).context("the flood is not heard without a guard")?;
        Ok(stage)
    }

    /// Lets the strangers flood from now on.
    fn flood(&mut self) -> Result<()> {
        let wire = Wire::open(&self.bed.switch, SWITCH_TO_SERVER)?;
        let stop = Arc::new(AtomicBool::new(false));
        let frames: Vec<_> = (FLOOD_PORTS..FLOOD_PORTS + FLOOD_BURST)
            .flat_map(|port| knocks(Who::Stranger, port, GUARDED))
            .collect();
        let sender = {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for frame in &frames {
                        if wire.send(frame).is_err() {
                            return;
                        }
                    }
                    thread::sleep(FLOOD_PAUSE);
                }
            })
        };
        self.strangers = Some(Strangers { stop, sender: Some(sender) });
        Ok(())
    }

    /// How many frames of the flood got past the door so far.
    #[must_use]
    pub fn leaked(&self) -> u64 {
        self.leaked.count()
    }

    /// A configuration that lets these in.
    #[must_use]
    pub fn config(allowed: &[Who]) -> String {
        let allowed: Vec<_> = allowed
            .iter()
            .flat_map(|who| who.texts())
            .map(|address| format!("{address:?}"))
            .collect();
        format!("[[service]]\nname = \"ollama\"\nallow = [{}]\n", allowed.join(", "))
    }

    /// Whom the door lets pass, in both families.
    ///
    /// # Errors
    ///
    /// If it answers differently for the two families of a source, or nothing is heard at all.
    pub fn passing(&mut self) -> Result<Passing> {
        self.round = if self.round == u16::MAX { FIRST_ROUND } else { self.round + 1 };
        let round = self.round;
        let capture =
            Capture::start(&self.bed.server.namespace, SERVER_DOOR, move |frame, way| {
                way == Direction::Out
                    && ends(frame).is_some_and(|ends| ends.destination.port() == round)
            })?;
        let answers = || -> Vec<(IpAddr, u16)> {
            let heard = capture.so_far();
            let ends = heard.frames.iter().filter_map(|frame| ends(frame));
            ends.map(|ends| (ends.destination.ip(), ends.source.port())).collect()
        };
        let free = || answers().iter().filter(|(_, port)| *port == FREE_PORT).count();
        // Twice: a frame waits at the processor where its sender was, and may come late.
        for answered in [2, 4] {
            for who in Who::ALL {
                for frame in knocks(who, round, GUARDED) {
                    self.wire.send(&frame)?;
                }
            }
            // To a free port, which everybody reaches: what was sent before is there or dropped.
            for frame in knocks(Who::Friend, round, FREE_PORT) {
                self.wire.send(&frame)?;
            }
            until("frames to a free port to be answered", PATIENCE, || free() >= answered)?;
        }
        thread::sleep(LATE);
        let sources: BTreeSet<_> = answers().into_iter().collect();
        let mut passing = Passing::new();
        for who in Who::ALL {
            let (v4, v6) = who.addresses();
            let heard = |address: IpAddr| sources.contains(&(address, GUARDED));
            let (v4, v6) = (heard(v4.into()), heard(v6.into()));
            ensure!(v4 == v6, "{who:?} passes by one family only (IPv4 {v4}, IPv6 {v6})");
            passing.extend(v4.then_some(who));
        }
        Ok(passing)
    }

    /// Where the guard's own files are.
    #[must_use]
    pub fn places(&self) -> Places {
        Places::new(&[
            (self.guard.pin_dir(), "PINS"),
            (&self.guard.state_dir(), "STATE"),
            (self.guard.socket().parent().unwrap_or(self.guard.pin_dir()), "RUN"),
        ])
    }

    /// Starts the daemon under the tracer.
    ///
    /// # Errors
    ///
    /// If it can't be started; not if it ends by itself.
    pub fn traced_run(&self, fault: Option<(Target, Fault)>) -> Result<Traced> {
        let output = File::create(self.said_file())?;
        Traced::start(&self.guard.run_command(), &self.places(), &output, fault)
    }

    /// Starts a command line under the tracer.
    ///
    /// # Errors
    ///
    /// If it can't be started; not if it ends by itself.
    pub fn traced_command(
        &self,
        arguments: &[&str],
        fault: Option<(Target, Fault)>,
    ) -> Result<Traced> {
        let output = File::create(self.said_file())?;
        Traced::start(&self.guard.command(arguments), &self.places(), &output, fault)
    }

    /// Waits until a traced daemon answers or has ended.
    ///
    /// # Errors
    ///
    /// If it does neither.
    pub fn settled(&self, daemon: &Traced) -> Result<Option<End>> {
        until_some("the daemon to answer or to end", PATIENCE, || {
            let end = daemon.end();
            if end.is_some() {
                return Some(end);
            }
            let answer = self.guard.exchange("GET", "/v1/rules", "", PATIENCE);
            answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")).then_some(None)
        })
        .with_context(|| format!("it said: {}", self.said()))
    }

    /// What the traced program has said.
    #[must_use]
    pub fn said(&self) -> String {
        fs::read_to_string(self.said_file()).unwrap_or_default()
    }

    fn said_file(&self) -> std::path::PathBuf {
        self.guard.file("traced.log")
    }

    /// Runs `detach`, whatever comes of it.
    ///
    /// # Errors
    ///
    /// If it can't be started or does not end.
    pub fn detach(&self) -> Result<Finished> {
        self.guard.cli(&["detach"])
    }

    /// Makes sure that nothing of the guard is left. The kernel lets go of a link a moment after its
    /// last pin is gone (`bpf_link_put`, kernel/bpf/syscall.c).
    ///
    /// # Errors
    ///
    /// If something is; the message says what.
    pub fn gone(&self) -> Result<()> {
        until("nothing of the guard to be left", GONE, || {
            self.residue().is_ok_and(|residue| residue.is_empty())
        })
        .with_context(|| format!("left: {:?}", self.residue()))
    }

    /// What of the guard is in the kernel, by the kernel's own lists: pins, and the program on the
    /// door. Whatever is neither pinned nor attached dies with the process that loaded it.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn residue(&self) -> Result<Vec<String>> {
        let mut residue: Vec<_> =
            pins(self.guard.pin_dir())?.iter().map(|path| path.display().to_string()).collect();
        if residue.is_empty() && self.guard.pin_dir().exists() {
            residue.push(self.guard.pin_dir().display().to_string());
        }
        if let Some(id) = xdp_program_id(&self.bed.server.namespace, SERVER_DOOR)? {
            residue.push(format!("program {id} on {SERVER_DOOR}"));
        }
        Ok(residue)
    }
}

impl Drop for Strangers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            let _ = sender.join();
        }
    }
}

/// A frame of each family from this source to the server.
fn knocks(who: Who, from: u16, to: u16) -> [Vec<u8>; 2] {
    let (v4, v6) = who.addresses();
    let segment = tcp(from, to);
    [
        ethernet().carries_ip(&ipv4(v4, SERVER4).carries(&segment)),
        ethernet().carries_ip(&ipv6(v6, SERVER6).carries(&segment)),
    ]
}
