//! What `status --json` says. The only file that knows the names of its fields.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use ollama_guard_common::{Mode, Reason};
use serde_json::Value;

/// One answer of `status --json`.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    json: Value,
}

/// One door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// The interface.
    pub name: String,
    /// Whether it is guarded.
    pub is_covered: bool,
    /// `xdp`, `tcx`, `clsact` or `cgroup`.
    pub hook: Option<String>,
    /// Whether it drops nothing, whatever the policy says.
    pub observes: bool,
    /// The program of somebody else in the XDP slot.
    pub behind: Option<u64>,
    /// At XDP, `native` or `generic`.
    pub attach: Option<String>,
    /// The attached program.
    pub program: Option<u64>,
    /// The link that holds it.
    pub link: Option<u64>,
    /// Why it is not covered.
    pub reason: Option<String>,
}

/// The books of one mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Book {
    /// Packets that were to be dropped.
    pub dropped: u64,
    /// Events put into the ring.
    pub submitted: u64,
    /// Events not tried.
    pub suppressed: u64,
    /// Events tried in vain.
    pub lost: u64,
}

impl Book {
    /// Whether every drop is accounted for.
    #[must_use]
    pub const fn balances(&self) -> bool {
        self.dropped == self.submitted + self.suppressed + self.lost
    }
}

impl Status {
    /// Reads the output of `status --json`.
    ///
    /// # Errors
    ///
    /// If it is no JSON.
    pub fn parse(text: &str) -> Result<Self> {
        let json =
            serde_json::from_str(text).with_context(|| format!("the status is no JSON: {text}"))?;
        Ok(Self { json })
    }

    /// `enforce` or `observe`.
    ///
    /// # Errors
    ///
    /// If it does not say so; likewise all below.
    pub fn mode(&self) -> Result<String> {
        self.text("/mode")
    }

    /// The number of the policy in force.
    pub fn generation(&self) -> Result<u64> {
        self.number("/generation")
    }

    /// Prefixes in force, IPv4 and IPv6.
    pub fn prefixes(&self) -> Result<(u64, u64)> {
        Ok((self.number("/rules/v4")?, self.number("/rules/v6")?))
    }

    /// Prefixes of each family that there is room for.
    pub fn capacity(&self) -> Result<u64> {
        self.number("/rules/capacity")
    }

    /// The guarded ports, as they are written: text, whatever its form in JSON.
    pub fn ports(&self) -> Result<Vec<String>> {
        let ports = self.at("/ports")?.as_array().context("status: ports is no list")?;
        Ok(ports
            .iter()
            .map(|port| port.as_str().map_or_else(|| port.to_string(), str::to_owned))
            .collect())
    }

    /// Every door.
    pub fn doors(&self) -> Result<Vec<Door>> {
        let doors = self.at("/doors")?.as_array().context("status: doors is no list")?;
        doors
            .iter()
            .map(|door| {
                let text = |name: &str| door[name].as_str().map(str::to_owned);
                Ok(Door {
                    name: text("name").context("status: a door without a name")?,
                    is_covered: door["state"] == "covered",
                    hook: text("hook"),
                    observes: door["observes"] == true,
                    behind: door["behind"].as_u64(),
                    attach: text("attach"),
                    program: door["program_id"].as_u64(),
                    link: door["link_id"].as_u64(),
                    reason: text("reason"),
                })
            })
            .collect()
    }

    /// The door with this name.
    pub fn door(&self, name: &str) -> Result<Door> {
        let doors = self.doors()?;
        doors.into_iter().find(|door| door.name == name).with_context(|| format!("no door {name}"))
    }

    /// Packets with this reason while this mode was in force. A reason that is not mentioned has
    /// not been counted.
    pub fn counter(&self, mode: Mode, reason: Reason) -> Result<u64> {
        let counters = self.at("/counters")?;
        Ok(counters[reason.name()][mode.name()].as_u64().unwrap_or(0))
    }

    /// The same at one door.
    pub fn counter_at(&self, door: &str, mode: Mode, reason: Reason) -> Result<u64> {
        let doors = self.at("/doors")?.as_array().context("status: doors is no list")?;
        let door = doors.iter().find(|one| one["name"] == door).context("no such door")?;
        Ok(door["counts"][mode.name()][reason.name()].as_u64().unwrap_or(0))
    }

    /// Packets that were to be dropped while this mode was in force, by the counters of the
    /// reasons.
    pub fn drops(&self, mode: Mode) -> Result<BTreeMap<&'static str, u64>> {
        Reason::ALL
            .iter()
            .filter(|reason| reason.verdict() == ollama_guard_common::Verdict::Drop)
            .map(|reason| Ok((reason.name(), self.counter(mode, *reason)?)))
            .collect()
    }

    /// The books of a mode.
    pub fn book(&self, mode: Mode) -> Result<Book> {
        let number = |name: &str| self.number(&format!("/books/{}/{name}", mode.name()));
        Ok(Book {
            dropped: number("dropped")?,
            submitted: number("submitted")?,
            suppressed: number("suppressed")?,
            lost: number("lost")?,
        })
    }

    /// Events that were taken out of the ring, and that wait in it.
    pub fn ring(&self) -> Result<(u64, u64)> {
        Ok((self.number("/ring/read")?, self.number("/ring/unread")?))
    }

    /// Whether every door that should be covered is, by what should be there.
    pub fn is_enforcing(&self) -> Result<bool> {
        self.at("/enforcing")?.as_bool().context("status: enforcing is no boolean")
    }

    /// What is wrong.
    pub fn problems(&self) -> Result<Vec<String>> {
        texts(self.at("/problems")?)
    }

    /// What the daemon has put right.
    pub fn repairs(&self) -> Result<Vec<String>> {
        let repairs = self.json.pointer("/daemon/repairs").and_then(Value::as_array);
        let repairs = repairs.map(Vec::as_slice).unwrap_or_default();
        repairs
            .iter()
            .map(|repair| Ok(repair["what"].as_str().context("a repair of nothing")?.to_owned()))
            .collect()
    }

    /// Whether a daemon runs.
    pub fn daemon_runs(&self) -> Result<bool> {
        self.at("/daemon/running")?.as_bool().context("status: daemon.running is no boolean")
    }

    fn at(&self, pointer: &str) -> Result<&Value> {
        self.json
            .pointer(pointer)
            .with_context(|| format!("the status has no {pointer}: {}", self.json))
    }

    fn number(&self, pointer: &str) -> Result<u64> {
        self.at(pointer)?.as_u64().with_context(|| format!("status: {pointer} is no number"))
    }

    fn text(&self, pointer: &str) -> Result<String> {
        Ok(self
            .at(pointer)?
            .as_str()
            .with_context(|| format!("status: {pointer} is no text"))?
            .to_owned())
    }
}

fn texts(list: &Value) -> Result<Vec<String>> {
    let list = list.as_array().context("status: no list")?;
    list.iter().map(|text| Ok(text.as_str().context("status: no text")?.to_owned())).collect()
}
