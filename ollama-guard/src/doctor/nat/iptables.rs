//! What `iptables-save` and `ip6tables-save` print.

use ollama_guard_common::Protocol;

use super::{
    PortSet,
    ruleset::{Action, Rule, Ruleset},
};

/// Reads a listing. `program` is a name for people, and keeps chains of several listings apart.
pub(super) fn parse(program: &str, text: &str) -> Ruleset {
    let mut ruleset = Ruleset::default();
    let mut table = "";
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name.trim();
        } else if let Some(rule) = line.strip_prefix("-A ") {
            ruleset.rules.extend(parse_rule(program, table, rule));
        }
    }
    for table in ["nat", "mangle", "raw"] {
        ruleset.entrances.insert(chain(program, table, "PREROUTING"));
    }
    ruleset
}

fn chain(program: &str, table: &str, name: &str) -> String {
    format!("{program} {table} {name}")
}

/// `None` if the rule neither translates nor jumps, or is not for packets from outside.
fn parse_rule(program: &str, table: &str, text: &str) -> Option<Rule> {
    let words = split(text);
    let name = words.first()?;
    let mut ports = PortSet::all();
    let mut protocol = None;
    let (mut target, mut to, mut out) = (None, None, None);
    let mut is_negated = false;
    let mut at = 1;
    while let Some(word) = words.get(at) {
        let value = words.get(at + 1).map_or("", String::as_str);
        match word.as_str() {
            "!" => {
                is_negated = true;
                at += 1;
                continue;
            }
            "-p" if !is_negated => protocol = Some(named_protocol(value)?),
            "--dport" | "--dports" => {
                let matching = port_list(value).unwrap_or_else(PortSet::all);
                let matching = if is_negated { matching.complement() } else { matching };
                ports = ports.intersection(&matching);
            }
            "-i" if value == "lo" && !is_negated => return None,
            "-d" if value.starts_with("127.") && !is_negated => return None,
            "-o" if !is_negated => out = Some(value.to_owned()),
            "-j" | "-g" => target = Some(value.to_owned()),
            "--to-destination" | "--to-source" | "--to-ports" | "--on-port" => {
                to = Some(value.to_owned());
            }
            _ => {
                is_negated = false;
                at += 1;
                continue;
            }
        }
        is_negated = false;
        at += 2;
    }
    let (address, to_ports) = to.as_deref().map_or((None, None), destination);
    let action = match target?.as_str() {
        "DNAT" => Action::Translate { to: address, to_ports },
        "REDIRECT" | "TPROXY" => Action::Translate { to: None, to_ports },
        "MASQUERADE" => Action::Source { to: None, out, ports: to_ports },
        "SNAT" => {
            let to = address.and_then(|text| text.parse().ok());
            Action::Source { to, out, ports: to_ports }
        }
        other => Action::Jump(chain(program, table, other)),
    };
    let place = format!("the {program} rule `-t {table} -A {text}`");
    Some(Rule { chain: chain(program, table, name), place, ports, protocol, action })
}

/// `None` for a protocol without ports.
fn named_protocol(name: &str) -> Option<Protocol> {
    let by_number = name.parse().ok().and_then(Protocol::from_number);
    by_number.or_else(|| Protocol::ALL.into_iter().find(|protocol| protocol.name() == name))
}

/// `8080`, `8000:8010`, `80,443,8000:8010`.
fn port_list(text: &str) -> Option<PortSet> {
    let ranges: Option<Vec<_>> = text.split(',').map(|part| range(part, ':')).collect();
    ranges.map(PortSet::of)
}

fn range(text: &str, between: char) -> Option<(u16, u16)> {
    let (first, last) = text.split_once(between).unwrap_or((text, text));
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// `10.0.0.1:11434`, `10.0.0.1-10.0.0.9`, `[fd00::1]:80-90`, `:32768-60999`, `11434`.
fn destination(text: &str) -> (Option<String>, Option<PortSet>) {
    let ports = |text: &str| range(text.split('/').next()?, '-').map(|range| PortSet::of([range]));
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').unwrap_or((rest, ""));
        return (Some(address.to_owned()), rest.strip_prefix(':').and_then(ports));
    }
    if let Some(found) = ports(text) {
        return (None, Some(found));
    }
    match text.rsplit_once(':') {
        // An IPv6 address without brackets has no port.
        Some((address, port)) if !address.contains(':') => {
            (Some(address.to_owned()).filter(|text| !text.is_empty()), ports(port))
        }
        _ => (Some(text.to_owned()), None),
    }
}

/// Words, of which those in double quotes may have blanks in them.
fn split(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut is_quoted = false;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => is_quoted = !is_quoted,
            '\\' if is_quoted => words.last_mut().map_or((), |w| w.extend(characters.next())),
            ' ' if !is_quoted => words.push(String::new()),
            _ => words.last_mut().map_or((), |word| word.push(character)),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Option<Rule> {
        parse_rule("iptables", "nat", text)
    }

    #[test]
    fn the_conditions_on_ports_are_understood() {
        let ports = |text: &str| {
            rule(&format!("X -p tcp {text} -j DNAT --to-destination 10.0.0.1:11434"))
                .map(|rule| rule.ports.to_string())
        };
        let cases = [
            ("-m tcp --dport 8080", "8080"),
            ("-m tcp --dport 8000:8010", "8000-8010"),
            ("-m tcp ! --dport 22", "0-21, 23-65535"),
            ("-m multiport --dports 80,443,8000:8010", "80, 443, 8000-8010"),
            ("-m comment --comment \"--dport 5\" --dport 7", "7"),
            ("! -d 127.0.0.0/8 --dport 7", "7"),
            ("! -i docker0 --dport 7", "7"),
            ("", "0-65535"),
        ];
        for (text, expected) in cases {
            assert_eq!(ports(text).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(ports("-i lo"), None);
        assert_eq!(ports("-d 127.0.0.1/32"), None);
        assert_eq!(rule("X -p icmp -j DNAT --to-destination 10.0.0.1"), None);
    }

    #[test]
    fn destinations_are_understood() {
        let cases = [
            ("10.0.0.1:11434", Some("10.0.0.1"), Some("11434")),
            ("10.0.0.1:1-9", Some("10.0.0.1"), Some("1-9")),
            ("10.0.0.1-10.0.0.9", Some("10.0.0.1-10.0.0.9"), None),
            ("[fd00::1]:80-90", Some("fd00::1"), Some("80-90")),
            ("fd00::1", Some("fd00::1"), None),
            (":32768-60999", None, Some("32768-60999")),
            ("11434", None, Some("11434")),
        ];
        for (text, address, ports) in cases {
            let (found, found_ports) = destination(text);
            assert_eq!(found.as_deref(), address, "{text}");
            assert_eq!(found_ports.map(|ports| ports.to_string()).as_deref(), ports, "{text}");
        }
    }

    #[test]
    fn targets_are_told_apart() {
        let action = |text: &str| rule(text).map(|rule| rule.action);
        let jump = Action::Jump("iptables nat DOCKER".into());
        assert_eq!(action("PREROUTING -m addrtype --dst-type LOCAL -j DOCKER"), Some(jump));
        let to_ports = Some(PortSet::one(11434));
        let redirect = Action::Translate { to: None, to_ports };
        let tproxy =
            "PREROUTING -p tcp -j TPROXY --on-port 11434 --on-ip 127.0.0.1 --tproxy-mark 1";
        assert_eq!(action(tproxy), Some(redirect));
        let source = Action::Source {
            to: "192.0.2.9".parse().ok(),
            out: Some("eth0".into()),
            ports: Some(PortSet::of([(1024, 2048)])),
        };
        assert_eq!(
            action("POSTROUTING -o eth0 -p tcp -j SNAT --to-source 192.0.2.9:1024-2048"),
            Some(source)
        );
        assert_eq!(action("PREROUTING -p tcp --dport 1"), None);
    }
}
