//! What a person sees of rules.

use std::io::{self, Write};

use crate::{
    control::{
        Effect,
        protocol::{EditReply, RuleList, RuleView},
    },
    events::text::Printable,
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
    if list.rules.is_empty() {
        let meaning = match effect {
            Effect::Allow => "no allow rules: every guarded port is closed to everybody",
            Effect::Deny => "no deny rules",
        };
        return writeln!(err, "{meaning}");
    }
    // Where nothing is limited, there is nothing to say about that.
    let is_limited = list.rules.iter().any(|rule| rule.limits.is_some());
    let limits = |rule: &RuleView| match &rule.limits {
        Some(limits) => limits.to_string(),
        None => "everywhere".to_owned(),
    };
    let titles = ["PREFIX", "WHERE", "ORIGIN", "COMMENT"].map(str::to_owned);
    let row = |rule: &RuleView| {
        let comment = rule.comment.clone().unwrap_or_default();
        let cells = [rule.prefix.clone(), limits(rule), rule.origin.clone(), comment];
        cells.map(|text| Printable(&text).to_string())
    };
    let rows: Vec<[String; 4]> = [titles].into_iter().chain(list.rules.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; 4] = std::array::from_fn(|column| width(column).unwrap_or(0));
    for row in &rows {
        let cells = row.iter().zip(widths).enumerate();
        let cells = cells.filter(|(column, _)| is_limited || *column != 1);
        let line: Vec<String> = cells.map(|(_, (cell, width))| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", line.join("  ").trim_end())?;
    }
    Ok(())
}

pub(super) fn reply(effect: Effect, reply: &EditReply, out: &mut dyn Write) -> io::Result<()> {
    let EditReply { generation, added, removed, unchanged, kept, .. } = reply;
    for (word, prefixes) in [("added", added), ("removed", removed), ("unchanged", unchanged)] {
        if !prefixes.is_empty() {
            let rules = if prefixes.len() == 1 { "rule" } else { "rules" };
            let names = named(prefixes);
            writeln!(out, "{word} {} {effect} {rules}: {names}", prefixes.len())?;
        }
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
    if added.is_empty() && removed.is_empty() {
        writeln!(out, "nothing changed, generation {generation} is in force")
    } else {
        writeln!(out, "generation {generation} is in force")
    }
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

    fn rule(prefix: &str, comment: Option<&str>) -> RuleView {
        RuleView {
            prefix: prefix.to_owned(),
            effect: Effect::Allow,
            limits: None,
            comment: comment.map(str::to_owned),
            origin: "/etc/ollama-guard/config.toml line 12".to_owned(),
            removable: false,
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
            kept: vec![rule("198.51.100.0/24", None)],
            warnings: vec!["the allowlist is\nempty".to_owned()],
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
        let rules = RuleList { generation: 1, rules, terms: None };
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
    fn an_empty_list_says_what_that_means() {
        let none = RuleList { generation: 1, rules: Vec::new(), terms: None };
        let text = shown(|err| list(Effect::Allow, &none, false, &mut io::sink(), err));
        assert!(text.contains("closed to everybody"), "{text}");
    }
}
