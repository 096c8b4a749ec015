//! The tables of the guard against the kernel's own LPM tries: the same answer for every source, at
//! every size, through the loaded program.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};
use ipnet::IpNet;
use ollama_guard_common::{Mode, Protocol, Reason, Source, Standing, Start};
use ollama_guard_tests::{
    loaded::{Loaded, Variant},
    lpm::Lpm,
    oracle::fresh_seed,
    packet::{ipv4, ipv6, tcp},
    policy::{GUARDED, HostPolicy, SERVER4, SERVER6},
};
use proptest::prelude::Rng as _;
use proptest::test_runner::{RngAlgorithm, TestRng};

/// Probes in all.
const PROBES: usize = 1_000_000;
/// Rules of each family. The tables of a million are compared by their ranges, in the room
/// `policy::trie`.
const SIZES: [usize; 5] = [1, 30, 1_000, 30_000, 100_000];

/// An address near others: a few bits away from one of a few places.
fn address(rng: &mut TestRng, is_v6: bool) -> IpAddr {
    const PLACES4: [u32; 4] = [0x0a00_0000, 0xc000_0200, 0xcb00_7100, 0x6440_0000];
    const PLACES6: [u128; 3] = [0x2001_0db8 << 96, 0xfd00 << 112, 0x2a01_04f8_0001 << 80];
    let place = rng.next_u32() as usize;
    // So many bits from the right are by chance: crowds and loners.
    let bits = rng.next_u32() % 33;
    let random = u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64());
    if is_v6 {
        let mask = u128::MAX.checked_shr(128 - bits * 3).unwrap_or(0);
        IpAddr::V6(Ipv6Addr::from(PLACES6[place % PLACES6.len()] ^ random & mask))
    } else {
        let mask = u32::MAX.checked_shr(32 - bits).unwrap_or(0);
        IpAddr::V4(Ipv4Addr::from(PLACES4[place % PLACES4.len()] ^ random as u32 & mask))
    }
}

/// A prefix that a rule can be about.
fn prefix(rng: &mut TestRng, is_v6: bool) -> IpNet {
    loop {
        let longest = if is_v6 { 128 } else { 32 };
        // Most are long.
        let length =
            longest - (rng.next_u32() % longest).min(rng.next_u32() % longest) as u8 as u32;
        let net = IpNet::new(address(rng, is_v6), length as u8).map(|net| net.trunc());
        if let Ok(net) = net
            && net.to_string().parse::<ollama_guard::policy::Prefix>().is_ok()
        {
            return net;
        }
    }
}

fn policy(rng: &mut TestRng, size: usize) -> HostPolicy {
    let mut policy = HostPolicy { ports: vec![(Protocol::Tcp, GUARDED)], ..HostPolicy::default() };
    for number in 0..size * 2 {
        let net = prefix(rng, number % 2 == 1);
        if rng.next_u32().is_multiple_of(5) {
            policy.deny.push(net)
        } else {
            policy.allow.push(net)
        }
    }
    policy
}

/// A source: the first or the last address of a rule, one beside it, or any.
fn source(rng: &mut TestRng, policy: &HostPolicy) -> IpAddr {
    let rules = policy.allow.len() + policy.deny.len();
    let number = rng.next_u32() as usize % rules;
    let net = policy.allow.get(number).unwrap_or_else(|| &policy.deny[number - policy.allow.len()]);
    let is_v6 = net.addr().is_ipv6();
    let step = |address: IpAddr, by: i8| match address {
        IpAddr::V4(address) => {
            IpAddr::V4(Ipv4Addr::from(u32::from(address).wrapping_add_signed(by.into())))
        }
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from(u128::from(address).wrapping_add_signed(by.into())))
        }
    };
    match rng.next_u32() % 6 {
        0 => net.network(),
        1 => net.broadcast(),
        2 => step(net.network(), -1),
        3 => step(net.broadcast(), 1),
        _ => address(rng, is_v6),
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_million_sources_are_answered_as_by_the_kernels_lpm_tries() -> Result<()> {
    let seed = fresh_seed();
    println!("seed {seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut loaded = Loaded::of(Variant::Usual, 400_000)?;
    let mut seen = [0_usize; 3];
    for size in SIZES {
        let policy = policy(&mut rng, size);
        let lpm = Lpm::of(&policy)?;
        loaded.apply(&policy, Mode::Enforce)?;
        let twin = loaded.twin(Start::Network)?;
        let mut probes = 0;
        while probes < PROBES / SIZES.len() {
            let address = source(&mut rng, &policy);
            let (source, packet) = match address {
                IpAddr::V4(address) => (
                    Source::V4(address.octets()),
                    ipv4(address, SERVER4).carries(&tcp(40_000, GUARDED)),
                ),
                IpAddr::V6(address) => (
                    Source::V6(address.octets()),
                    ipv6(address, SERVER6).carries(&tcp(40_000, GUARDED)),
                ),
            };
            // Dropped whatever the rules say.
            if source.forbidden().is_some() {
                continue;
            }
            let (expected, place) = match lpm.standing(address) {
                Standing::Allowed => (Reason::Allowed, 0),
                Standing::Denied => (Reason::Denied, 1),
                Standing::NotListed | Standing::RulesAbsent => (Reason::NotListed, 2),
            };
            let found = twin.run(&packet)?.reason;
            ensure!(
                found == expected,
                "seed {seed}, {size} rules: {address} is {found:?} and not {expected:?}"
            );
            seen[place] += 1;
            probes += 1;
        }
    }
    println!("allowed, denied, not listed: {seen:?}");
    ensure!(seen.iter().all(|count| *count > PROBES / 20), "the probes must reach all: {seen:?}");
    Ok(())
}
