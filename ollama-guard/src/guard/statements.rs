//! From what rules say in words to what the table says: several rules may come to the same there.

use std::collections::BTreeSet;

use crate::policy::{Layout, Prefix, Rule, Said, Statement};

/// What is said in these words.
pub(super) fn statements<'s>(
    layout: &Layout,
    said: impl IntoIterator<Item = Said<'s>>,
) -> BTreeSet<Statement> {
    said.into_iter().filter_map(|said| layout.of_said(said)).collect()
}

/// Leaves of these statements those that none of the rules says as well.
pub(super) fn not_said<'r>(
    layout: &Layout,
    mut asked: BTreeSet<Statement>,
    rules: impl Iterator<Item = &'r Rule>,
) -> Vec<Statement> {
    let prefixes: BTreeSet<Prefix> = asked.iter().map(|one| one.prefix).collect();
    // As a rule nobody asks, and the lists may be long.
    if !prefixes.is_empty() {
        for rule in rules.filter(|rule| prefixes.contains(&rule.prefix)) {
            if let Some(statement) = layout.statement(rule) {
                asked.remove(&statement);
            }
        }
    }
    asked.into_iter().collect()
}
