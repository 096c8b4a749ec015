//! Who may do what: one pure function.

use thiserror::Error;

use super::peer::Peer;

/// The group whose members may talk to the daemon.
pub const GROUP: &str = "ollama-guard";

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// See status, rules or events.
    Read,
    /// Change the rules.
    Change,
    /// Take the guard out of the kernel.
    Detach,
}

/// The rules of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessRules {
    /// The user that the daemon runs as.
    pub service_uid: u32,
    /// The group id of [`GROUP`], if the group exists.
    pub group: Option<u32>,
    /// Whether members of the group may change rules.
    pub group_may_edit: bool,
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Denied {
    /// Neither root nor the service nor a member of the group.
    #[error(
        "user id {uid} may not talk to the guard: use sudo, or have the user added to the group \
         `{GROUP}` (`usermod -aG {GROUP} NAME`) and log in again"
    )]
    Stranger {
        /// Who asked.
        uid: u32,
    },
    /// A member of the group who may only read.
    #[error(
        "members of the group `{GROUP}` may read but not change rules: use sudo, or set \
         `group_may_edit = true` under `[control]` in the configuration"
    )]
    ReadOnly,
    /// A member of the group who asked for what is root's.
    #[error("only root and the daemon's own user may detach the guard: use sudo")]
    DetachIsRoots,
}

/// Whether this is root or the daemon's own user. They may do everything.
#[must_use]
pub const fn is_privileged(uid: u32, rules: &AccessRules) -> bool {
    uid == 0 || uid == rules.service_uid
}

/// Decides.
///
/// # Errors
///
/// Why not, and what the client can do about it.
pub fn decide(peer: &Peer, action: Action, rules: &AccessRules) -> Result<(), Denied> {
    if is_privileged(peer.uid, rules) {
        return Ok(());
    }
    let member = rules.group.is_some_and(|group| peer.gid == group || peer.groups.contains(&group));
    if !member {
        return Err(Denied::Stranger { uid: peer.uid });
    }
    match action {
        Action::Read => Ok(()),
        Action::Change if rules.group_may_edit => Ok(()),
        Action::Change => Err(Denied::ReadOnly),
        Action::Detach => Err(Denied::DetachIsRoots),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: AccessRules =
        AccessRules { service_uid: 990, group: Some(991), group_may_edit: false };
    const ALL: [Action; 3] = [Action::Read, Action::Change, Action::Detach];

    fn peer(uid: u32, gid: u32, groups: &[u32]) -> Peer {
        Peer { uid, gid, pid: Some(1), user: None, groups: groups.to_vec() }
    }

    fn answers(peer: &Peer, rules: &AccessRules) -> [bool; 3] {
        ALL.map(|action| decide(peer, action, rules).is_ok())
    }

    #[test]
    fn root_and_the_service_may_do_everything() {
        for uid in [0, 990] {
            assert_eq!(answers(&peer(uid, 12, &[]), &RULES), [true; 3]);
            assert_eq!(
                answers(&peer(uid, 12, &[]), &AccessRules { group: None, ..RULES }),
                [true; 3]
            );
        }
    }

    #[test]
    fn members_may_read_and_change_only_if_configured() {
        for member in [peer(1000, 991, &[]), peer(1000, 1000, &[27, 991])] {
            assert_eq!(answers(&member, &RULES), [true, false, false]);
            let editing = AccessRules { group_may_edit: true, ..RULES };
            assert_eq!(answers(&member, &editing), [true, true, false]);
            assert_eq!(decide(&member, Action::Change, &RULES), Err(Denied::ReadOnly));
            assert_eq!(decide(&member, Action::Detach, &editing), Err(Denied::DetachIsRoots));
        }
    }

    #[test]
    fn anybody_else_may_nothing() {
        let editing = AccessRules { group_may_edit: true, ..RULES };
        let absent = AccessRules { group: None, ..editing };
        for stranger in [peer(1000, 1000, &[27]), peer(65_534, 65_534, &[]), peer(991, 0, &[0])] {
            for rules in [&RULES, &editing, &absent] {
                assert_eq!(answers(&stranger, rules), [false; 3]);
            }
        }
        assert_eq!(answers(&peer(1000, 991, &[991]), &absent), [false; 3]);
    }

    #[test]
    fn every_refusal_says_what_to_do() {
        for denied in [Denied::Stranger { uid: 5 }, Denied::ReadOnly, Denied::DetachIsRoots] {
            assert!(denied.to_string().contains("sudo"));
        }
    }
}
