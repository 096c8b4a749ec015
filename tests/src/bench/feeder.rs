//! Packets with ever other sources through one program, by `BPF_PROG_TEST_RUN`, and the processor
//! time that each takes.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRun as _, TestRunOptions,
    maps::{Array, ProgramArray},
    programs::{ProgramFd, Xdp},
};
use nix::time::{ClockId, clock_gettime};
use ollama_guard_common::bench::{SOURCES, Source};

/// `XDP_DROP` and `XDP_PASS` (include/uapi/linux/bpf.h).
pub const XDP_DROP: u32 = 1;
/// See [`XDP_DROP`].
pub const XDP_PASS: u32 = 2;

/// The benchmark's own kernel object: where `cargo xtask bench` has put it.
///
/// # Errors
///
/// If it is not there.
pub fn object() -> Result<Vec<u8>> {
    let path = std::env::var_os("OLLAMA_GUARD_BENCH_OBJECT")
        .map(PathBuf::from)
        .context("OLLAMA_GUARD_BENCH_OBJECT is not set: run `cargo xtask bench`")?;
    fs::read(&path).with_context(|| path.display().to_string())
}

/// A packet, of which only the source changes.
#[derive(Clone, Debug)]
pub struct Packet {
    /// The frame.
    pub frame: Vec<u8>,
    /// Where its source address stands.
    pub source_at: u32,
    /// Whether that is an IPv6 address.
    pub is_v6: bool,
}

/// Loads the benchmark's object for packets of a form, with these sources; with none for what sends
/// nothing.
///
/// # Errors
///
/// If the kernel refuses.
pub fn load(object: &[u8], packet: &Packet, sources: &[Source], ifindex: u32) -> Result<Ebpf> {
    let is_v6 = u32::from(packet.is_v6);
    let mut loaded = EbpfLoader::new()
        .btf(None)
        .override_global("OFFSET", &packet.source_at, true)
        .override_global("IS_V6", &is_v6, true)
        .override_global("IFINDEX", &ifindex, true)
        .load(object)?;
    let map = loaded.map_mut("OG_SOURCES").context("no map OG_SOURCES")?;
    let mut map: Array<_, [u64; 3]> = map.try_into()?;
    ensure!(sources.is_empty() || sources.len() == SOURCES, "{} sources", sources.len());
    for (index, source) in sources.iter().enumerate() {
        map.set(index as u32, bytemuck::cast::<Source, [u64; 3]>(*source), 0)?;
    }
    Ok(loaded)
}

/// A program of the object, loaded.
///
/// # Errors
///
/// If there is none, or the kernel refuses it.
pub fn program<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program: &mut Xdp =
        object.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
    if program.fd().is_err() {
        program.load().with_context(|| format!("the benchmark's program {name}"))?;
    }
    Ok(program)
}

/// Which kind of programs a feeder calls: the kernel calls none of the other kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Such as take frames in several buffers, as the guard's does.
    Buffers,
    /// Such as take frames in one buffer only.
    OneBuffer,
}

impl Entry {
    const fn feed(self) -> &'static str {
        match self {
            Self::Buffers => "feed",
            Self::OneBuffer => "feed_one",
        }
    }
}

/// Feeds programs with packets: the same one for all that are compared, since where the kernel puts a
/// program in memory can make a nanosecond or two.
pub struct Feeder {
    object: Ebpf,
    entry: Entry,
    frame: Vec<u8>,
    programs: ProgramArray<aya::maps::MapData>,
}

impl Feeder {
    /// For packets of a form, and sources.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn new(object: &[u8], packet: &Packet, sources: &[Source], entry: Entry) -> Result<Self> {
        let mut object = load(object, packet, sources, 0)?;
        let map = object.take_map("OG_MEASURED").context("no map OG_MEASURED")?;
        let programs = map.try_into()?;
        program(&mut object, entry.feed())?;
        Ok(Self { object, entry, frame: packet.frame.clone(), programs })
    }

    /// From here on the packets are for this program.
    ///
    /// # Errors
    ///
    /// If it can't be called.
    pub fn aim_at(&mut self, measured: &ProgramFd) -> Result<()> {
        self.programs.set(0, measured, 0).context("a program that can't be called")
    }

    /// How many packets take about so long. Checks that each of some is given this verdict.
    ///
    /// # Errors
    ///
    /// If one is given another.
    pub fn calibrate(&mut self, milliseconds: f64, verdict: u32) -> Result<u32> {
        for _ in 0..256 {
            let (_, found) = self.run_times(1)?;
            ensure!(found == verdict, "the verdict is {found} and not {verdict}");
        }
        let (nanoseconds, _) = self.run_times(20_000)?;
        Ok((milliseconds * 1e6 / nanoseconds.max(1.0)) as u32)
    }

    /// One run of so many packets. Nanoseconds of processor time for each.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn run(&mut self, packets: u32) -> Result<f64> {
        Ok(self.run_times(packets)?.0)
    }

    fn run_times(&mut self, repeat: u32) -> Result<(f64, u32)> {
        let mut options = TestRunOptions::new();
        options.data_in = Some(&self.frame);
        options.repeat = repeat;
        let program = program(&mut self.object, self.entry.feed())?;
        let before = thread_time()?;
        let result = program.test_run(options)?;
        Ok(((thread_time()? - before) / f64::from(repeat), result.return_value))
    }
}

/// Nanoseconds that this thread has been on a processor: other load counts little.
///
/// # Errors
///
/// If the kernel does not tell.
pub fn thread_time() -> Result<f64> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(time.tv_sec() as f64 * 1e9 + time.tv_nsec() as f64)
}
