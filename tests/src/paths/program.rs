//! The object's instructions and maps, as the loader would hand them to the kernel, with a policy.

use std::collections::{HashMap, HashSet};

use anyhow::{Context as _, Result, ensure};
use aya_obj::{Map, Object};
use bytemuck::Zeroable as _;
use ipnet::IpNet;
use ollama_guard::{
    dataplane::{embedded_object, is_embedded},
    policy::{Effect, MapImage, Policy, Port, Prefix, Service, compile},
};
use ollama_guard_common::{
    Mode,
    abi::{
        FIRST_DOOR, PolicyTable, RuleBlock, Selection, SlotInfo, door_places, door_word, globals,
        guarded_by, maps, port_at, programs,
    },
};

use super::machine::{Machine, Memory};

/// The number of the one door.
pub const IFINDEX: u32 = 7;

/// The program for devices with an Ethernet header, with these rules for the guarded port.
///
/// # Errors
///
/// If the object is not what it should be.
pub fn machine(allow: &[IpNet], deny: &[IpNet]) -> Result<Machine> {
    let image = image(allow, deny)?;
    ensure!(is_embedded(), "the guard was built without its kernel program: `cargo xtask test`");
    let mut object = Object::parse(embedded_object())?;
    let yes = 1_u32.to_ne_bytes();
    object.patch_map_data(HashMap::from([
        (globals::REPORT, (&yes[..], true)),
        (globals::LOAD_BYTES, (&yes[..], true)),
    ]))?;
    let mut named: Vec<(String, Map)> = object.maps.drain().collect();
    named.sort_by(|(one, _), (other, _)| one.cmp(other));
    let mut memories = Vec::new();
    let mut descriptors = Vec::new();
    for (name, map) in &named {
        descriptors.push(memories.len() as i32);
        memories.extend(memory(name, map, &image));
    }
    let maps = named.iter().zip(&descriptors).map(|((name, map), fd)| (name.as_str(), *fd, map));
    let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_maps(maps, &sections)?;
    object.relocate_calls(&sections)?;
    let program = object.programs.get(programs::LINK_FRAGS).context("no such program")?;
    let function = object.functions.get(&program.function_key()).context("no such function")?;
    Ok(Machine::new(function.instructions.clone(), memories))
}

fn image(allow: &[IpNet], deny: &[IpNet]) -> Result<MapImage> {
    let mut rules = Vec::new();
    for (nets, effect) in [(allow, Effect::Allow), (deny, Effect::Deny)] {
        for net in nets {
            rules.push((Prefix::try_from(*net)?, effect));
        }
    }
    let service = Service::ollama(Mode::Enforce, [Port::OLLAMA]);
    Ok(compile(&Policy::plain(service, rules, 65_536)?)?)
}

/// A map as it is when the policy is in force; of an array of maps the maps as well, behind it.
fn memory(name: &str, map: &Map, image: &MapImage) -> Vec<Memory> {
    let entries = map.max_entries() as usize;
    let mut memory = Memory::new(name, map.value_size() as usize, entries);
    if !map.data().is_empty() {
        memory.write(0, map.data());
    }
    match name {
        maps::POLICY => memory.write(0, bytemuck::bytes_of(&*table(image))),
        maps::DOORS => {
            let [place, _] = door_places(IFINDEX);
            let word = door_word(IFINDEX, FIRST_DOOR);
            memory.write(place as usize * 8, &word.to_ne_bytes());
        }
        maps::RULES => {
            memory.is_outer = true;
            let words = &image.rules.words;
            let blocks = (words.len() * 8).div_ceil(size_of::<RuleBlock>());
            let mut rules = Memory::new("rules", size_of::<RuleBlock>(), blocks);
            rules.write(0, bytemuck::cast_slice(words));
            let empty = Memory::new("rules", size_of::<RuleBlock>(), 1);
            return vec![memory, rules, empty];
        }
        _ => {}
    }
    vec![memory]
}

fn table(image: &MapImage) -> Box<PolicyTable> {
    let mut table = Box::new(PolicyTable::zeroed());
    let mut selection = Selection::new(0, image.mode, image.scope, image.protocols);
    for &(place, service) in &image.ports {
        table.ports[0][place as usize / 2] |= guarded_by(service) << (place % 2 * 4);
        let port = port_at(place as usize).map_or(0, |(_, port)| port);
        selection = selection.with_port(port);
    }
    table.selection = selection.0;
    let (first4, first6) = image.rules.firsts();
    let (root4, root6) = (image.rules.root4, image.rules.root6);
    table.slots[0] = SlotInfo { root4, root6, first4, first6, ..SlotInfo::default() };
    table
}
