//! The configuration file's schema. `deploy/config.example.toml` shows all of it.

mod groups;
mod keys;

use std::{collections::BTreeSet, path::Path};

use toml::de::{DeTable, DeValue};

use self::{
    groups::Groups,
    keys::{Key, Table},
};
use super::{
    Interfaces, Pattern,
    document::{Document, Span, Value},
    layer::Layer,
    problem::Problem,
    value,
};
use crate::policy::{Effect, Origin, Port, PortError, Prefix, PrefixError, Rule, quoted};

/// The largest file that is read: more than a million prefixes.
pub(super) const MOST_BYTES: u64 = 64 << 20;

/// How the line above a service looks.
const SERVICE: &str = "[[service]], with two brackets on each side";

/// What the file says.
pub(super) fn layer(path: &Path, text: &str, problems: &mut Vec<Problem>) -> Layer {
    let (document, root) = Document::parse(path, text, problems);
    let mut reader = Reader { document, groups: Groups::default(), layer: Layer::default() };
    // First, because the lists of services name them.
    if let Some(groups) = find(&root, "groups") {
        reader.groups.read(&mut reader.document, groups);
    }
    for (key, value) in &root {
        reader.top(key, value);
    }
    reader.finish()
}

struct Reader<'t> {
    document: Document<'t>,
    groups: Groups,
    layer: Layer,
}

/// A prefix of an allow or deny list, written there or in a group.
struct Listed {
    prefix: Prefix,
    at: Span,
    group: Option<String>,
}

impl Reader<'_> {
    fn finish(mut self) -> Layer {
        self.groups.warn_of_unused(&mut self.document);
        self.layer.warnings = self.document.into_warnings();
        self.layer
    }

    fn top(&mut self, key: &Key<'_>, value: &Value<'_>) {
        let (document, layer) = (&mut self.document, &mut self.layer);
        match key.get_ref().as_ref() {
            "mode" => layer.mode = document.text(value, "mode = \"enforce\"", value::mode),
            "interfaces" => layer.interfaces = interfaces(document, value),
            "exclude" => layer.exclude = exclude(document, value),
            "attach" => layer.attach = document.text(value, "attach = \"auto\"", value::attach),
            "scope" => layer.scope = document.text(value, "scope = \"all\"", value::scope),
            "capacity" => {
                layer.capacity = document.number(value, "capacity = 65536", value::capacity);
            }
            "groups" => {}
            "service" => self.services(value),
            "events" => self.events(value),
            "control" => self.control(value),
            _ => keys::refuse(document, Table::Top, key),
        }
    }

    fn events(&mut self, value: &Value<'_>) {
        for (key, value) in self.document.table(value, "[events]").into_iter().flatten() {
            match key.get_ref().as_ref() {
                "per_second" => {
                    let example = "per_second = 1000";
                    self.layer.events_per_second =
                        self.document.number(value, example, value::events_per_second);
                }
                _ => keys::refuse(&mut self.document, Table::Events, key),
            }
        }
    }

    fn control(&mut self, value: &Value<'_>) {
        for (key, value) in self.document.table(value, "[control]").into_iter().flatten() {
            match key.get_ref().as_ref() {
                "group_may_edit" => {
                    self.layer.group_may_edit =
                        self.document.boolean(value, "group_may_edit = false");
                }
                _ => keys::refuse(&mut self.document, Table::Control, key),
            }
        }
    }

    fn services(&mut self, value: &Value<'_>) {
        let DeValue::Array(services) = value.get_ref() else {
            let message = format!("each service is an item of a list: write {SERVICE}");
            return self.document.wrong_structure(&value.span(), message);
        };
        for (position, service) in services.iter().enumerate() {
            if position > 0 {
                let message = "a second [[service]] is not accepted yet: move its ports and lists \
                               into the first";
                self.document.wrong_structure(&service.span(), message.to_owned());
            }
            if let Some(table) = self.document.table(service, SERVICE) {
                self.service(table);
            }
        }
    }

    fn service(&mut self, table: &DeTable<'_>) {
        let mut anyone = false;
        let (mut allow, mut deny) = (Vec::new(), Vec::new());
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "name" => {
                    self.layer.name =
                        self.document.text(value, "name = \"ollama\"", groups::name_text);
                }
                "ports" => self.layer.ports.extend(ports(&mut self.document, value)),
                "allow" => allow = self.listed(value, "allow"),
                "deny" => deny = self.listed(value, "deny"),
                "anyone" => {
                    anyone = self.document.boolean(value, "anyone = true").unwrap_or(false);
                }
                _ => keys::refuse(&mut self.document, Table::Service, key),
            }
        }
        if !anyone {
            self.refuse_everyone(&allow);
        }
        self.add(Effect::Allow, allow);
        self.add(Effect::Deny, deny);
    }

    /// The prefixes of an allow or deny list.
    fn listed(&mut self, value: &Value<'_>, key: &str) -> Vec<Listed> {
        let example = format!("{key} = [\"203.0.113.0/24\"]");
        let mut listed = Vec::new();
        let mut expanded = BTreeSet::new();
        for (at, text) in self.document.texts(value, &example) {
            if let Some(members) = self.groups.members(text) {
                if expanded.insert(text) {
                    listed.extend(members.iter().map(|(prefix, at)| Listed {
                        prefix: *prefix,
                        at: at.clone(),
                        group: Some(text.to_owned()),
                    }));
                } else {
                    self.document.warn(&at, &format!("the group {} stands twice", quoted(text)));
                }
            } else if groups::is_name(text) {
                self.document.wrong_structure(&at, self.groups.no_such(text));
            } else if let Some(prefix) = prefix(&mut self.document, &at, text) {
                listed.push(Listed { prefix, at, group: None });
            }
        }
        listed
    }

    fn refuse_everyone(&mut self, allow: &[Listed]) {
        for listed in allow.iter().filter(|listed| listed.prefix.is_everyone()) {
            let message =
                value::everyone(listed.prefix, "the line `anyone = true` to the [[service]]");
            self.document.wrong(&listed.at, message);
        }
    }

    fn add(&mut self, effect: Effect, listed: Vec<Listed>) {
        for Listed { prefix, at, group } in listed {
            let path = self.document.path().to_owned();
            let origin = Origin::File { path, line: self.document.line(&at) }.into();
            let comment = group.map(|name| format!("group {name}").into());
            self.layer.rules.push(Rule { prefix, effect, comment, origin });
        }
    }
}

fn find<'v, 'a>(table: &'v DeTable<'a>, name: &str) -> Option<&'v Value<'a>> {
    table.iter().find(|(key, _)| key.get_ref() == name).map(|(_, value)| value)
}

fn interfaces(document: &mut Document<'_>, value: &Value<'_>) -> Option<Interfaces> {
    let example = "interfaces = \"auto\" or interfaces = [\"eth0\", \"wg*\"]";
    if let DeValue::String(text) = value.get_ref() {
        if text == "auto" {
            return Some(Interfaces::Auto);
        }
        let message = format!("names of interfaces stand in a list: write {example}");
        document.wrong(&value.span(), message);
        return None;
    }
    refuse_empty(document, value, "interface", example);
    let texts = document.texts(value, example);
    if let [(at, "auto")] = &texts[..] {
        document.wrong(at, "\"auto\" is no list: write interfaces = \"auto\"".to_owned());
        return None;
    }
    value::interfaces(texts.iter().map(|&(_, text)| text), |position, error| {
        document.wrong(&texts[position].0, error.to_string());
    })
}

fn exclude(document: &mut Document<'_>, value: &Value<'_>) -> Vec<Pattern> {
    let texts = document.texts(value, "exclude = [\"eth1\"]");
    let patterns = texts.into_iter().filter_map(|(at, text)| {
        value::pattern(text).map_err(|message| document.wrong(&at, message)).ok()
    });
    patterns.collect()
}

fn ports(document: &mut Document<'_>, value: &Value<'_>) -> Vec<Port> {
    let example = "ports = [\"11434/tcp\"]";
    refuse_empty(document, value, "port", example);
    let texts = document.texts(value, example);
    let ports = texts.into_iter().filter_map(|(at, text)| {
        text.parse().map_err(|error: PortError| document.wrong(&at, error.to_string())).ok()
    });
    ports.collect()
}

fn prefix(document: &mut Document<'_>, at: &Span, text: &str) -> Option<Prefix> {
    text.parse().map_err(|error: PrefixError| document.wrong(at, error.to_string())).ok()
}

fn refuse_empty(document: &mut Document<'_>, value: &Value<'_>, what: &str, example: &str) {
    if value.get_ref().as_array().is_some_and(|items| items.is_empty()) {
        let message = format!(
            "no {what} is named, so nothing would be guarded: write {example}, or leave the line \
             out for the default"
        );
        document.wrong(&value.span(), message);
    }
}

/// Every key of the schema.
#[cfg(test)]
pub(super) fn every_key() -> impl Iterator<Item = &'static str> {
    Table::ALL.into_iter().flat_map(Table::keys).copied()
}
