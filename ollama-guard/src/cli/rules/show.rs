//! What a person sees of rules.

use std::io::{self, Write};

use jiff::Timestamp;

use crate::{
    control::{
        Effect,
        protocol::{EditReply, RuleList},
    },
    events::text::Printable,
    policy::{End, Limits, span},
};

/// Prefixes or rules that are named; of more only the number is told.
const NAMED: usize = 20;

pub(super) fn list(
    effect: Effect,
    list: &RuleList,
    json: bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<()> {
    if json {
        serde_json::to_writer_pretty(&mut *out, list)?;
        return writeln!(out);
    }
    if list.rules.is_empty() && list.names.is_empty() {
        let meaning = match effect {
            Effect::Allow => "no allow rules: every guarded port is closed to everybody",
            Effect::Deny => "no deny rules",
        };
        return writeln!(err, "{meaning}");
    }
    // Most rules have no limits and no end, and then there is no column for these.
    let is_limited = list.rules.iter().any(|rule| rule.limits.is_some());
    let has_ends = list.rules.iter().any(|rule| rule.expires.is_some());
    let mut columns = vec!["PREFIX"];
    columns.extend(is_limited.then_some("WHERE"));
    columns.extend(has_ends.then_some("ENDS"));
    columns.extend(["ORIGIN", "COMMENT"]);
    let now = Timestamp::now();
    let mut rows = vec![columns.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    rows.extend(list.rules.iter().map(|rule| {
        let mut row = vec![Printable(&rule.prefix).to_string()];
        row.extend(is_limited.then(|| place(rule.limits.as_ref())));
        row.extend(has_ends.then(|| rule.expires.map_or_else(String::new, |end| ends(end, now))));
        row.push(Printable(&rule.origin).to_string());
        row.push(Printable(rule.comment.as_deref().unwrap_or_default()).to_string());
        row
    }));
    if rows.len() > 1 {
        table(&rows, out)?;
    }
    names(list, now, rows.len() > 1, out)
}

/// The names, and what is known about each.
fn names(list: &RuleList, now: Timestamp, is_below: bool, out: &mut dyn Write) -> io::Result<()> {
    if list.names.is_empty() {
        return Ok(());
    }
    if is_below {
        writeln!(out)?;
    }
    let is_limited = list.names.iter().any(|name| name.limits.is_some());
    let mut columns = vec!["NAME"];
    columns.extend(is_limited.then_some("WHERE"));
    columns.extend(["ORIGIN", "ADDRESSES"]);
    let mut rows = vec![columns.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for name in &list.names {
        let mut standing = name.standing();
        if let Some(next) = name.next {
            let rest = next.as_second() - now.as_second();
            standing.push_str(&format!("; looked up again in {}", span(rest)));
        }
        if let Some(end) = name.expires {
            standing.push_str(&format!("; ends {}", ends(end, now)));
        }
        if let Some(comment) = &name.comment {
            standing.push_str(&format!("  # {comment}"));
        }
        let mut row = vec![Printable(&name.name).to_string()];
        row.extend(is_limited.then(|| place(name.limits.as_ref())));
        row.extend([&name.origin, &standing].map(|cell| Printable(cell).to_string()));
        rows.push(row);
    }
    table(&rows, out)
}

/// Where a rule holds.
fn place(limits: Option<&Limits>) -> String {
    match limits {
        Some(limits) => Printable(&limits.to_string()).to_string(),
        None => "everywhere".to_owned(),
    }
}

/// When something ends, and how long that is from now.
fn ends(end: End, now: Timestamp) -> String {
    format!("{end} (in {})", span(end.seconds_from(now)))
}

fn table(rows: &[Vec<String>], out: &mut dyn Write) -> io::Result<()> {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

/// What a change would come to.
pub(super) fn preview(effect: Effect, reply: &EditReply, out: &mut dyn Write) -> io::Result<()> {
    changes(effect, reply, out)?;
    writeln!(out, "a dry run: nothing has changed, generation {} is in force", reply.generation)
}

pub(super) fn reply(effect: Effect, reply: &EditReply, out: &mut dyn Write) -> io::Result<()> {
    changes(effect, reply, out)?;
    let EditReply { generation, added, removed, changed, .. } = reply;
    if let Some(until) = reply.trial_until {
        let left = span(until.as_second() - Timestamp::now().as_second());
        writeln!(
            out,
            "generation {generation} is in force ON TRIAL: in {left} what was before comes back, unless \
             you say `ollama-guard confirm`"
        )?;
        return Ok(());
    }
    let decides_the_same = added.is_empty() && removed.is_empty();
    match (decides_the_same, changed.is_empty()) {
        (true, true) => writeln!(out, "nothing changed, generation {generation} is in force"),
        (true, false) => writeln!(out, "generation {generation} is in force, as before"),
        (false, _) => writeln!(out, "generation {generation} is in force"),
    }
}

fn changes(effect: Effect, reply: &EditReply, out: &mut dyn Write) -> io::Result<()> {
    let EditReply { added, removed, unchanged, changed, kept, .. } = reply;
    for (word, prefixes) in [("added", added), ("removed", removed), ("unchanged", unchanged)] {
        if !prefixes.is_empty() {
            let rules = if prefixes.len() == 1 { "rule" } else { "rules" };
            let names = named(prefixes);
            writeln!(out, "{word} {} {effect} {rules}: {names}", prefixes.len())?;
        }
    }
    for sentence in changed.iter().take(NAMED) {
        writeln!(out, "{}", Printable(sentence))?;
    }
    if changed.len() > NAMED {
        writeln!(out, "and {} more like these", changed.len() - NAMED)?;
    }
    if !kept.is_empty() {
        writeln!(out, "from the configuration, and therefore still in force:")?;
        for rule in kept.iter().take(NAMED) {
            writeln!(out, "  {} ({})", Printable(&rule.prefix), Printable(&rule.origin))?;
        }
        if kept.len() > NAMED {
            writeln!(out, "  and {} more", kept.len() - NAMED)?;
        }
    }
    Ok(())
}

pub(super) fn warnings(reply: &EditReply, err: &mut dyn Write) -> io::Result<()> {
    reply.warnings.iter().try_for_each(|warning| writeln!(err, "warning: {}", Printable(warning)))
}

fn named(prefixes: &[String]) -> String {
    let names: Vec<_> =
        prefixes.iter().take(NAMED).map(|prefix| Printable(prefix).to_string()).collect();
    let more = match prefixes.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    names.join(", ") + &more
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::{NameView, RuleView};

    fn rule(prefix: &str, comment: Option<&str>) -> RuleView {
        RuleView {
            prefix: prefix.to_owned(),
            effect: Effect::Allow,
            limits: None,
            comment: comment.map(str::to_owned),
            origin: "/etc/ollama-guard/config.toml line 12".to_owned(),
            removable: false,
            expires: None,
        }
    }

    fn shown(show: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        show(&mut out).expect("written");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_change_is_told_in_a_few_lines() {
        let names = |count: usize| (0..count).map(|n| format!("192.0.2.{n}")).collect();
        let done = EditReply {
            generation: 9,
            added: names(1),
            removed: names(2),
            unchanged: names(22),
            changed: Vec::new(),
            kept: vec![rule("198.51.100.0/24", None)],
            warnings: vec!["the allowlist is\nempty".to_owned()],
            closes: false,
            trial_until: None,
        };
        let text = shown(|out| reply(Effect::Allow, &done, out));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "added 1 allow rule: 192.0.2.0");
        assert_eq!(lines[1], "removed 2 allow rules: 192.0.2.0, 192.0.2.1");
        assert!(lines[2].ends_with("192.0.2.19 and 2 more"), "{}", lines[2]);
        assert_eq!(lines[3], "from the configuration, and therefore still in force:");
        assert_eq!(lines[4], "  198.51.100.0/24 (/etc/ollama-guard/config.toml line 12)");
        assert_eq!(lines[5..], ["generation 9 is in force"]);
        let text = shown(|err| warnings(&done, err));
        assert_eq!(text, "warning: the allowlist is\\nempty\n");

        let nothing = EditReply { generation: 9, unchanged: names(1), ..EditReply::default() };
        let text = shown(|out| reply(Effect::Deny, &nothing, out));
        assert_eq!(
            text,
            "unchanged 1 deny rule: 192.0.2.0\nnothing changed, generation 9 is in force\n"
        );
    }

    #[test]
    fn a_list_has_columns_and_stays_on_its_lines() {
        let rules = vec![rule("192.0.2.0/24", Some("a\x1b[2J\nb")), rule("2001:db8:7::/48", None)];
        let rules = RuleList { generation: 1, rules, names: Vec::new(), terms: None };
        let text = shown(|out| list(Effect::Allow, &rules, false, out, &mut io::sink()));
        let expected = "\
            PREFIX           ORIGIN                                 COMMENT\n\
            192.0.2.0/24     /etc/ollama-guard/config.toml line 12  a\\u{1b}[2J\\nb\n\
            2001:db8:7::/48  /etc/ollama-guard/config.toml line 12\n";
        assert_eq!(text, expected);
        let json = shown(|out| list(Effect::Allow, &rules, true, out, &mut io::sink()));
        assert_eq!(serde_json::from_str::<RuleList>(&json).expect("json"), rules);
    }

    #[test]
    fn ends_have_a_column_where_there_are_any() {
        let end = End::after(Timestamp::now(), std::time::Duration::from_secs(7000)).unwrap();
        let rules = vec![RuleView { expires: Some(end), ..rule("192.0.2.0/24", None) }];
        let rules = [rules, vec![rule("192.0.2.9", Some("for ever"))]].concat();
        let rules = RuleList { generation: 1, rules, names: Vec::new(), terms: None };
        let text = shown(|out| list(Effect::Allow, &rules, false, out, &mut io::sink()));
        let lines: Vec<_> = text.lines().collect();
        assert!(
            lines[0].starts_with("PREFIX        ENDS                              ORIGIN"),
            "{text}"
        );
        assert!(lines[1].contains(&format!("  {end} (in 1h 56m)  /etc")), "{text}");
        assert!(lines[2].ends_with("line 12  for ever"), "{text}");
    }

    #[test]
    fn names_are_below_with_where_they_hold_if_any_is_limited() {
        let name = |name: &str, limits: Option<Limits>| NameView {
            name: name.to_owned(),
            effect: Effect::Allow,
            limits,
            comment: Some("bob".to_owned()),
            origin: "added by root".to_owned(),
            removable: true,
            expires: None,
            addresses: vec!["192.0.2.7".parse().unwrap()],
            resolved: Some("2026-12-01T18:00:00Z".parse().unwrap()),
            next: None,
            error: None,
        };
        let limits = Limits { service: Some("webui".into()), on: vec!["eth1".parse().unwrap()] };
        let everywhere = name("home.example.org", None);
        let told = |names: Vec<NameView>| {
            let rules = vec![rule("192.0.2.7", None)];
            let rules = RuleList { generation: 1, rules, names, terms: None };
            shown(|out| list(Effect::Allow, &rules, false, out, &mut io::sink()))
        };
        let text = told(vec![everywhere.clone(), name("home.example.org", Some(limits))]);
        let below: Vec<_> = text.lines().skip(2).collect();
        let standing = "added by root  192.0.2.7, as of 2026-12-01T18:00:00Z  # bob";
        assert_eq!(
            below,
            [
                "",
                "NAME              WHERE               ORIGIN         ADDRESSES",
                &format!("home.example.org  everywhere          {standing}"),
                &format!("home.example.org  for webui, on eth1  {standing}"),
            ]
        );
        assert!(told(vec![everywhere]).contains("\nNAME              ORIGIN "));
    }

    #[test]
    fn another_end_is_told() {
        let done = EditReply {
            generation: 9,
            changed: vec!["192.0.2.1 has no end any more".to_owned()],
            ..EditReply::default()
        };
        let text = shown(|out| reply(Effect::Allow, &done, out));
        assert_eq!(text, "192.0.2.1 has no end any more\ngeneration 9 is in force, as before\n");
    }

    #[test]
    fn an_empty_list_says_what_that_means() {
        let none = RuleList { generation: 1, rules: Vec::new(), names: Vec::new(), terms: None };
        let text = shown(|err| list(Effect::Allow, &none, false, &mut io::sink(), err));
        assert!(text.contains("closed to everybody"), "{text}");
    }
}
