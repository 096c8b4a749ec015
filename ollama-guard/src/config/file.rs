//! The configuration file's schema. `deploy/config.example.toml` shows all of it.
//!
//! Long because the whole schema is read in one place: every key stands here once.

mod groups;
mod keys;

use std::{collections::BTreeSet, sync::Arc};

use toml::de::{DeTable, DeValue};

use self::{
    groups::{Groups, Member},
    keys::{Key, Table},
};
use super::{
    Interfaces, Pattern, Place, Surroundings,
    document::{Document, Span, Value},
    files::{Files, Text},
    layer::Layer,
    metrics,
    problem::Problem,
    services, value,
};
use crate::policy::{Effect, End, Limits, NameRule, Port, PortError, Rule, Subject, quoted};

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
        let known = layer.services.iter().map(|service| service.name.clone()).collect();
        let mut reader = Reader { document, groups: &mut groups, known, layer: Layer::default() };
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
    /// The names of the services in the files before this one.
    known: Vec<String>,
    layer: Layer,
}

impl Reader<'_, '_> {
    fn top(&mut self, key: &Key<'_>, value: &Value<'_>) {
        let (document, layer) = (&mut *self.document, &mut self.layer);
        match key.get_ref().as_ref() {
            "mode" => layer.mode = document.text(value, "mode = \"enforce\"", value::mode),
            "interfaces" => layer.interfaces = interfaces(document, value),
            "exclude" => layer.exclude = exclude(document, value, "exclude = [\"eth1\"]"),
            "attach" => layer.attach = document.text(value, "attach = \"auto\"", value::attach),
            "scope" => layer.scope = document.text(value, "scope = \"all\"", value::scope),
            "capacity" => {
                layer.capacity = document.number(value, "capacity = 65536", value::capacity);
            }
            "confirm" => layer.confirm = document.text(value, "confirm = \"2m\"", value::confirm),
            "groups" => {}
            "service" => self.services(value),
            "events" => self.events(value),
            "metrics" => self.metrics(value),
            "inner" => self.inner(value),
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
                "keep" => {
                    let example = "keep = \"16 MiB\"";
                    self.layer.events_keep = self.document.text(value, example, value::events_keep);
                }
                _ => keys::refuse(self.document, Table::Events, key),
            }
        }
    }

    fn metrics(&mut self, value: &Value<'_>) {
        for (key, value) in self.document.table(value, "[metrics]").into_iter().flatten() {
            match key.get_ref().as_ref() {
                "listen" => {
                    let example = "listen = \"127.0.0.1:9434\"";
                    self.layer.metrics = self.document.text(value, example, metrics::metrics);
                }
                _ => keys::refuse(self.document, Table::Metrics, key),
            }
        }
    }

    fn inner(&mut self, value: &Value<'_>) {
        for (key, value) in self.document.table(value, "[inner]").into_iter().flatten() {
            match key.get_ref().as_ref() {
                "enable" => {
                    self.layer.inner.enable = self.document.boolean(value, "enable = true");
                }
                "cgroup" => {
                    let example = "cgroup = \"/sys/fs/cgroup\"";
                    let path = |text: &str| value::path(text.as_ref());
                    self.layer.inner.cgroup = self.document.text(value, example, path);
                }
                _ => keys::refuse(self.document, Table::Inner, key),
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
        for service in services {
            if let Some(table) = self.document.table(service, SERVICE) {
                let name = self.name(table, &service.span(), services.len() == 1);
                let place = self.document.place(&service.span());
                let is_named = find(table, "name").is_some();
                if is_named && self.layer.services.iter().any(|one| one.name == *name) {
                    let message = format!(
                        "the service {} stands here a second time: give this one another name, or \
                         move its lines to the first",
                        quoted(&name)
                    );
                    self.document.wrong_structure(&service.span(), message);
                }
                self.service(table, name, place);
            }
        }
    }

    fn service(&mut self, table: &DeTable<'_>, name: Arc<str>, place: Place) {
        let mut anyone = false;
        let (mut allow, mut deny) = (Vec::new(), Vec::new());
        let (mut mode, mut own) = (None, BTreeSet::new());
        for (key, value) in table {
            match key.get_ref().as_ref() {
                // Read before.
                "name" => {}
                "mode" => mode = self.document.text(value, "mode = \"observe\"", value::mode),
                "ports" => own.extend(ports(self.document, value)),
                "allow" => allow = self.listed(value, "allow", &name),
                "deny" => deny = self.listed(value, "deny", &name),
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
        let said = services::Said { name: name.to_string(), place, mode, ports: own };
        services::add(&mut self.layer.services, said);
    }

    /// The name of a service. One without a name is the one that there is.
    fn name(&mut self, table: &DeTable<'_>, at: &Span, is_alone: bool) -> Arc<str> {
        let default = services::DEFAULT_NAME.into();
        if let Some(value) = find(table, "name") {
            let name = self.document.text(value, "name = \"ollama\"", groups::name_text);
            return name.map_or(default, Arc::from);
        }
        match &self.known[..] {
            _ if !is_alone => {
                let message = "each of several services needs a name: add a line like \
                               name = \"web\"";
                self.document.wrong_structure(at, message.to_owned());
                default
            }
            [] => default,
            [one] => one.as_str().into(),
            several => {
                let message = format!(
                    "which service is this? Add one of the lines name = {}",
                    several.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", name = ")
                );
                self.document.wrong_structure(at, message);
                default
            }
        }
    }

    /// The prefixes and names of an allow or deny list, each with where it holds.
    fn listed(&mut self, value: &Value<'_>, key: &str, service: &Arc<str>) -> Vec<Listed> {
        let example = format!("{key} = [\"203.0.113.0/24\"]");
        let mut listed = Vec::new();
        let mut expanded = BTreeSet::new();
        let everywhere = Limits::new(Some(Arc::clone(service)), Vec::new());
        for item in self.document.items(value, &example) {
            let Braces { limits, texts, expires } = match item.get_ref() {
                DeValue::String(text) => Braces {
                    limits: everywhere.clone(),
                    texts: vec![(item.span(), text.as_ref())],
                    expires: None,
                },
                DeValue::Table(table) => self.entry(table, &item.span(), service),
                _ => {
                    let expected = "text in quotes, or an entry in braces,";
                    self.document.wrong_type(item, expected, &example);
                    continue;
                }
            };
            for (at, text) in texts {
                let is_again = expires.is_none() && !expanded.insert((text, limits.clone()));
                if is_again && self.groups.members(text).is_some() {
                    let message = format!("the group {} stands twice", quoted(text));
                    self.document.warn(&at, &message);
                    continue;
                }
                let members = self.members(&at, text, expires);
                let is_for_some = limits.as_ref().is_some_and(|limits| !limits.on.is_empty());
                listed.extend(members.into_iter().map(|one| match &one.only_on {
                    Some(only) if !is_for_some => {
                        let limits = Limits::new(Some(Arc::clone(service)), vec![only.clone()]);
                        (one, limits)
                    }
                    _ => (one, limits.clone()),
                }));
            }
        }
        listed
    }

    /// An entry in braces, that holds at some interfaces only, or ends.
    fn entry<'v>(&mut self, table: &'v DeTable<'_>, at: &Span, service: &Arc<str>) -> Braces<'v> {
        let (mut texts, mut on, mut expires) = (Vec::new(), Vec::new(), None);
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "from" => match value.get_ref() {
                    DeValue::String(text) => texts.push((value.span(), text.as_ref())),
                    _ => texts = self.document.texts(value, "from = \"203.0.113.0/24\""),
                },
                "on" => {
                    refuse_empty(self.document, value, "interface", "on = [\"eth1\"]");
                    on = exclude(self.document, value, "on = [\"eth1\"]");
                }
                "expires" => expires = self.document.end(value),
                _ => keys::refuse(self.document, Table::Entry, key),
            }
        }
        if find(table, "from").is_none() {
            let message = "whom is this entry about? Write { from = \"203.0.113.0/24\", on = \
                           [\"eth1\"] }";
            self.document.wrong(at, message.to_owned());
        }
        Braces { limits: Limits::new(Some(Arc::clone(service)), on), texts, expires }
    }

    /// What one text of a list stands for.
    fn members(&mut self, at: &Span, text: &str, expires: Option<End>) -> Vec<Member> {
        if expires.is_some() && groups::is_name(text) {
            let message = "only a prefix or a host name has an end: write it where the group has \
                           its members";
            self.document.wrong(at, message.to_owned());
            return Vec::new();
        }
        if let Some(members) = self.groups.members(text) {
            return members.to_vec();
        }
        if let Some(members) = self.groups.built_in(self.document, at, text) {
            self.layer.follows_host = true;
            return members;
        }
        if groups::is_name(text) {
            self.document.wrong_structure(at, self.groups.no_such(text));
            return Vec::new();
        }
        Member::written(self.document, at, text, expires).into_iter().collect()
    }

    fn refuse_everyone(&mut self, allow: &[Listed]) {
        for (Member { subject, everyone_at, .. }, _) in allow {
            if let (Subject::Prefix(prefix), Some(place)) = (subject, everyone_at.clone()) {
                let message =
                    value::everyone(*prefix, "the line `anyone = true` to the [[service]]");
                self.document.report(Problem { place, message });
            }
        }
    }

    fn add(&mut self, effect: Effect, listed: Vec<Listed>) {
        for (Member { subject, origin, comment, expires, .. }, limits) in listed {
            match subject {
                Subject::Prefix(prefix) => {
                    let rule = Rule { prefix, effect, limits, comment, origin, expires };
                    self.layer.rules.push(rule);
                }
                Subject::Name(name) => {
                    let rule = NameRule { name, effect, limits, comment, origin, expires };
                    self.layer.names.push(rule);
                }
            }
        }
    }
}

/// A prefix or a name of a list, and where it holds.
type Listed = (Member, Option<Arc<Limits>>);

/// What stands in an entry in braces.
struct Braces<'v> {
    limits: Option<Arc<Limits>>,
    texts: Vec<(Span, &'v str)>,
    expires: Option<End>,
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

fn exclude(document: &mut Document<'_>, value: &Value<'_>, example: &str) -> Vec<Pattern> {
    let texts = document.texts(value, example);
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
