//! Who is at the other end of a connection, as the kernel says.

use std::{ffi::CString, time::Duration};

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use tokio::{net::unix::UCred, task::spawn_blocking, time::timeout};

use super::access::GROUP;

/// How long the user database may take. It may stand on another machine.
const LOOKUP_TIME: Duration = Duration::from_secs(5);

/// A client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its user, from the socket (`SO_PEERCRED`).
    pub uid: u32,
    /// Its primary group, from the socket.
    pub gid: u32,
    /// Its process, from the socket, if that is visible from here.
    pub pid: Option<i32>,
    /// The user's name, from the user database.
    pub user: Option<String>,
    /// The user's groups, from the user database. Empty if they could not be found, which gives
    /// the client no more than it has without them.
    pub groups: Vec<u32>,
}

impl Peer {
    /// Who it is, as rules and people remember it.
    #[must_use]
    pub fn name(&self) -> String {
        self.user.clone().unwrap_or_else(|| format!("uid {}", self.uid))
    }

    /// Adds what the user database knows to what the kernel says.
    pub(super) async fn identify(credentials: UCred) -> Self {
        let (uid, gid) = (credentials.uid(), credentials.gid());
        let lookup = spawn_blocking(move || look_up(uid));
        let (user, groups) = match timeout(LOOKUP_TIME, lookup).await {
            Ok(Ok(found)) => found,
            Ok(Err(_)) | Err(_) => {
                tracing::warn!(uid, "the user database does not answer: groups are not known");
                (None, Vec::new())
            }
        };
        Self { uid, gid, pid: credentials.pid(), user, groups }
    }
}

fn look_up(uid: u32) -> (Option<String>, Vec<u32>) {
    let user = match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => user,
        Ok(None) => return (None, Vec::new()),
        Err(error) => {
            tracing::warn!(uid, %error, "cannot look the user up: its groups are not known");
            return (None, Vec::new());
        }
    };
    let groups = CString::new(user.name.as_str())
        .ok()
        .and_then(|name| getgrouplist(&name, user.gid).ok())
        .unwrap_or_default();
    (Some(user.name), groups.into_iter().map(Gid::as_raw).collect())
}

/// The group id of [`GROUP`], if the group exists.
///
/// # Errors
///
/// If the group database cannot be read.
pub fn group_id() -> Result<Option<u32>, nix::Error> {
    Ok(Group::from_name(GROUP)?.map(|group| group.gid.as_raw()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_a_name_and_its_group() {
        let (user, groups) = look_up(0);
        assert_eq!(user.as_deref(), Some("root"));
        assert!(groups.contains(&0));
    }

    #[test]
    fn a_user_without_an_entry_has_no_groups() {
        assert_eq!(look_up(4_000_000_001), (None, Vec::new()));
    }
}
