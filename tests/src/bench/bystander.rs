//! What all other traffic notices of a guard on the cable: the time of an exchange, and the bulk that
//! gets through.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::programs::XdpMode;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use ollama_guard::dataplane::AttachMode;

use super::{
    Options, feeder,
    lists::Kind,
    program::{guard, knock, rules},
    report::{Report, Table},
    summary::Summary,
};
use crate::bed::{CABLE_MTU, Pair, SERVER_DOOR};

const PORT: u16 = 8443;
/// Exchanges of a round.
const EXCHANGES: usize = 4_000;
const BULK: Duration = Duration::from_millis(500);

/// The five ways a cable can be.
const WAYS: [&str; 5] = [
    "nothing",
    "bare XDP_PASS, native",
    "ollama-guard, native",
    "bare XDP_PASS, generic",
    "ollama-guard, generic (the default on a veth)",
];

/// Measures bystanders.
///
/// # Errors
///
/// If the bed fails.
pub fn measure(options: &Options, report: &mut Report, say: &dyn Fn(&str)) -> Result<()> {
    say("bystanders");
    let object = feeder::object()?;
    let pair = Pair::new(CABLE_MTU)?;
    let mut bare = feeder::load(&object, &knock(false), &[], 0)?;
    feeder::program(&mut bare, "bare_pass")?;
    let mut loaded = guard(&rules(Kind::Prefixes, 1_000))?;
    let address = SocketAddr::from((Pair::SERVER_END, PORT));
    let listener = pair.server.enter(|| TcpListener::bind(address))??;
    thread::spawn(move || serve(&listener));
    let mut found: [(Vec<f64>, Vec<f64>); 5] = Default::default();
    for round in 0..options.rounds() {
        for way in 0..WAYS.len() {
            let way = if round % 2 == 0 { way } else { WAYS.len() - 1 - way };
            let mode = if way < 3 { XdpMode::Driver } else { XdpMode::Skb };
            let link = if matches!(way, 1 | 3) {
                let program = feeder::program(&mut bare, "bare_pass")?;
                Some(pair.server.enter(|| program.attach(SERVER_DOOR, mode))??)
            } else {
                None
            };
            if matches!(way, 2 | 4) {
                let mode = if way == 2 { AttachMode::Native } else { AttachMode::Generic };
                loaded.attach(&pair.server, SERVER_DOOR, &[mode])??;
            }
            let measured = pair
                .client
                .enter(|| -> Result<_> { Ok((exchanges(address)?, bulk(address)?)) })??;
            found[way].0.push(measured.0);
            found[way].1.push(measured.1);
            if let Some(link) = link {
                feeder::program(&mut bare, "bare_pass")?.detach(link)?;
            }
            if matches!(way, 2 | 4) {
                loaded.release(&pair.server, SERVER_DOOR)?;
            }
        }
    }
    let rows = WAYS.iter().zip(&found).map(|(way, (exchange, bulk))| {
        vec![
            (*way).to_owned(),
            format!("{:.2}", Summary::of(exchange)),
            format!("{:.3}", Summary::ratio(exchange, &found[0].0).median),
            format!("{:.1}", Summary::of(bulk)),
            format!("{:.2}", Summary::ratio(bulk, &found[0].1).median),
        ]
    });
    report.tables.push(Table {
        title: "All other traffic, end to end".into(),
        note: "Half of 4,000 exchanges of 64 bytes over TCP took less than so many microseconds, client and \
               server on one processor; bulk is one TCP stream between two processors, in Gbit/s. Ratios \
               to no guard at all."
            .into(),
        head: ["on the cable", "exchange", "ratio", "bulk", "ratio"].map(String::from).to_vec(),
        rows: rows.collect(),
    });
    for (name, ours, bare) in [("native", 2, 1), ("generic", 4, 3)] {
        let ratio = Summary::ratio(&found[ours].0, &found[bare].0).median;
        let what = format!("bystander, end to end, {name}: exchange, ratio to bare XDP_PASS");
        report.at_most(what, 1.005, ratio);
    }
    let ratio = Summary::ratio(&found[4].1, &found[0].1).median;
    report.at_least("default attachment on veth: bulk, ratio to no guard", 0.9, ratio);
    Ok(())
}

/// Answers: what begins with 0 is sent back, anything else is swallowed.
pub(super) fn serve(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        thread::spawn(move || drop(answer(stream)));
    }
}

fn answer(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = vec![0; 1 << 17];
    let mut is_first = true;
    loop {
        let count = stream.read(&mut bytes)?;
        if count == 0 {
            return Ok(());
        }
        if bytes[0] == 0 {
            stream.write_all(&bytes[..count])?;
        } else if is_first {
            // Bulk is taken on the other processor.
            let mut second = CpuSet::new();
            second.set(1)?;
            // With one processor only, both stay where they are.
            let _ = sched_setaffinity(Pid::from_raw(0), &second);
        }
        is_first = false;
    }
}

/// The median of the exchanges, in microseconds.
pub(super) fn exchanges(address: SocketAddr) -> Result<f64> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut message = [0; 64];
    let mut times = Vec::with_capacity(EXCHANGES);
    for _ in 0..EXCHANGES {
        let start = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(Summary::of(&times).median)
}

/// Gbit/s of one stream.
fn bulk(address: SocketAddr) -> Result<f64> {
    let mut stream = TcpStream::connect(address).context("bulk")?;
    let block = vec![1; 1 << 17];
    let (start, mut bytes) = (Instant::now(), 0_usize);
    while start.elapsed() < BULK {
        stream.write_all(&block)?;
        bytes += block.len();
    }
    Ok(bytes as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e9)
}
