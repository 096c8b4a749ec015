//! Which bit of a rule set stands for which service at which doors.
//!
//! The program looks a source up once and gets a set of bits, one for each pair of a service and a class of
//! doors. Doors are of one class if the same rules hold there. Without a rule that is limited to some doors
//! there is one class; otherwise the first class is that of doors about which the kernel knows nothing yet:
//! there, an allow rule that is limited to doors lets nobody in, and a deny rule is in force.
//!
//! The inner door is of a class of its own: nobody can tell there by which door a packet came. What is said
//! about none of the guarded doors is what it says by itself; who is let in there follows from it and from all the
//! other classes ([`Inside`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ollama_guard_common::{
    Mode,
    abi::{MAX_PAIRS, MAX_SERVICES, THE_SERVICE},
};

use super::{CompileError, Effect, Inside, Limits, Pattern, Port, Prefix, Rule, Said};

/// Something that is guarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name: at most [`ollama_guard_common::abi::SERVICE_NAME_BYTES`] bytes, unlike all others.
    pub name: Arc<str>,
    /// Whether verdicts about its packets are carried out.
    pub mode: Mode,
    /// Its ports, which no other service has.
    pub ports: BTreeSet<Port>,
}

/// What a rule says, for the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Statement {
    /// The sources.
    pub prefix: Prefix,
    /// What happens to them.
    pub effect: Effect,
    /// Where: bits of a rule set.
    pub pairs: u32,
}

impl Statement {
    /// With one service, and at every door.
    #[must_use]
    pub const fn plain(prefix: Prefix, effect: Effect) -> Self {
        Self { prefix, effect, pairs: THE_SERVICE }
    }
}

/// The services and the doors, and their bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    services: Vec<Service>,
    /// By position of the service.
    numbers: Vec<u8>,
    /// Bits of one class.
    stride: u32,
    /// By position of the class: which of the lists hold there. Empty with one class.
    classes: Vec<Vec<bool>>,
    /// The lists of doors that rules are limited to.
    lists: Vec<Vec<Pattern>>,
    /// The class of each door, by the index of its interface; but for those of the first one.
    doors: BTreeMap<u32, usize>,
    /// That of the inner door, if there is one.
    inner: Option<usize>,
}

/// The index that stands for the inner door: no interface has it.
const INNER_DOOR: u32 = 0;

impl Layout {
    /// Services alone: no rule is limited to doors.
    ///
    /// # Errors
    ///
    /// As [`Layout::new`].
    pub fn of(services: Vec<Service>) -> Result<Self, CompileError> {
        Self::new(services, &[], [], &BTreeMap::new())
    }

    /// Numbers the services. `before` are the services of the policy in force: what has a number keeps it,
    /// and what is new gets another one than those, so that its counters begin at nought.
    ///
    /// `limits` are those of all rules, and `doors` the names of the interfaces, by index.
    ///
    /// # Errors
    ///
    /// If nothing is guarded, or more services or classes of doors than fit.
    pub fn new<'r>(
        services: Vec<Service>,
        before: &[(u8, String)],
        limits: impl IntoIterator<Item = &'r Limits>,
        doors: &BTreeMap<u32, String>,
    ) -> Result<Self, CompileError> {
        if services.iter().all(|service| service.ports.is_empty()) {
            return Err(CompileError::NoPorts);
        }
        if services.len() > MAX_SERVICES {
            return Err(CompileError::TooManyServices { count: services.len() });
        }
        let lists = limits.into_iter().map(|limits| &limits.on[..]);
        let lists: BTreeSet<&[Pattern]> = lists.filter(|list| !list.is_empty()).collect();
        let lists: Vec<Vec<Pattern>> = lists.into_iter().map(<[Pattern]>::to_vec).collect();
        let holds = |name: &str| -> Vec<bool> {
            lists.iter().map(|list| list.iter().any(|one| one.matches(name))).collect()
        };
        let mut classes = Vec::new();
        let mut by_door = BTreeMap::new();
        let mut inner = None;
        if !lists.is_empty() {
            let interfaces = || doors.iter().filter(|(ifindex, _)| **ifindex != INNER_DOOR);
            let kinds: BTreeSet<Vec<bool>> = interfaces().map(|(_, name)| holds(name)).collect();
            classes.push(vec![false; lists.len()]);
            classes.extend(kinds);
            if doors.contains_key(&INNER_DOOR) {
                inner = Some(classes.len());
                by_door.insert(INNER_DOOR, classes.len());
            }
            for (&ifindex, name) in interfaces() {
                let kind = holds(name);
                // The first one is that of unknown doors, whatever else is alike.
                let class = classes.iter().skip(1).position(|class| *class == kind);
                by_door.insert(ifindex, class.map_or(0, |class| class + 1));
            }
        }
        if inner.is_some() {
            classes.push(vec![false; lists.len()]);
        }
        let most = MAX_PAIRS / classes.len().max(1) as u32;
        let kept = numbers(&services, before);
        // Alone, it is told apart from nothing. Without room, closer together, whatever they were.
        let is_alone = services.len() == 1 && lists.is_empty();
        let numbers = match is_alone || stride(&kept) > most {
            true => (0..services.len() as u8).collect(),
            false => kept,
        };
        let stride = stride(&numbers);
        if stride > most {
            let (services, classes) = (services.len(), classes.len() - 1);
            return Err(CompileError::TooManyPairs { services, classes });
        }
        Ok(Self { services, numbers, stride, classes, lists, doors: by_door, inner })
    }

    /// The services, each with its number.
    pub fn services(&self) -> impl Iterator<Item = (u8, &Service)> {
        self.numbers.iter().copied().zip(&self.services)
    }

    /// Every guarded port.
    #[must_use]
    pub fn ports(&self) -> BTreeSet<Port> {
        self.services.iter().flat_map(|service| &service.ports).copied().collect()
    }

    /// Whether services or doors have to be told apart.
    #[must_use]
    pub fn is_apart(&self) -> bool {
        self.services.len() > 1 || !self.classes.is_empty()
    }

    /// Bits of one class of doors.
    #[must_use]
    pub const fn stride(&self) -> u32 {
        self.stride
    }

    /// Where the bits of each door's class begin, by the index of its interface. Of all others they begin
    /// at 0.
    pub fn doors(&self) -> impl Iterator<Item = (u32, u32)> {
        self.doors.iter().map(|(&ifindex, &class)| (ifindex, class as u32 * self.stride))
    }

    /// The services that the source of a packet in doubt has to be allowed to reach: those whose rules are
    /// enforced, or else all; one bit for each number. And the mode of such a packet.
    #[must_use]
    pub fn doubted(&self) -> (u32, Mode) {
        let bits = |mode: Option<Mode>| {
            let meant = self.services().filter(|(_, one)| mode.is_none_or(|mode| one.mode == mode));
            meant.fold(0, |bits, (number, _)| bits | 1_u32 << number)
        };
        match bits(Some(Mode::Enforce)) {
            0 => (bits(None), Mode::Observe),
            enforced => (enforced, Mode::Enforce),
        }
    }

    /// Where a rule of these limits holds: bits of a rule set. 0 if it is about a service that there is
    /// not, or about doors that there are not.
    #[must_use]
    pub fn pairs(&self, effect: Effect, limits: Option<&Limits>) -> u32 {
        let (service, on) = match limits {
            Some(Limits { service, on }) => (service.as_deref(), &on[..]),
            None => (None, &[][..]),
        };
        let meant =
            self.services().filter(|(_, one)| service.is_none_or(|name| *one.name == *name));
        let services = meant.fold(0, |bits, (number, _)| bits | 1_u32 << number);
        if self.classes.is_empty() {
            return services;
        }
        let list = self.lists.iter().position(|list| list == on);
        let classes = self.classes.iter().enumerate();
        let holds = classes.filter(|(position, class)| match list {
            _ if on.is_empty() => true,
            _ if *position == 0 => effect == Effect::Deny,
            Some(list) if Some(*position) == self.inner => !self.is_about_a_door(list),
            Some(list) => class[list],
            None => false,
        });
        holds.fold(0, |bits, (position, _)| bits | services << (position as u32 * self.stride))
    }

    /// Whether a list of doors names one that is guarded.
    fn is_about_a_door(&self, list: usize) -> bool {
        let mut doors = self.doors.values().filter(|class| Some(**class) != self.inner);
        doors.any(|class| self.classes[*class][list])
    }

    /// What the inner door makes of what is said about all doors. `None` if it is told apart from none.
    pub(super) fn inside(&self) -> Option<Inside> {
        let inner = self.inner?;
        let shift = |class: usize| class as u32 * self.stride;
        // The first one is that of doors which are not guarded yet.
        let doors = (1..self.classes.len()).filter(|class| *class != inner).map(shift);
        Some(Inside::new(self.stride, shift(inner), doors.collect()))
    }

    /// What a rule says. `None` if it says nothing.
    #[must_use]
    pub fn statement(&self, rule: &Rule) -> Option<Statement> {
        self.of_said(rule.said())
    }

    /// The same of what it says in words.
    #[must_use]
    pub fn of_said(&self, (prefix, effect, limits): Said<'_>) -> Option<Statement> {
        let pairs = self.pairs(effect, limits);
        (pairs != 0).then_some(Statement { prefix, effect, pairs })
    }
}

impl Service {
    /// The one service that is guarded unless somebody says otherwise, on these ports.
    #[must_use]
    pub fn ollama(mode: Mode, ports: impl IntoIterator<Item = Port>) -> Self {
        Self { name: "ollama".into(), mode, ports: ports.into_iter().collect() }
    }
}

/// The number of each service.
fn numbers(services: &[Service], before: &[(u8, String)]) -> Vec<u8> {
    let of = |name: &str| before.iter().find(|(_, one)| one == name).map(|(number, _)| *number);
    let mut taken: BTreeSet<u8> = before.iter().map(|(number, _)| *number).collect();
    let all = 0..MAX_SERVICES as u8;
    let mut numbers = Vec::new();
    for service in services {
        let number = of(&service.name).or_else(|| all.clone().find(|one| !taken.contains(one)));
        // With all of them taken, by services some of which are gone now.
        let free =
            || all.clone().find(|one| !numbers.contains(one) && !is_kept(*one, services, before));
        let number = number.or_else(free).unwrap_or_default();
        taken.insert(number);
        numbers.push(number);
    }
    numbers
}

/// Whether a number is that of a service that goes on.
fn is_kept(number: u8, services: &[Service], before: &[(u8, String)]) -> bool {
    let name = before.iter().find(|(one, _)| *one == number).map(|(_, name)| name);
    name.is_some_and(|name| services.iter().any(|service| *service.name == **name))
}

fn stride(numbers: &[u8]) -> u32 {
    numbers.iter().max().map_or(0, |most| u32::from(*most) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, mode: Mode, port: u16) -> Service {
        let ports = format!("{port}/tcp").parse::<Port>().unwrap();
        Service { name: name.into(), mode, ports: BTreeSet::from([ports]) }
    }

    fn two() -> Vec<Service> {
        vec![service("ollama", Mode::Enforce, 11434), service("web", Mode::Observe, 8080)]
    }

    fn on(patterns: &[&str]) -> Vec<Pattern> {
        patterns.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn doors(names: &[&str]) -> BTreeMap<u32, String> {
        (2..).zip(names.iter().map(|name| (*name).to_owned())).collect()
    }

    #[test]
    fn one_service_is_one_bit() {
        let layout = Layout::of(vec![two().remove(0)]).unwrap();
        assert!(!layout.is_apart());
        assert_eq!(layout.pairs(Effect::Allow, None), 1);
        assert_eq!(layout.doubted(), (1, Mode::Enforce));
    }

    #[test]
    fn a_packet_in_doubt_wants_what_is_enforced() {
        let layout = Layout::of(two()).unwrap();
        assert_eq!(layout.doubted(), (0b01, Mode::Enforce));
        let mut services = two();
        services[0].mode = Mode::Observe;
        assert_eq!(Layout::of(services).unwrap().doubted(), (0b11, Mode::Observe));
    }

    #[test]
    fn a_service_keeps_its_number_and_a_new_one_takes_none_that_was_in_use() {
        let before = [(0, "gone".to_owned()), (1, "web".to_owned())];
        let layout = Layout::new(two(), &before, [], &BTreeMap::new()).unwrap();
        let numbers: Vec<_> = layout.services().map(|(number, one)| (number, &*one.name)).collect();
        assert_eq!(numbers, [(2, "ollama"), (1, "web")]);
        let only = Limits::new(Some("ollama".into()), vec![]);
        assert_eq!(layout.pairs(Effect::Allow, only.as_deref()), 0b100);
        assert_eq!(layout.pairs(Effect::Allow, None), 0b110);
        let other = Limits::new(Some("gone".into()), vec![]);
        assert_eq!(layout.pairs(Effect::Deny, other.as_deref()), 0, "there is no such service");
    }

    #[test]
    fn all_services_can_be_exchanged_for_as_many_others() {
        let many = |name: &str| -> Vec<Service> {
            (0..15).map(|n| service(&format!("{name}{n}"), Mode::Enforce, 8000 + n)).collect()
        };
        let before: Vec<_> = (0..15).map(|n| (n, format!("a{n}"))).collect();
        let layout = Layout::new(many("b"), &before, [], &BTreeMap::new()).unwrap();
        let numbers: BTreeSet<u8> = layout.services().map(|(number, _)| number).collect();
        assert_eq!(numbers.len(), 15);
        let mut more = many("a");
        more.push(service("more", Mode::Enforce, 9000));
        let error = Layout::of(more).unwrap_err();
        assert!(error.to_string().contains("16 services"), "{error}");
    }

    #[test]
    fn doors_where_the_same_rules_hold_are_of_one_class() {
        let (lan, vpn) = (on(&["eth*"]), on(&["wg0"]));
        let doors = doors(&["eth0", "eth1", "wg0", "ppp0"]);
        let limits = [&lan, &vpn].map(|on| Limits { service: None, on: on.clone() });
        let layout = Layout::new(two(), &[], &limits, &doors).unwrap();
        assert!(layout.is_apart());
        let shifts: BTreeMap<u32, u32> = layout.doors().collect();
        assert_eq!(shifts[&2], shifts[&3]);
        let unlike: BTreeSet<u32> = shifts.values().copied().collect();
        assert_eq!(unlike.len(), 3);
        assert!(!unlike.contains(&0), "the first class is that of unknown doors");
        let pairs = |effect, on: &[Pattern]| {
            let limits = Limits::new(Some("web".into()), on.to_vec());
            layout.pairs(effect, limits.as_deref())
        };
        let at = |door: u32| 0b10 << shifts[&door];
        assert_eq!(pairs(Effect::Allow, &lan), at(2));
        assert_eq!(
            pairs(Effect::Deny, &lan),
            at(2) | 0b10,
            "an unknown door could be one of these"
        );
        assert_eq!(pairs(Effect::Allow, &[]), at(2) | at(4) | at(5) | 0b10);
        assert_eq!(pairs(Effect::Allow, &on(&["usb0"])), 0, "a list that nobody asked for");
    }

    #[test]
    fn at_the_inner_door_what_is_said_of_other_doors_is_left_to_them() {
        let (lan, vpn, bridge) = (on(&["eth*"]), on(&["wg0"]), on(&["docker0"]));
        let mut doors = doors(&["eth0", "wg0"]);
        doors.insert(INNER_DOOR, "inner door".to_owned());
        let limits = [&lan, &vpn, &bridge].map(|on| Limits { service: None, on: on.clone() });
        let layout = Layout::new(two(), &[], &limits, &doors).unwrap();
        let shifts: BTreeMap<u32, u32> = layout.doors().collect();
        let unlike: BTreeSet<u32> = shifts.values().copied().collect();
        assert!(unlike.len() == 3 && !unlike.contains(&0), "{shifts:?}");
        let inner = 0b11 << shifts[&INNER_DOOR];
        let at_inner = |effect, on: &[Pattern]| {
            layout.pairs(effect, Limits::new(None, on.to_vec()).as_deref()) & inner
        };
        for effect in [Effect::Allow, Effect::Deny] {
            assert_eq!([&lan, &vpn].map(|on| at_inner(effect, on)), [0; 2]);
            assert_eq!(at_inner(effect, &bridge), inner, "which no door guards");
            assert_eq!(at_inner(effect, &[]), inner);
        }
        assert_eq!(at_inner(Effect::Allow, &on(&["usb0"])), 0, "a list that nobody asked for");
        let alone = Layout::new(vec![two().remove(0)], &[], [], &doors).unwrap();
        assert!(!alone.is_apart() && alone.doors().next().is_none());
    }

    #[test]
    fn more_pairs_than_bits_are_refused() {
        let services: Vec<_> =
            (0..8).map(|n| service(&format!("s{n}"), Mode::Enforce, 8000 + n)).collect();
        let limits = |n: u16| Limits { service: None, on: on(&[&format!("eth{n}")]) };
        let limits: Vec<Limits> = (0..5).map(limits).collect();
        let names: Vec<String> = (0..5).map(|n| format!("eth{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert!(Layout::new(services.clone(), &[], &limits[..2], &doors(&names[..2])).is_ok());
        let error = Layout::new(services, &[], &limits, &doors(&names)).unwrap_err();
        assert!(error.to_string().contains("8 services at 5 kinds of interfaces"), "{error}");
    }
}
