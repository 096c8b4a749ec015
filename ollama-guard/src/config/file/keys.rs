//! The keys of each table, and what to say about any other.

use toml::{Spanned, de::DeString};

use crate::{
    config::{document::Document, value},
    policy::clipped,
};

/// A key and where it stands.
pub(super) type Key<'a> = Spanned<DeString<'a>>;

/// The tables of the file that have fixed keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Top,
    Service,
    Entry,
    Events,
    Metrics,
    Inner,
    Control,
}

/// What is said by flag or environment only, because the commands that find the daemon or the
/// kernel's side by it do not read this file.
const NOT_IN_THE_FILE: &[(&str, &str)] = &[
    ("debug_kernel", "--debug-kernel"),
    ("pin_dir", "--pin-dir or OLLAMA_GUARD_PIN_DIR"),
    ("socket", "--socket or OLLAMA_GUARD_SOCKET"),
    ("state_dir", "--state-dir or OLLAMA_GUARD_STATE_DIR"),
];

impl Table {
    pub(super) const ALL: [Self; 7] = [
        Self::Top,
        Self::Service,
        Self::Entry,
        Self::Events,
        Self::Metrics,
        Self::Inner,
        Self::Control,
    ];

    pub(super) const fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Top => &[
                "mode",
                "interfaces",
                "exclude",
                "attach",
                "scope",
                "capacity",
                "confirm",
                "groups",
                "service",
                "events",
                "metrics",
                "inner",
                "control",
            ],
            Self::Service => &["name", "mode", "ports", "allow", "deny", "anyone"],
            Self::Entry => &["from", "on", "expires"],
            Self::Events => &["per_second", "keep"],
            Self::Metrics => &["listen"],
            Self::Inner => &["enable", "cgroup"],
            Self::Control => &["group_may_edit"],
        }
    }

    /// Where its keys are written.
    const fn place(self) -> &'static str {
        match self {
            Self::Top => "at the top of the file, before the first line in brackets",
            Self::Service => "under [[service]]",
            Self::Entry => "in an entry of a list, as in { from = \"office\", on = [\"eth1\"] }",
            Self::Events => "under [events]",
            Self::Metrics => "under [metrics]",
            Self::Inner => "under [inner]",
            Self::Control => "under [control]",
        }
    }
}

/// Reports a key that is none of the table's.
pub(super) fn refuse(document: &mut Document<'_>, table: Table, key: &Key<'_>) {
    document.wrong_structure(&key.span(), explain(table, key.get_ref()));
}

fn explain(table: Table, key: &str) -> String {
    let shown = clipped(key);
    if let Some((_, instead)) = NOT_IN_THE_FILE.iter().find(|(name, _)| *name == key) {
        return format!("`{shown}` is not said in this file: use {instead}");
    }
    if key == "include" {
        return format!("`{shown}` is misplaced: write it in a group, [groups.NAME]");
    }
    if let Some(meant) = value::nearest(key, table.keys().iter().copied()) {
        return format!("`{shown}` is not known: write `{meant}`");
    }
    if let Some(other) = Table::ALL.into_iter().find(|other| other.keys().contains(&key)) {
        return format!("`{shown}` is misplaced: write it {}", other.place());
    }
    let keys: Vec<String> = table.keys().iter().map(|key| format!("`{key}`")).collect();
    let place = if table == Table::Top { "here" } else { table.place() };
    format!("`{shown}` is not known {place}: write one of {}", keys.join(", "))
}
