//! What is told about covering an interface.

use super::Wanted;
use crate::{
    config::AttachChoice,
    dataplane::{AttachMode, Outcome},
    doctor,
};

/// What attaching may do to an interface that appeared while the daemon runs, before it is done.
pub(in crate::daemon) fn warn_before(wanted: &Wanted<'_>) {
    if wanted.target.modes.first() == Some(&AttachMode::Native) {
        tracing::warn!("{}", doctor::before_native(wanted.interface));
    }
}

/// Which door, how, and why so.
pub(in crate::daemon) fn say(wanted: &Wanted<'_>, outcome: &Outcome) {
    let name = &wanted.interface.name;
    let Some(mode) = outcome.mode else {
        let hook = outcome.hook;
        let why = outcome.why_not_xdp.as_deref().unwrap_or("XDP can't be had");
        let behind = if wanted.target.occupied.is_some() {
            "; what that program redirects or transmits itself never reaches the guard"
        } else {
            ""
        };
        tracing::warn!("guarding {name} by {hook}: {why}{behind}");
        return;
    };
    let refused: Vec<String> = outcome
        .refused
        .iter()
        .map(|(mode, error)| format!("{mode} was refused: {error}"))
        .collect();
    let why = match (wanted.attach, refused.is_empty(), mode) {
        (_, false, _) => refused.join(", "),
        (AttachChoice::Native | AttachChoice::Generic, ..) => "as asked for".into(),
        (AttachChoice::Auto, _, AttachMode::Native) => {
            "the driver takes it; should the link have dropped for a moment, or offloads be off \
             now: `--attach generic` does without its help"
                .into()
        }
        (AttachChoice::Auto, _, AttachMode::Generic) => {
            "a software device, where native mode would slow everybody's bulk traffic down".into()
        }
    };
    tracing::info!("guarding {name} in {mode} mode ({why})");
}
