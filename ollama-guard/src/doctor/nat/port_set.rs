//! Sets of ports, as ranges.

use std::fmt;

use serde::{Serialize, Serializer};

/// A set of ports. The ranges are in order and apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSet(Vec<(u16, u16)>);

impl PortSet {
    /// Every port.
    #[must_use]
    pub fn all() -> Self {
        Self(vec![(0, u16::MAX)])
    }

    /// One port.
    #[must_use]
    pub fn one(port: u16) -> Self {
        Self(vec![(port, port)])
    }

    /// Those of some ranges, ends included, in any order.
    #[must_use]
    pub fn of(ranges: impl IntoIterator<Item = (u16, u16)>) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().filter(|(first, last)| first <= last).collect();
        ranges.sort_unstable();
        let mut joined: Vec<(u16, u16)> = Vec::new();
        for (first, last) in ranges {
            match joined.last_mut() {
                Some(before) if u32::from(first) <= u32::from(before.1) + 1 => {
                    before.1 = before.1.max(last);
                }
                _ => joined.push((first, last)),
            }
        }
        Self(joined)
    }

    /// Those that are in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::of(self.0.iter().chain(&other.0).copied())
    }

    /// Those that are in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let pairs = self.0.iter().flat_map(|one| other.0.iter().map(move |two| (one, two)));
        Self::of(pairs.map(|(one, two)| (one.0.max(two.0), one.1.min(two.1))))
    }

    /// Those that are not in it.
    #[must_use]
    pub fn complement(&self) -> Self {
        let mut next = 0_u32;
        let mut ranges = Vec::new();
        for &(first, last) in &self.0 {
            if next < u32::from(first) {
                ranges.push((next as u16, first - 1));
            }
            next = u32::from(last) + 1;
        }
        if let Ok(first) = u16::try_from(next) {
            ranges.push((first, u16::MAX));
        }
        Self(ranges)
    }

    /// All but one port.
    #[must_use]
    pub fn without(&self, port: u16) -> Self {
        self.intersection(&Self::one(port).complement())
    }

    /// Whether a port is in it.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&port))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The port, if there is exactly one.
    #[must_use]
    pub fn single(&self) -> Option<u16> {
        match self.0[..] {
            [(first, last)] if first == last => Some(first),
            _ => None,
        }
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for PortSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sets() -> impl Strategy<Value = PortSet> {
        let ends = prop_oneof![Just(0), Just(u16::MAX), 0..20_u16, any::<u16>()];
        proptest::collection::vec((ends.clone(), ends), 0..5).prop_map(PortSet::of)
    }

    proptest! {
        #[test]
        fn sets_are_what_they_contain(a in sets(), b in sets(), port in prop_oneof![0..25_u16, any::<u16>()]) {
            prop_assert_eq!(a.union(&b).contains(port), a.contains(port) || b.contains(port));
            prop_assert_eq!(a.intersection(&b).contains(port), a.contains(port) && b.contains(port));
            prop_assert_eq!(a.complement().contains(port), !a.contains(port));
            prop_assert!(!a.without(port).contains(port));
            prop_assert_eq!(a.complement().complement(), a.clone());
            prop_assert_eq!(a.single().is_some_and(|one| a == PortSet::one(one)), a.single().is_some());
        }
    }

    #[test]
    fn ranges_are_joined_and_shown() {
        assert_eq!(PortSet::of([(5, 9), (1, 1), (2, 4), (20, 20)]).to_string(), "1-9, 20");
        assert_eq!(PortSet::one(22).complement().to_string(), "0-21, 23-65535");
        assert!(PortSet::all().complement().is_empty());
    }
}
