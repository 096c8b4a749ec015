//! The rules in the kernel's own LPM tries, as the guard once had them: what its tables are compared
//! with.
//!
//! A trie of the kernel answers by longest match, and the meaning of the rules is another: a deny rule
//! wins over any allow rule. So each prefix of any rule is one entry that knows what all the rules
//! around it say together.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::Result;
use aya::maps::{LpmTrie, MapData, lpm_trie::Key};
use ipnet::IpNet;
use ollama_guard_common::Standing;

use crate::policy::HostPolicy;

/// `BPF_F_NO_PREALLOC`, without which the kernel makes no LPM trie.
const NO_PREALLOC: u32 = 1;

const ALLOWED: u32 = 1;
const DENIED: u32 = 2;

/// The rules of both families.
pub struct Lpm {
    v4: LpmTrie<MapData, [u8; 4], u32>,
    v6: LpmTrie<MapData, [u8; 16], u32>,
}

impl Lpm {
    /// Makes and fills the tries.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn of(policy: &HostPolicy) -> Result<Self> {
        let entries = entries(policy);
        let room = entries.len().max(1) as u32;
        let mut lpm = Self {
            v4: LpmTrie::create(room, NO_PREALLOC)?,
            v6: LpmTrie::create(room, NO_PREALLOC)?,
        };
        for (net, standing) in entries {
            let length = u32::from(net.prefix_len());
            match net.addr() {
                IpAddr::V4(address) => {
                    lpm.v4.insert(&Key::new(length, address.octets()), standing, 0)?;
                }
                IpAddr::V6(address) => {
                    lpm.v6.insert(&Key::new(length, address.octets()), standing, 0)?;
                }
            }
        }
        Ok(lpm)
    }

    /// What the rules say about a source.
    #[must_use]
    pub fn standing(&self, source: IpAddr) -> Standing {
        let found = match source {
            IpAddr::V4(address) => self.v4.get(&Key::new(32, address.octets()), 0),
            IpAddr::V6(address) => self.v6.get(&Key::new(128, address.octets()), 0),
        };
        match found {
            Ok(ALLOWED) => Standing::Allowed,
            Ok(DENIED) => Standing::Denied,
            _ => Standing::NotListed,
        }
    }
}

/// What all the rules say about each prefix that one of them is about.
fn entries(policy: &HostPolicy) -> Vec<(IpNet, u32)> {
    // A network stands before everything within it.
    let mut denied: BTreeMap<IpNet, bool> = BTreeMap::new();
    for net in &policy.allow {
        denied.entry(net.trunc()).or_insert(false);
    }
    for net in &policy.deny {
        denied.insert(net.trunc(), true);
    }
    let mut around: Vec<(IpNet, bool)> = Vec::new();
    let mut entries = Vec::with_capacity(denied.len());
    for (net, is_denied) in denied {
        while around.last().is_some_and(|(outer, _)| !outer.contains(&net)) {
            around.pop();
        }
        let is_denied = is_denied || around.last().is_some_and(|&(_, denied)| denied);
        around.push((net, is_denied));
        entries.push((net, if is_denied { DENIED } else { ALLOWED }));
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deny_rule_reaches_everything_within_it() {
        let policy = HostPolicy::new(&[], &["10.1.2.3/32", "10.0.0.0/8"], &["10.1.0.0/16"]);
        let texts: Vec<String> =
            entries(&policy).iter().map(|(net, standing)| format!("{net} {standing}")).collect();
        assert_eq!(texts, ["10.0.0.0/8 1", "10.1.0.0/16 2", "10.1.2.3/32 2"]);
    }
}
