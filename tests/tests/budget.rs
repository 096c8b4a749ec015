//! What the kernel has to verify, and how much stack the programs use: against a record.
//!
//! The verifier gives up at a million instructions, and the stack ends at 512 bytes. Both limits
//! are far away; a change that comes much nearer is to be noticed when it is made, and not when
//! some kernel refuses the program.

use std::{collections::BTreeMap, fs, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use aya::programs::ProgramInfo;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use ollama_guard::config::MAX_CAPACITY;
use ollama_guard_common::{Mode, Protocol, Reason, Start};
use ollama_guard_tests::{
    bed::{kernel_release, run},
    budget::{Cost, Record, stack_bytes},
    loaded::{Loaded, Variant},
    packet::{ipv4, ipv6, tcp},
    policy::{HostPolicy, SERVER4, SERVER6},
};

const LIMIT: Duration = Duration::from_secs(10);

/// Set by `cargo xtask kernels --record`, which then writes what this test prints.
const RECORDING: &str = "OLLAMA_GUARD_RECORD_BUDGET";

/// Every program of a variant that is pinned, under `<variant>/<pin>`. Maps' pins are in capitals.
fn costs(variant: Variant, name: &str, found: &mut BTreeMap<String, Cost>) -> Result<()> {
    let loaded = Loaded::with(variant)?;
    let directory = loaded.pin("");
    for entry in fs::read_dir(&directory).with_context(|| format!("{}", directory.display()))? {
        let path = entry?.path();
        let pin = path.file_name().context("a pin has a name")?.to_string_lossy().into_owned();
        if pin.starts_with("OG_") {
            continue;
        }
        let info = ProgramInfo::from_pin(&path).with_context(|| pin.clone())?;
        let verified = info.verified_instruction_count().context("the kernel tells no count")?;
        let dump = run(
            Command::new("bpftool").args(["prog", "dump", "xlated", "pinned"]).arg(&path),
            LIMIT,
        )?;
        let stack = stack_bytes(dump.expect_success()?).with_context(|| pin.clone())?;
        let jited = info.size_jitted();
        found.insert(format!("{name}/{pin}"), Cost { verified, jited, stack });
    }
    Ok(())
}

#[tokio::test]
#[ignore = "needs root: cargo xtask test"]
async fn no_program_costs_the_verifier_much_more_than_recorded() -> Result<()> {
    let mut found = BTreeMap::new();
    costs(Variant::Usual, "usual", &mut found)?;
    costs(Variant::OneBuffer, "one-buffer", &mut found)?;
    costs(Variant::Logging, "logging", &mut found)?;
    let release = kernel_release();
    for (program, cost) in &found {
        println!("budget: {}", Record::line(release, program, cost));
    }
    // Both starts at both hooks, as they filter, learn and answer test runs, three times.
    ensure!(found.len() >= 36, "only {} programs: {found:?}", found.len());
    if std::env::var_os(RECORDING).is_some() {
        println!("nothing is compared: {RECORDING} is set");
        return Ok(());
    }
    let record = Record::committed()?;
    let nearest = record.nearest(release).context("the record is empty")?;
    if nearest != release {
        println!("no record of this kernel {release:?}: compared with that of {nearest:?}");
    }
    let grown = record.grown(nearest, &found);
    ensure!(
        grown.is_empty(),
        "{}\nIf that is meant: `cargo xtask kernels --record`, and say why in the commit",
        grown.join("\n")
    );
    Ok(())
}

/// Every port of every protocol, a table with room for the most that can be configured, and twice as
/// many prefixes in it as there is room for by default.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_largest_configuration_is_taken() -> Result<()> {
    const PREFIXES: u32 = 65_536;
    let ports = Protocol::ALL
        .into_iter()
        .flat_map(|protocol| (1..=u16::MAX).map(move |port| (protocol, port)))
        .collect();
    let source4 = |number: u32| (0xc612_0000 + number).into();
    let source6 = |number: u32| (0x2001_0db8_u128 << 96 | u128::from(number) << 64).into();
    let allow: Vec<IpNet> = (0..PREFIXES)
        .map(|number| Ok(Ipv4Net::new(source4(number), 32)?.into()))
        .chain((0..PREFIXES).map(|number| Ok(Ipv6Net::new(source6(number), 64)?.into())))
        .collect::<Result<_>>()?;
    let policy = HostPolicy { ports, allow, ..HostPolicy::default() };
    for variant in [Variant::Usual, Variant::OneBuffer] {
        let mut loaded = Loaded::of(variant, MAX_CAPACITY)?;
        loaded.apply(&policy, Mode::Enforce)?;
        let twin = loaded.twin(Start::Network)?;
        for (number, expected) in
            [(0, Reason::Allowed), (PREFIXES - 1, Reason::Allowed), (PREFIXES, Reason::NotListed)]
        {
            for packet in [
                ipv4(source4(number), SERVER4).carries(&tcp(40_000, u16::MAX)),
                ipv6(source6(number), SERVER6).carries(&tcp(40_000, 1)),
            ] {
                assert_eq!(twin.run(&packet)?.reason, expected, "{variant:?}, source {number}");
            }
        }
    }
    Ok(())
}
