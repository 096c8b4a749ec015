//! The configuration file's schema. `deploy/config.example.toml` shows all of it.

mod groups;
mod keys;

use std::collections::BTreeSet;

use toml::de::{DeTable, DeValue};

use self::{
    groups::{Groups, Member},
    keys::{Key, Table},
};
use super::{
    Interfaces, Pattern, Surroundings,
    document::{Document, Value},
    files::{Files, Text},
    layer::Layer,
    problem::Problem,
    value,
};
use crate::policy::{Effect, Port, PortError, Rule, quoted};

/// How the line above a service looks.
const SERVICE: &str = "[[service]], with two brackets on each side";

/// What the files say, each over those before it. `files` reads the lists that they name, and
/// `surroundings` knows the groups that are built in.
pub(super) fn layer(
    texts: &[Text],
    surroundings: &dyn Surroundings,
    files: &mut Files,
    problems: &mut Vec<Problem>,
) -> Layer {
    let mut parsed: Vec<_> =
        texts.iter().map(|Text { path, text }| Document::parse(path, text)).collect();
    // First, because the lists of services name them, in whichever file.
    let mut groups = Groups::new(surroundings);
    for (number, (document, root)) in parsed.iter_mut().enumerate() {
        if let Some(value) = find(root, "groups") {
            groups.read(document, number, value, files);
        }
    }
    let mut layer = Layer::default();
    for (document, root) in &mut parsed {
        let service = layer.name.clone();
        let mut reader = Reader { document, groups: &mut groups, service, layer: Layer::default() };
        for (key, value) in &*root {
            reader.top(key, value);
        }
        layer = reader.layer.over(layer);
    }
    for (number, (mut document, _)) in parsed.into_iter().enumerate() {
        for (at, message) in groups.unused(number) {
            document.warn(at, &message);
        }
        let (wrong, warnings) = document.finish();
        problems.extend(wrong);
        layer.warnings.extend(warnings);
    }
    layer
}

struct Reader<'r, 't> {
    document: &'r mut Document<'t>,
    groups: &'r mut Groups<'t>,
    /// The name of the service in the files before this one.
    service: Option<String>,
    layer: Layer,
}

impl Reader<'_, '_> {
    fn top(&mut self, key: &Key<'_>, value: &Value<'_>) {
        let (document, layer) = (&mut *self.document, &mut self.layer);
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
                _ => keys::refuse(self.document, Table::Events, key),
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
                _ => keys::refuse(self.document, Table::Control, key),
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
                "name" => self.name(value),
                "ports" => self.layer.ports.extend(ports(self.document, value)),
                "allow" => allow = self.listed(value, "allow"),
                "deny" => deny = self.listed(value, "deny"),
                "anyone" => {
                    anyone = self.document.boolean(value, "anyone = true").unwrap_or(false);
                }
                _ => keys::refuse(self.document, Table::Service, key),
            }
        }
        if !anyone {
            self.refuse_everyone(&allow);
        }
        self.add(Effect::Allow, allow);
        self.add(Effect::Deny, deny);
    }

    fn name(&mut self, value: &Value<'_>) {
        let name = self.document.text(value, "name = \"ollama\"", groups::name_text);
        if let (Some(name), Some(first)) = (&name, &self.service)
            && name != first
        {
            let message = format!(
                "a second service is not accepted yet: write name = \"{first}\" or leave the line \
                 out, and what stands here is added to that one"
            );
            self.document.wrong(&value.span(), message);
        }
        self.layer.name = name;
    }

    /// The prefixes of an allow or deny list.
    fn listed(&mut self, value: &Value<'_>, key: &str) -> Vec<Member> {
        let example = format!("{key} = [\"203.0.113.0/24\"]");
        let mut listed = Vec::new();
        let mut expanded = BTreeSet::new();
        for (at, text) in self.document.texts(value, &example) {
            if let Some(members) = self.groups.members(text) {
                if expanded.insert(text) {
                    listed.extend_from_slice(members);
                } else {
                    self.document.warn(&at, &format!("the group {} stands twice", quoted(text)));
                }
            } else if let Some(members) = self.groups.built_in(self.document, &at, text) {
                listed.extend(members);
                self.layer.follows_host = true;
            } else if groups::is_name(text) {
                self.document.wrong_structure(&at, self.groups.no_such(text));
            } else {
                listed.extend(Member::written(self.document, &at, text));
            }
        }
        listed
    }

    fn refuse_everyone(&mut self, allow: &[Member]) {
        for Member { prefix, everyone_at, .. } in allow {
            if let Some(place) = everyone_at.clone() {
                let message =
                    value::everyone(*prefix, "the line `anyone = true` to the [[service]]");
                self.document.report(Problem { place, message });
            }
        }
    }

    fn add(&mut self, effect: Effect, listed: Vec<Member>) {
        let rule =
            |Member { prefix, origin, comment, .. }| Rule { prefix, effect, comment, origin };
        self.layer.rules.extend(listed.into_iter().map(rule));
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
