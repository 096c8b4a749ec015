//! What a configuration changes about another one, in words.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
};

use super::{Config, Interfaces};
use crate::policy::{Effect, End, Limits, NameRule, Rule, Service};

/// Rules that are named one by one, of those that come and of those that go.
const MOST: usize = 50;

/// What changes, a line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// What a running daemon takes over.
    pub changes: Vec<String>,
    /// What it can't: that needs a restart.
    pub later: Vec<String>,
}

impl Difference {
    /// From the old to the new.
    #[must_use]
    pub fn between(old: &Config, new: &Config) -> Self {
        let mut found = Self::default();
        let changes = &mut found.changes;
        single(changes, "scope", old.scope.name(), new.scope.name());
        services(changes, &old.services, &new.services);
        rules(changes, [&old.rules, &new.rules], Rule::said);
        rules(changes, [&old.names, &new.names], NameRule::said);
        single(changes, "interfaces", interfaces(old), interfaces(new));
        list(changes, "excluded interface", &texts(&old.exclude), &texts(&new.exclude));
        single(changes, "attach", old.attach.name(), new.attach.name());
        let (before, after) = (old.events_per_second, new.events_per_second);
        single(changes, "events per second", before, after);
        single(changes, "events kept", old.events_keep, new.events_keep);
        let time = |config: &Config| match config.confirm {
            Some(time) => format!("{} s", time.as_secs()),
            None => "off".to_owned(),
        };
        single(changes, "confirm", time(old), time(new));
        let (before, after) = (old.control.group_may_edit, new.control.group_may_edit);
        single(changes, "group_may_edit", before, after);

        single(changes, "inner door", &old.inner, &new.inner);

        let (before, after) = (old.metrics, new.metrics);
        let is_followed = before.can_become(after);
        let lines = if is_followed { changes } else { &mut found.later };
        single(lines, "metrics", before, after);

        let later = &mut found.later;
        single(later, "capacity", old.capacity, new.capacity);
        single(later, "debug_kernel", old.debug_kernel, new.debug_kernel);
        let (before, after) = (&old.paths, &new.paths);
        single(later, "pin_dir", before.pin_dir.display(), after.pin_dir.display());
        single(later, "state_dir", before.state_dir.display(), after.state_dir.display());
        single(later, "socket", before.socket.display(), after.socket.display());
        found
    }

    /// Whether nothing changes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.later.is_empty()
    }
}

fn services(lines: &mut Vec<String>, old: &[Service], new: &[Service]) {
    if let ([old], [new]) = (old, new) {
        single(lines, "mode", old.mode.name(), new.mode.name());
        single(lines, "service", &old.name, &new.name);
        return list(lines, "port", &old.ports, &new.ports);
    }
    let named =
        |services: &[Service], name: &str| services.iter().find(|one| *one.name == *name).cloned();
    for service in new {
        let Service { name, mode, ports } = service;
        let Some(before) = named(old, name) else {
            let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
            let (mode, ports) = (mode.name(), ports.join(", "));
            lines.push(format!("+ service {name} ({ports}, {mode})"));
            continue;
        };
        single(lines, &format!("mode of {name}"), before.mode.name(), mode.name());
        list(lines, &format!("port of {name}:"), &before.ports, ports);
    }
    let gone = old.iter().filter(|service| named(new, &service.name).is_none());
    lines.extend(gone.map(|service| format!("- service {}", service.name)));
}

fn interfaces(config: &Config) -> String {
    match &config.interfaces {
        Interfaces::Auto => "auto".to_owned(),
        Interfaces::Named(patterns) => texts(patterns).into_iter().collect::<Vec<_>>().join(", "),
    }
}

fn texts<T: ToString>(items: &[T]) -> BTreeSet<String> {
    items.iter().map(ToString::to_string).collect()
}

fn single<T: Display>(lines: &mut Vec<String>, what: &str, old: T, new: T) {
    let (old, new) = (old.to_string(), new.to_string());
    if old != new {
        lines.push(format!("{what}: {old} -> {new}"));
    }
}

fn list<T: Ord + Display>(
    lines: &mut Vec<String>,
    what: &str,
    old: &BTreeSet<T>,
    new: &BTreeSet<T>,
) {
    lines.extend(new.difference(old).map(|one| format!("+ {what} {one}")));
    lines.extend(old.difference(new).map(|one| format!("- {what} {one}")));
}

/// A rule, or a rule about a name.
trait Entry {
    fn expires(&self) -> Option<End>;
    /// What it says, in words.
    fn what(&self) -> String;
    /// Where it stands.
    fn place(&self) -> String;
}

impl Entry for Rule {
    fn expires(&self) -> Option<End> {
        self.expires
    }

    fn what(&self) -> String {
        what(self.effect, &self.prefix, self.limits.as_deref())
    }

    fn place(&self) -> String {
        self.written()
    }
}

impl Entry for NameRule {
    fn expires(&self) -> Option<End> {
        self.expires
    }

    fn what(&self) -> String {
        what(self.effect, &self.name.written(), self.limits.as_deref())
    }

    fn place(&self) -> String {
        self.written()
    }
}

fn what(effect: Effect, whom: &dyn Display, limits: Option<&Limits>) -> String {
    let limits = limits.map_or_else(String::new, |limits| format!(" {limits}"));
    format!("{effect} {whom}{limits}")
}

/// What changes about rules, which are the same if they say the same.
fn rules<'r, R: Entry, S: Ord>(
    lines: &mut Vec<String>,
    [old, new]: [&'r [R]; 2],
    said: impl Fn(&'r R) -> S,
) {
    let by_word = |rules: &'r [R]| -> BTreeMap<S, &'r R> {
        rules.iter().map(|rule| (said(rule), rule)).collect()
    };
    let (before, after) = (by_word(old), by_word(new));
    let ends = after.iter().filter_map(|(said, is)| {
        let (before, after) = (before.get(said)?.expires(), is.expires());
        let text =
            |end: Option<End>| end.map_or_else(|| "no end".to_owned(), |end| end.to_string());
        (before != after).then(|| format!("{}: {} -> {}", is.what(), text(before), text(after)))
    });
    let mut ends: Vec<_> = ends.collect();
    let more = ends.len().saturating_sub(MOST);
    ends.truncate(MOST);
    lines.append(&mut ends);
    if more > 0 {
        lines.push(format!("{more} more rules with another end"));
    }
    for (sign, here, there) in [("+", &after, &before), ("-", &before, &after)] {
        let only = || here.iter().filter(|(said, _)| !there.contains_key(said));
        for (_, rule) in only().take(MOST) {
            lines.push(format!("{sign} {} ({})", rule.what(), rule.place()));
        }
        let count = only().count();
        if count > MOST {
            lines.push(format!("{sign} {} more rules", count - MOST));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, fs, os::unix::fs::PermissionsExt as _};

    use super::*;
    use crate::config::{Nowhere, Overrides, load};

    fn config(text: &str) -> Config {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let flags = Overrides { config: Some(path), ..Overrides::default() };
        load(&flags, &HashMap::<&str, String>::new(), &Nowhere).unwrap()
    }

    fn told(old: &str, new: &str) -> Difference {
        let mut found = Difference::between(&config(old), &config(new));
        for line in &mut found.changes {
            if let Some(at) = line.find(" (") {
                line.truncate(at);
            }
        }
        found
    }

    #[test]
    fn what_says_the_same_is_no_difference() {
        let one = "[[service]]\nallow = [\"192.0.2.1\", \"192.0.2.2\"]\ndeny = [\"2001:db8::/32\"]";
        let same = "# moved\n[groups]\nall = [\"192.0.2.2\", \"192.0.2.1\"]\n[[service]]\n\
                    ports = [\"11434/tcp\"]\ndeny = [\"2001:db8::/32\"]\nallow = [\"all\"]";
        assert!(told(one, same).is_empty());
    }

    #[test]
    fn every_setting_is_told() {
        let new = "mode = \"observe\"\nscope = \"local\"\ninterfaces = [\"eth0\", \"wg*\"]\n\
                   exclude = [\"eth1\"]\nattach = \"native\"\ncapacity = 7\nconfirm = \"2m\"\n\
                   [[service]]\nname = \"llm\"\nports = [\"8080\"]\nallow = [\"192.0.2.1\"]\n\
                   [events]\nper_second = 5\nkeep = \"1 MiB\"\n[control]\ngroup_may_edit = true\n\
                   [metrics]\nlisten = \"[::1]:9434\"\n";
        let changes = [
            "scope: all -> local",
            "mode: enforce -> observe",
            "service: ollama -> llm",
            "+ port 8080/tcp",
            "- port 11434/tcp",
            "+ allow 192.0.2.1",
            "- deny 192.0.2.9",
            "interfaces: auto -> eth0, wg*",
            "+ excluded interface eth1",
            "attach: auto -> native",
            "events per second: 1000 -> 5",
            "events kept: 16 MiB -> 1 MiB",
            "confirm: off -> 120 s",
            "group_may_edit: false -> true",
            "metrics: 127.0.0.1:9434 -> [::1]:9434",
        ];
        let found = told("[[service]]\ndeny = [\"192.0.2.9\"]", new);
        assert_eq!(found.changes, changes);
        assert_eq!(found.later, ["capacity: 65536 -> 7"]);
    }

    #[test]
    fn another_end_is_told() {
        let list = |entry: &str| format!("[[service]]\nallow = [{entry}]");
        let ends = |time| format!("{{ from = \"192.0.2.1\", expires = \"2036-01-01T{time}Z\" }}");
        let (early, late) = (list(&ends("12:00:00")), list(&ends("13:00:00")));
        let line = "allow 192.0.2.1: 2036-01-01T12:00:00Z -> 2036-01-01T13:00:00Z";
        assert_eq!(told(&early, &late).changes, [line]);
        let line = "allow 192.0.2.1: 2036-01-01T12:00:00Z -> no end";
        assert_eq!(told(&early, &list("\"192.0.2.1\"")).changes, [line]);
        assert!(told(&early, &early).is_empty());
    }

    #[test]
    fn names_are_told_like_prefixes_with_where_they_hold() {
        let list = |entries: &str| {
            format!(
                "[[service]]\nname = \"llm\"\nports = [\"8080\"]\nallow = [{entries}]\n\
                 [[service]]\nname = \"web\"\nports = [\"8081\"]"
            )
        };
        let old = list("\"home.example.org\", { from = \"lab.example.org\", on = [\"eth1\"] }");
        let new = list(
            "\"host:printer\", { from = \"home.example.org\", expires = \"2036-01-01T12:00:00Z\" }, \
             { from = \"lab.example.org\", on = [\"eth2\"] }",
        );
        assert_eq!(
            told(&old, &new).changes,
            [
                "allow home.example.org for llm: no end -> 2036-01-01T12:00:00Z",
                "+ allow lab.example.org for llm, on eth2",
                "+ allow host:printer for llm",
                "- allow lab.example.org for llm, on eth1",
            ]
        );
        assert!(told(&new, &new).is_empty());
    }

    #[test]
    fn another_port_for_metrics_takes_a_restart_and_none_at_all_does_not() {
        let at = |listen: &str| format!("[metrics]\nlisten = \"{listen}\"");
        let off = told("", &at("off"));
        assert_eq!(off.changes, ["metrics: 127.0.0.1:9434 -> off"]);
        for (old, new) in [("", "127.0.0.1:9435"), ("off", "127.0.0.1:9434")] {
            let old = if old.is_empty() { String::new() } else { at(old) };
            let found = told(&old, &at(new));
            assert_eq!((found.changes.len(), found.later.len()), (0, 1), "{found:?}");
        }
    }

    #[test]
    fn of_very_many_rules_there_is_the_number() {
        let many: Vec<_> = (0..80).map(|last| format!("\"10.0.0.{last}\"")).collect();
        let found = told("", &format!("[[service]]\nallow = [{}]", many.join(", ")));
        assert_eq!(found.changes.len(), MOST + 1);
        assert_eq!(found.changes[MOST], "+ 30 more rules");
    }
}
