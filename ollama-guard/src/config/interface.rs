//! Which interfaces are to be guarded.

use crate::policy::Pattern;

/// Which interfaces are to be guarded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Interfaces {
    /// Every one that packets arrive on from outside, one for each path.
    #[default]
    Auto,
    /// Those that match one of these. Never empty, none twice.
    Named(Vec<Pattern>),
}

impl Interfaces {
    /// What a stronger source (`self`) makes of what a weaker one said.
    ///
    /// Names add up. Names go before a weaker "auto", and "auto" before weaker names.
    pub(super) fn over(self, weaker: Option<Self>) -> Self {
        match (self, weaker) {
            (Self::Named(mine), Some(Self::Named(theirs))) => Self::Named(union(theirs, mine)),
            (mine, _) => mine,
        }
    }
}

/// All of the first, then what is new in the second.
pub(super) fn union(mut first: Vec<Pattern>, second: Vec<Pattern>) -> Vec<Pattern> {
    for pattern in second {
        if !first.contains(&pattern) {
            first.push(pattern);
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    #[test]
    fn names_add_up_and_go_before_a_weaker_auto() {
        let named = |names: &[&str]| Interfaces::Named(names.iter().map(|n| pattern(n)).collect());
        let both = named(&["eth1", "wg*"]).over(Some(named(&["eth0", "eth1"])));
        assert_eq!(both, named(&["eth0", "eth1", "wg*"]));
        assert_eq!(named(&["eth0"]).over(Some(Interfaces::Auto)), named(&["eth0"]));
        assert_eq!(Interfaces::Auto.over(Some(named(&["eth0"]))), Interfaces::Auto);
    }
}
