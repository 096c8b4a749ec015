//! This host's own addresses, as the program knows them for [`Scope::Local`].
//!
//! An address that is missing is an open port until it is there, so addresses come at once and go
//! late: one that is taken from an interface and put back a moment later never was away.
//!
//! [`Scope::Local`]: ollama_guard_common::Scope::Local

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use ollama_guard_common::abi::{MAX_ADDRESSES, maps as names};

use super::{DataplaneError, PinDir, Result, maps::Maps};

/// How long an address stays that is no interface's any more, if there is room.
const LINGER: Duration = Duration::from_secs(600);

/// The addresses that the program knows, IPv4 and IPv6.
///
/// # Errors
///
/// If nothing is loaded, or a pin is missing or is not what it should be.
pub fn read(pins: &PinDir) -> Result<BTreeSet<IpAddr>> {
    pins.require_current()?;
    let maps = Maps::open(&pins.current())?;
    Ok(keys(&maps)?.into_iter().map(|key| IpAddr::from(key).to_canonical()).collect())
}

/// What is remembered of addresses between two updates.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// Since when each is no interface's any more.
    gone: BTreeMap<[u8; 16], Instant>,
}

impl Addresses {
    /// Makes all of these known. `false`, and nothing is changed, if there are too many.
    pub(super) fn update(&mut self, maps: &mut Maps, own: &BTreeSet<IpAddr>) -> Result<bool> {
        let wanted: BTreeSet<[u8; 16]> = own.iter().map(key).collect();
        if wanted.len() > MAX_ADDRESSES as usize {
            return Ok(false);
        }
        let known = keys(maps)?;
        let missing: Vec<&[u8; 16]> = wanted.difference(&known).collect();
        self.note_gone(known.difference(&wanted).copied());
        let excess = (known.len() + missing.len()).saturating_sub(MAX_ADDRESSES as usize);
        for key in self.to_remove(excess) {
            maps.addresses.remove(&key).map_err(trouble("remove from"))?;
            self.gone.remove(&key);
        }
        for key in missing {
            maps.addresses.insert(key, 1, 0).map_err(trouble("write"))?;
        }
        Ok(true)
    }

    fn note_gone(&mut self, gone: impl Iterator<Item = [u8; 16]>) {
        let now = Instant::now();
        let before = std::mem::take(&mut self.gone);
        self.gone = gone.map(|key| (key, before.get(&key).copied().unwrap_or(now))).collect();
    }

    /// Those that have been gone long enough, and as many more of the longest gone as there must be
    /// room for.
    fn to_remove(&self, excess: usize) -> Vec<[u8; 16]> {
        let mut gone: Vec<(Instant, [u8; 16])> =
            self.gone.iter().map(|(&key, &since)| (since, key)).collect();
        gone.sort_unstable();
        let late = gone.partition_point(|(since, _)| since.elapsed() > LINGER);
        gone.into_iter().take(late.max(excess)).map(|(_, key)| key).collect()
    }
}

fn keys(maps: &Maps) -> Result<BTreeSet<[u8; 16]>> {
    maps.addresses.keys().collect::<Result<_, _>>().map_err(trouble("read"))
}

const fn key(address: &IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn trouble(action: &'static str) -> impl FnOnce(aya::maps::MapError) -> DataplaneError {
    DataplaneError::map(action, names::ADDRESSES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gone_make_room_and_the_others_stay() {
        let now = Instant::now();
        let at = |seconds| now - Duration::from_secs(seconds);
        let gone = BTreeMap::from([([1; 16], at(5)), ([2; 16], at(9)), ([3; 16], at(1))]);
        let addresses = Addresses { gone };
        assert!(addresses.to_remove(0).is_empty(), "nothing is gone for long");
        assert_eq!(addresses.to_remove(2), [[2; 16], [1; 16]]);
    }
}
