//! What the keeper found and did, for `status`.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use jiff::Timestamp;

use crate::status::Repair;

/// How many are kept.
const KEPT: usize = 16;

/// The last repairs, and what could not be repaired.
#[derive(Debug, Default)]
pub(super) struct Notices {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    repairs: VecDeque<Repair>,
    troubles: Vec<String>,
    /// Repairs since the start.
    repaired: u64,
    /// When the keeper came round last.
    round: Option<Instant>,
}

impl Notices {
    /// Something was not as it should be, and is again.
    pub(super) fn repaired(&self, what: String) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.repaired += 1;
        if inner.repairs.len() == KEPT {
            inner.repairs.pop_front();
        }
        inner.repairs.push_back(Repair { at: Timestamp::now(), what });
    }

    /// What could not be repaired in the last round. Returns what was not known before.
    pub(super) fn set_troubles(&self, troubles: &[String]) -> Vec<String> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = |trouble: &&String| !inner.troubles.contains(trouble);
        let new = troubles.iter().filter(is_new).cloned().collect();
        inner.troubles = troubles.to_vec();
        inner.round = Some(Instant::now());
        new
    }

    /// Everything, the oldest first.
    pub(super) fn repairs(&self) -> Vec<Repair> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.repairs.iter().cloned().collect()
    }

    /// How many there were since the start.
    pub(super) fn repaired_so_far(&self) -> u64 {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).repaired
    }

    /// When the keeper came round last; `None` before it did.
    pub(super) fn last_round(&self) -> Option<Instant> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).round
    }

    /// What could not be repaired.
    pub(super) fn troubles(&self) -> Vec<String> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).troubles.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_new_once_until_it_is_gone() {
        let notices = Notices::default();
        let [one, two] = ["one", "two"].map(str::to_owned);
        let first = [one.clone()];
        assert_eq!(notices.set_troubles(&first), first);
        assert_eq!(notices.set_troubles(&[one, two.clone()]), [two]);
        assert_eq!(notices.set_troubles(&[]), [""; 0]);
        assert_eq!(notices.set_troubles(&first), first);
    }

    #[test]
    fn the_last_repairs_are_kept() {
        let notices = Notices::default();
        for number in 0..KEPT + 3 {
            notices.repaired(number.to_string());
        }
        let repairs = notices.repairs();
        assert_eq!(repairs.len(), KEPT);
        assert_eq!(notices.repaired_so_far(), KEPT as u64 + 3);
        assert_eq!(repairs[0].what, "3");
    }
}
