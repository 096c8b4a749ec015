//! Whether a pinned program, its twin and the pinned maps belong together.

use std::os::fd::AsFd as _;

use aya::{maps::MapInfo, programs::ProgramInfo};
use ollama_guard_common::{Start, abi::maps as names};

use super::{DataplaneError, PinDir, Result, links::Hook, pins, sys};

/// The maps that decide.
pub(super) const POLICY: [&str; 3] = [names::POLICY, names::RULES, names::ADDRESSES];

/// What stands against taking the twin's answers for those of the pinned program, a sentence each:
/// they are two programs with the same instructions, and both read the pinned maps.
///
/// # Errors
///
/// If a pin is missing or is not what it should be.
pub fn twin_problems(pins: &PinDir, hook: Hook, start: Start) -> Result<Vec<String>> {
    let name = pins::program_name(hook, start);
    let program = program_info(pins, name)?;
    let twin = program_info(pins, pins::twin_name(hook, start))?;
    let mut problems = Vec::new();
    if program.id() == twin.id() {
        problems.push(format!(
            "program {} is pinned as its own twin: it is made for test runs and filters nothing",
            program.id()
        ));
    }
    if program.tag() != twin.tag() {
        problems.push(format!("the twin of the {name} program has other instructions"));
    }
    let learning = pins::learning_name(hook, start);
    if program.tag() != program_info(pins, learning)?.tag() {
        problems
            .push(format!("the variant of the {name} program that learns has other instructions"));
    }
    for (who, pin, maps) in [
        (format!("the {name} program"), name, &names::ALL[..]),
        (format!("the variant of the {name} program that learns"), learning, &names::ALL[..]),
        (format!("the twin of the {name} program"), pins::twin_name(hook, start), &POLICY[..]),
    ] {
        let path = pins.current().join(pin);
        let used = sys::obj_get(&path)
            .and_then(|program| sys::map_ids(program.as_fd()))
            .map_err(DataplaneError::pin("look at", path))?;
        // The inner door has a number of its own, and no interface.
        let is_used = |map: &&&str| hook != Hook::Cgroup || **map != names::DOORS;
        for map in maps.iter().filter(is_used) {
            let path = pins.current().join(map);
            let pinned = MapInfo::from_pin(&path)
                .map_err(|error| DataplaneError::ForeignPin { path, problem: error.to_string() })?;
            if !used.contains(&pinned.id()) {
                problems.push(format!("{who} uses another map than the pinned {map}"));
            }
        }
    }
    Ok(problems)
}

fn program_info(pins: &PinDir, name: &str) -> Result<ProgramInfo> {
    let path = pins.current().join(name);
    ProgramInfo::from_pin(&path)
        .map_err(|error| DataplaneError::ForeignPin { path, problem: error.to_string() })
}
