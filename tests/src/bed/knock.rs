//! Everybody asks the server, all at once.

use std::{fmt, net::SocketAddr, panic::resume_unwind, thread, time::Duration};

use anyhow::{Result, bail};

use super::{Answer, Bed, Host, get, patience};
use crate::policy::GUARDED;

/// How long a client waits that is expected to be served. Long: the machine may be busy.
const SERVED_PATIENCE: Duration = Duration::from_secs(5);
/// How long a client waits that is expected to get nothing: the first SYN and its first repeat.
const SILENT_PATIENCE: Duration = Duration::from_millis(1500);

/// One client's question and what came of it.
#[derive(Clone, Debug)]
pub struct Knock {
    /// The client's namespace.
    pub client: String,
    /// Whether the client is the friend.
    pub is_friend: bool,
    /// What it asked.
    pub server: SocketAddr,
    /// What it got.
    pub answer: Answer,
}

impl fmt::Display for Knock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} got {:?}", self.client, self.server, self.answer)
    }
}

/// Every client asks the guarded port for `/`, in each family that it speaks, at the same time.
///
/// # Errors
///
/// If a client's own side fails.
pub fn knock(bed: &Bed, patience: impl Fn(&Host) -> Duration) -> Result<Vec<Knock>> {
    let questions: Vec<_> = bed
        .clients()
        .into_iter()
        .flat_map(|client| client.servers(GUARDED).into_iter().map(move |server| (client, server)))
        .collect();
    thread::scope(|scope| {
        let asking: Vec<_> = questions
            .into_iter()
            .map(|(client, server)| {
                let patience = patience(client);
                let is_friend = std::ptr::eq(client, &raw const bed.friend);
                scope.spawn(move || -> Result<Knock> {
                    let answer = get(&client.namespace, server, "/", patience)?;
                    let client = client.namespace.name().to_owned();
                    Ok(Knock { client, is_friend, server, answer })
                })
            })
            .collect();
        asking
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    })
}

/// Makes sure that nobody is shut out.
///
/// # Errors
///
/// If somebody is; the message says who.
pub fn everyone_is_served(bed: &Bed) -> Result<()> {
    for knock in knock(bed, |_| patience(SERVED_PATIENCE))? {
        if !knock.answer.is_served() {
            bail!("without a guard, {knock}");
        }
    }
    Ok(())
}

/// Makes sure that the friend is served in both families, and that strangers hear nothing at all.
///
/// # Errors
///
/// If it is not so; the message says who got what.
pub fn only_the_friend_is_served(bed: &Bed) -> Result<()> {
    let waits = |client: &Host| {
        if std::ptr::eq(client, &raw const bed.friend) {
            patience(SERVED_PATIENCE)
        } else {
            SILENT_PATIENCE
        }
    };
    for knock in knock(bed, waits)? {
        let is_right = if knock.is_friend {
            knock.answer.is_served()
        } else {
            knock.answer == Answer::NoAnswer
        };
        if !is_right {
            bail!("with the guard, {knock}");
        }
    }
    Ok(())
}
