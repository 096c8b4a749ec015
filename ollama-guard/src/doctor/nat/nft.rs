//! What `nft -j list ruleset` prints (libnftables-json(5)).

use std::collections::BTreeMap;

use ollama_guard_common::Protocol;
use serde_json::Value;

use super::{
    PortSet,
    ruleset::{Action, Rule, Ruleset},
};

/// What a listing says.
#[derive(Clone, Debug, Default)]
pub(super) struct Listing {
    pub(super) ruleset: Ruleset,
    /// Whether there are rules that only iptables can print.
    pub(super) has_iptables_rules: bool,
}

/// Reads a listing.
pub(super) fn parse(text: &str) -> Result<Listing, serde_json::Error> {
    let json: Value = serde_json::from_str(text)?;
    let objects = json["nftables"].as_array().map_or(&[][..], Vec::as_slice);
    let mut reader = Reader { listing: Listing::default(), elements: BTreeMap::new() };
    for object in objects {
        for kind in ["set", "map"] {
            let named = &object[kind];
            if let Some(name) = named["name"].as_str() {
                let elements = named["elem"].as_array().cloned().unwrap_or_default();
                reader.elements.insert(in_table(named, name), elements);
            }
        }
        let chain = &object["chain"];
        if matches!(chain["hook"].as_str(), Some("prerouting" | "ingress"))
            && let Some(name) = chain["name"].as_str()
        {
            reader.listing.ruleset.entrances.insert(in_table(chain, name));
        }
    }
    for object in objects {
        reader.rule(&object["rule"]);
    }
    Ok(reader.listing)
}

/// The name of a chain, set or map, made unique.
fn in_table(object: &Value, name: &str) -> String {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    format!("nft {} {} {name}", text("family"), text("table"))
}

struct Reader {
    listing: Listing,
    /// Of named sets and maps.
    elements: BTreeMap<String, Vec<Value>>,
}

/// A rule as far as it has been read.
#[derive(Clone)]
struct Partial<'a> {
    json: &'a Value,
    ports: PortSet,
    protocol: Option<Protocol>,
    out: Option<String>,
}

impl Partial<'_> {
    /// The same, for the packets that a map with a port in its key is for.
    fn keyed(&self, map: &Value) -> Self {
        let key = &map["key"];
        let parts = key["concat"].as_array().map_or(std::slice::from_ref(key), Vec::as_slice);
        let port = parts.iter().find(|part| is_port(part));
        let named = port.and_then(|port| protocol(&port["payload"]["protocol"])).flatten();
        Self { protocol: self.protocol.or(named), ..self.clone() }
    }
}

impl Reader {
    fn rule(&mut self, rule: &Value) {
        let Some(statements) = rule["expr"].as_array() else { return };
        let mut partial = Partial { json: rule, ports: PortSet::all(), protocol: None, out: None };
        for statement in statements {
            let Some((name, value)) = statement.as_object().and_then(|one| one.iter().next())
            else {
                continue;
            };
            match name.as_str() {
                "match" if !self.narrow(&mut partial, value) => return,
                "jump" | "goto" => self.jump(&partial, partial.ports.clone(), &value["target"]),
                "vmap" => self.verdict_map(&partial, value),
                "dnat" | "redirect" | "tproxy" => self.translate(&partial, value),
                "snat" | "masquerade" => {
                    let to = value["addr"].as_str().and_then(|text| text.parse().ok());
                    let out = partial.out.clone();
                    let action = Action::Source { to, out, ports: number_or_range(&value["port"]) };
                    self.push(&partial, partial.ports.clone(), action);
                }
                "xt" => self.listing.has_iptables_rules = true,
                _ => {}
            }
        }
    }

    /// Applies a condition. `false` if no packet from outside, or none with ports, can meet it.
    fn narrow(&self, partial: &mut Partial<'_>, condition: &Value) -> bool {
        let (left, right) = (&condition["left"], &condition["right"]);
        let is = matches!(condition["op"].as_str(), Some("==" | "in"));
        let meta = left["meta"]["key"].as_str();
        let field = left["payload"]["field"].as_str();
        if is && matches!(meta, Some("iifname" | "iif")) && right == "lo" {
            return false;
        }
        if is && matches!(meta, Some("oifname" | "oif")) {
            partial.out = right.as_str().map(str::to_owned);
        }
        if is && field == Some("daddr") && is_loopback(right) {
            return false;
        }
        if is && (meta == Some("l4proto") || matches!(field, Some("protocol" | "nexthdr"))) {
            match protocol(right) {
                Some(found) => partial.protocol = found,
                None => return false,
            }
        }
        if is_port(left) {
            if let Some(found) = protocol(&left["payload"]["protocol"]) {
                partial.protocol = found.or(partial.protocol);
            }
            let matching = self.compared(partial.json, condition["op"].as_str(), right);
            partial.ports = partial.ports.intersection(&matching);
        }
        true
    }

    /// The ports that meet a condition; all of them if it is not understood.
    fn compared(&self, rule: &Value, operator: Option<&str>, right: &Value) -> PortSet {
        let ports = self.ports(rule, right);
        match (operator, ports.as_ref().and_then(PortSet::single)) {
            (Some("==" | "in"), _) => ports.unwrap_or_else(PortSet::all),
            (Some("!="), _) => ports.map_or_else(PortSet::all, |ports| ports.complement()),
            (Some("<"), Some(0)) | (Some(">"), Some(u16::MAX)) => PortSet::default(),
            (Some("<"), Some(port)) => PortSet::of([(0, port - 1)]),
            (Some("<="), Some(port)) => PortSet::of([(0, port)]),
            (Some(">"), Some(port)) => PortSet::of([(port + 1, u16::MAX)]),
            (Some(">="), Some(port)) => PortSet::of([(port, u16::MAX)]),
            _ => PortSet::all(),
        }
    }

    /// A number, a range, a set of these, or the name of one.
    fn ports(&self, rule: &Value, value: &Value) -> Option<PortSet> {
        if let Some(name) = value.as_str().and_then(|text| text.strip_prefix('@')) {
            let elements = self.elements.get(&in_table(rule, name))?;
            return elements.iter().map(number_or_range).try_fold(PortSet::default(), joined);
        }
        match value["set"].as_array() {
            Some(elements) => {
                elements.iter().map(number_or_range).try_fold(PortSet::default(), joined)
            }
            None => number_or_range(value),
        }
    }

    /// The elements of a map, each with the ports that it is for.
    fn entries(&self, partial: &Partial<'_>, map: &Value) -> Vec<(PortSet, Value)> {
        let (key, data) = (&map["key"], &map["data"]);
        let elements = match data.as_str().and_then(|text| text.strip_prefix('@')) {
            Some(name) => self.elements.get(&in_table(partial.json, name)).cloned(),
            None => data["set"].as_array().cloned(),
        };
        let is_the_port = is_port(key);
        let position = key["concat"].as_array().and_then(|parts| parts.iter().position(is_port));
        let entry = |element: Value| {
            let (from, to) = (unwrapped(&element[0]), element[1].clone());
            let of_key = match position {
                _ if is_the_port => number_or_range(from),
                Some(position) => number_or_range(&from["concat"][position]),
                None => None,
            };
            (partial.ports.intersection(&of_key.unwrap_or_else(PortSet::all)), to)
        };
        elements.unwrap_or_default().into_iter().map(entry).collect()
    }

    fn verdict_map(&mut self, partial: &Partial<'_>, map: &Value) {
        let partial = partial.keyed(map);
        for (ports, verdict) in self.entries(&partial, map) {
            for word in ["jump", "goto"] {
                self.jump(&partial, ports.clone(), &verdict[word]["target"]);
            }
        }
    }

    fn jump(&mut self, partial: &Partial<'_>, ports: PortSet, target: &Value) {
        if let Some(target) = target.as_str() {
            let target = in_table(partial.json, target);
            self.push(partial, ports, Action::Jump(target));
        }
    }

    fn translate(&mut self, partial: &Partial<'_>, value: &Value) {
        let map = &value["addr"]["map"];
        if map.is_null() {
            let to = value["addr"].as_str().map(str::to_owned);
            let partial = partial.keyed(&value["port"]["map"]);
            let mut entries = self.entries(&partial, &value["port"]["map"]);
            if entries.is_empty() {
                entries.push((partial.ports.clone(), value["port"].clone()));
            }
            for (ports, port) in entries {
                let action = Action::Translate { to: to.clone(), to_ports: number_or_range(&port) };
                self.push(&partial, ports, action);
            }
            return;
        }
        let partial = partial.keyed(map);
        for (ports, target) in self.entries(&partial, map) {
            let (to, to_ports) = match target["concat"].as_array() {
                Some(parts) => (parts.first().cloned(), parts.get(1).and_then(number_or_range)),
                None => (Some(target), number_or_range(&value["port"])),
            };
            let to = to.as_ref().and_then(Value::as_str).map(str::to_owned);
            self.push(&partial, ports, Action::Translate { to, to_ports });
        }
    }

    fn push(&mut self, partial: &Partial<'_>, ports: PortSet, action: Action) {
        let chain = in_table(partial.json, partial.json["chain"].as_str().unwrap_or_default());
        let place = format!("the rule with handle {} in {chain}", partial.json["handle"]);
        let protocol = partial.protocol;
        self.listing.ruleset.rules.push(Rule { chain, place, ports, protocol, action });
    }
}

fn is_port(expression: &Value) -> bool {
    expression["payload"]["field"] == "dport"
}

/// The protocol of a condition: `Some(None)` for one that may have ports, but names none; `None`
/// for one without ports.
fn protocol(value: &Value) -> Option<Option<Protocol>> {
    if let Some(number) = value.as_u64() {
        return Protocol::from_number(u8::try_from(number).ok()?).map(Some);
    }
    match value.as_str() {
        Some("th") | None => Some(None),
        Some(name) => Protocol::ALL.into_iter().find(|one| one.name() == name).map(Some),
    }
}

fn is_loopback(value: &Value) -> bool {
    let address = value.as_str().or_else(|| value["prefix"]["addr"].as_str()).unwrap_or_default();
    address.starts_with("127.") || address == "::1"
}

/// An element of a set may come with a comment, a timeout or a counter.
fn unwrapped(value: &Value) -> &Value {
    let inner = &value["elem"]["val"];
    if inner.is_null() { value } else { inner }
}

fn number_or_range(value: &Value) -> Option<PortSet> {
    let value = unwrapped(value);
    let number = |value: &Value| value.as_u64().and_then(|number| u16::try_from(number).ok());
    match value["range"].as_array() {
        Some(ends) => Some(PortSet::of([(number(ends.first()?)?, number(ends.get(1)?)?)])),
        None => number(value).map(PortSet::one),
    }
}

fn joined(set: PortSet, more: Option<PortSet>) -> Option<PortSet> {
    Some(set.union(&more?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::nat::{Rules, conclude};

    /// What nft 1.0.6 printed for rules of many forms.
    const RECORDED: &str = include_str!("nft_recorded.json");

    fn rules() -> Rules {
        conclude(&parse(RECORDED).expect("a listing").ruleset)
    }

    /// The ports that lead to an address and its ports.
    fn leading_to(to: &str, to_ports: &str) -> Vec<String> {
        let found = rules().translations.into_iter().filter(|one| {
            one.to.as_deref().unwrap_or("here") == to
                && one.to_ports.as_ref().map_or("same".into(), ToString::to_string) == to_ports
        });
        found
            .map(|one| {
                let protocol = one.protocol.map_or("any", Protocol::name);
                format!("{protocol} {}", one.from)
            })
            .collect()
    }

    #[test]
    fn recorded_rules_are_read() {
        assert_eq!(leading_to("172.17.0.2", "11434"), ["tcp 8080"]);
        assert_eq!(leading_to("here", "11434"), ["tcp 81, 90-95", "tcp 0-21, 23-65535"]);
        assert_eq!(leading_to("10.0.0.1", "11434"), ["tcp 777", "tcp 84", "tcp 0-65535"]);
        assert_eq!(leading_to("10.0.0.9", "11434-11440"), ["tcp 0-65535"]);
        assert_eq!(leading_to("fd00::1", "11434"), ["tcp 86"]);
    }

    #[test]
    fn maps_named_or_not_are_followed() {
        assert_eq!(leading_to("10.1.1.1", "11434"), ["tcp 31434"]);
        assert_eq!(leading_to("10.0.0.1", "same"), ["tcp 85"]);
        assert_eq!(leading_to("10.0.0.2", "11434"), ["tcp 0-65535"]);
    }

    #[test]
    fn jumps_and_verdict_maps_lead_into_a_chain() {
        // By a map for 82 and 83, and by a jump for 7000 and above; the rule itself leaves out 1.
        assert_eq!(leading_to("10.0.0.3", "11434"), ["tcp 82-83, 7000-65535"]);
    }

    #[test]
    fn rules_for_loopback_are_passed_over() {
        assert!(rules().translations.iter().all(|one| one.from.single() != Some(99)));
    }

    #[test]
    fn sources_are_read() {
        let found = rules().source_nat;
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].out.as_deref(), Some("eth0"));
        assert_eq!(found[1].ports, Some(PortSet::of([(32768, 60999)])));
        assert_eq!(found[2].to, "9.9.9.9".parse().ok());
    }

    #[test]
    fn rules_of_iptables_are_told_and_nonsense_is_an_error() {
        let xt = r#"{"nftables":[{"rule":{"family":"ip","table":"nat","chain":"PREROUTING",
            "handle":2,"expr":[{"xt":{"type":"target","name":"REDIRECT"}}]}}]}"#;
        assert!(parse(xt).expect("a listing").has_iptables_rules);
        assert!(!parse(RECORDED).expect("a listing").has_iptables_rules);
        assert!(parse("{").is_err());
        assert!(parse("[]").expect("nothing").ruleset.rules.is_empty());
    }

    #[test]
    fn sets_with_names_and_comments_are_read() {
        let text = r#"{"nftables":[
            {"set":{"family":"ip","name":"s","table":"t","elem":[{"elem":{"val":5,"comment":"x"}},
                {"range":[7,9]}]}},
            {"chain":{"family":"ip","table":"t","name":"c","hook":"prerouting"}},
            {"rule":{"family":"ip","table":"t","chain":"c","handle":3,"expr":[
                {"match":{"op":"==","left":{"payload":{"protocol":"tcp","field":"dport"}},
                    "right":"@s"}},{"redirect":{"port":11434}}]}},
            {"rule":{"family":"ip","table":"t","chain":"c","handle":4,"expr":[
                {"vmap":{"key":{"concat":[{"payload":{"protocol":"ip","field":"daddr"}},
                    {"payload":{"protocol":"th","field":"dport"}}]},
                    "data":{"set":[[{"concat":["10.0.0.1",80]},{"goto":{"target":"d"}}]]}}}]}},
            {"rule":{"family":"ip","table":"t","chain":"d","handle":5,"expr":[
                {"dnat":{"addr":"10.0.0.2","port":11434}}]}}]}"#;
        let found = conclude(&parse(text).expect("a listing").ruleset).translations;
        let from: Vec<_> = found.iter().map(|one| one.from.to_string()).collect();
        assert_eq!(from, ["5, 7-9", "80"]);
    }
}
