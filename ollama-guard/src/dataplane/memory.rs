//! This process's own memory: a daemon that is idle for days has no use for what one long list took.
//!
//! In this room because others may do nothing that the compiler can't check.

/// Has the C library keep little of what is freed. Called once, before there are other threads.
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    {
        /// What is larger is given back when it is freed, and not kept because something lies behind it.
        const LARGE: libc::c_int = 128 << 10;
        // SAFETY: takes numbers.
        let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
        // One heap for all threads: nothing here allocates in a hurry, and of the others' heaps
        // `malloc_trim` leaves the ends.
        // SAFETY: as above.
        let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    }
}

/// Gives back what is free. The C library keeps it for the next time, wherever its pieces lie.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number, and touches nothing that is in use.
    let _ = unsafe { libc::malloc_trim(0) };
}
