//! Which rule is behind an answer.

use std::net::IpAddr;

use super::{Effect, Rule};

/// The rule that decides about a source, for a person who asks why. `None`: no rule covers it, so
/// it is dropped.
///
/// A covering deny rule, or else a covering allow rule; of several the most specific, and of equal
/// ones the first. `holds` says whether a rule holds where the source knocks.
#[must_use]
pub fn deciding_rule(
    rules: &[Rule],
    source: IpAddr,
    holds: impl Fn(&Rule) -> bool,
) -> Option<&Rule> {
    rules
        .iter()
        .filter(|rule| rule.prefix.contains(source) && holds(rule))
        // Of equal ones `max_by_key` takes the last.
        .rev()
        .max_by_key(|rule| (rule.effect == Effect::Deny, rule.prefix.length()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Origin;

    fn rules(texts: &[(Effect, &str)]) -> Vec<Rule> {
        let rule = |&(effect, text): &(Effect, &str)| Rule {
            prefix: text.parse().unwrap(),
            effect,
            limits: None,
            comment: None,
            origin: Origin::Flag.into(),
            expires: None,
        };
        texts.iter().map(rule).collect()
    }

    #[test]
    fn a_deny_rule_decides_even_over_a_more_specific_allow_rule() {
        use Effect::{Allow, Deny};
        let rules = rules(&[
            (Allow, "10.0.0.0/8"),
            (Allow, "10.1.0.0/16"),
            (Deny, "10.1.2.0/24"),
            (Allow, "10.1.2.3"),
        ]);
        let decides = |source: &str| {
            deciding_rule(&rules, source.parse().unwrap(), |_| true).map(|r| r.prefix.to_string())
        };
        assert_eq!(decides("10.2.0.1").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(decides("10.1.0.1").as_deref(), Some("10.1.0.0/16"));
        assert_eq!(decides("10.1.2.3").as_deref(), Some("10.1.2.0/24"));
        assert_eq!(decides("192.0.2.1"), None);
        assert_eq!(decides("::ffff:10.2.0.1"), None, "the families never mix");
    }

    #[test]
    fn of_equal_rules_the_first_decides() {
        let mut rules = rules(&[(Effect::Allow, "10.0.0.0/8"), (Effect::Allow, "10.0.0.0/8")]);
        rules[0].comment = Some("the first".into());
        let rule = deciding_rule(&rules, "10.0.0.1".parse().unwrap(), |_| true).unwrap();
        assert_eq!(rule.comment.as_deref(), Some("the first"));
    }
}
