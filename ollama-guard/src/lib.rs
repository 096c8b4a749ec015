//! The user side of `ollama-guard`: a library with a thin binary.
//!
//! # The architecture, from above
//!
//! An XDP program in the kernel drops every packet to a guarded port whose source is not allowed;
//! where another program holds an interface's XDP slot, a TC program right behind it does. A root daemon loads it, keeps its rules in maps, and streams what it dropped. There are four
//! crates and one contract:
//!
//! * `ollama-guard-common`: the decision itself, [`judge`](ollama_guard_common::judge()), pure and
//!   total on any bytes, and the layouts that both sides share ([`ollama_guard_common::abi`]).
//! * `ollama-guard-ebpf`: adapters around the decision. It reads packets and maps, and does no
//!   arithmetic on packet contents.
//! * this library: everything that runs in user space.
//! * `tests` and `xtask`: the table of packets, the network bed, and the verbs that build and test.
//!
//! # Two one-way streets
//!
//! ```text
//!    DESIRED, downwards                                OBSERVED, upwards
//!
//!    file, environment, flags, `allow add`             stdout, control socket, /metrics
//!              v                                                ^
//!    config: three sources -> Config                            |
//!              v                                                |
//!    policy: text -> rules                             events: bytes -> Record
//!              v                                       dataplane: counters -> Snapshot
//!    policy: compile -> MapImage                                ^
//!              v                                                |
//!    guard: the single writer                                   |
//!              v                                                |
//!    dataplane: swap                                   dataplane: ring, counter maps
//!              v                                                ^
//!    - - - - - - - - - - - - - - - kernel - - - - - - - - - - - - - - - - - - -
//!         rule tables, ports, mode --> hook --> judge(frame, policy) --> Verdict
//! ```
//!
//! They meet only in [`status`], which reads both and writes neither.
//!
//! # The rooms, and who may import whom
//!
//! A room imports only from the rows below its own; `cargo xtask lint` checks it.
//!
//! | row | rooms |
//! | --- | --- |
//! | 1 | `main.rs` |
//! | 2 | [`cli`]: one file for each command |
//! | 3 | [`daemon`]: the composition root, the only one that starts long-lived tasks |
//! | 4 | [`guard`]: the single writer; [`status`]: what is so; [`verify`]: proof of it; [`doctor`]: what this host can do, and the paths around |
//! | 5 | [`control`], [`metrics`], [`audit_log`], [`doors`] |
//! | 6 | [`events`]; [`dataplane`]: the only one that imports aya or has `unsafe` |
//! | 7 | [`config`]: the finished, typed configuration, and the stored rules |
//! | 8 | [`policy`]: prefixes, rules, compile; no input or output; [`boot_clock`]: the clock of the kernel's programs |
//! | 9 | `ollama-guard-common` |
//!
//! # The life of a packet
//!
//! 1. The hook reads one word, once: which policy slot is selected, its mode, and a summary of its
//!    ports. Everything about this packet comes from that slot.
//! 2. Nearly every packet is plain (no options, no extension headers, no fragment), and is read in a
//!    few steps; for any other `locate` walks link, network and extension headers to the ports. Not for
//!    a guarded port, and cannot be: it passes, uncounted, and nothing was looked up.
//! 3. The source is looked up in the slot's table of rules (`ollama_guard_common::trie`): a stranger
//!    whom no rule is near is settled by one bit. A packet that cannot be read to the end passes only
//!    if its source can be read and is allowed.
//! 4. Only now is it reported: the counter of its reason and door, and for a drop an event if the
//!    CPU's budget lasts. Reporting gets the verdict by value and cannot change it.
//! 5. An event goes through the ring to the daemon, which folds the repeats of a source and hands
//!    them to any number of readers ([`events::Journal`]).
//!
//! # The life of a change
//!
//! `allow add 192.0.2.0/24` becomes a request on the control socket. Who asks is the kernel's word;
//! [`control::access`] decides whether they may. Then, on the guard's one thread
//! ([`guard::Guard::edit`]):
//!
//! 1. **validate**: text becomes prefixes, the request a plan, a value; all mistakes are told.
//! 2. **compile**: every rule of every origin into one table ([`policy::compile()`]), or, of a few
//!    rules in a long list, only the parts of the table that they lie in ([`policy::Compiled`]). Too
//!    big is known here.
//! 3. **store**: the state directory, synced: a line more, or the whole file replaced.
//! 4. **write beside**: a new table, into the slot that no packet looks at.
//! 5. **switch**: one word. Every packet gets the old policy or the new one.
//! 6. **wait a grace period**: until no packet is judged by the old slot; then the answer goes out,
//!    and a line into the audit log, which has the refused changes too.
//!
//! A failure before the switch leaves rules, file and kernel as they were.
//!
//! # Start-up order, and why
//!
//! [`config::read`] first: a mistake in a file touches nothing, and the last good configuration takes its
//! place if there is one ([`daemon::launch()`]). Then, in `daemon.rs`:
//!
//! 1. signals, so that none is lost; the state directory, the stored rules, the audit log.
//! 2. the interfaces are listed and chosen. Nothing was touched so far.
//! 3. the lock on the pin directory; the program of most doors is loaded over the pinned maps if
//!    these are what they should be, and over new ones otherwise. What was attached goes on.
//! 4. the control socket is bound, though nobody answers yet.
//! 5. into new maps, **the policy before programs are attached**: none ever runs without one.
//! 6. **programs into links**, what can fail first: new links where there are none, then the new
//!    program into the pinned ones, in place, without a gap. Should a door fail that was asked for
//!    by name, the new links are taken back, and a running filter was not touched.
//! 7. **commit**: the programs that no door has wanted are loaded too, all become the pinned ones, and
//!    what they replace goes. A daemon
//!    that dies before leaves pins that the next one can use.
//! 8. into adopted maps, **the policy last**: the one that they hold stays in force until nothing
//!    can fail any more.
//! 9. the port of the metrics is bound, and the daemon gives up what it does not need any more.
//!    [`daemon::Daemon::run`] reads the ring, serves socket and metrics and keeps the doors until a
//!    signal or `detach`. The service manager is told that it is ready when test packets through the
//!    programs, and the rules read back, have proven that it holds (`daemon/readiness.rs`).
//!
//! # While it runs
//!
//! The keeper (`daemon/keeper.rs`) lists the interfaces whenever the kernel says that one has
//! changed, and every other second without being told; the tender (`daemon/tender.rs`), on the
//! guard's thread, compares what there is with what there should be: pins, links, the programs
//! that they run, the policy read back from the maps. What is pinned is also held open
//! (`dataplane/held.rs`), so that a pin that is lost loses nothing. What is put right is told in
//! the log and by `status`. A filter is only ever taken from an interface that is gone.
//!
//! While somebody learns who uses a port (`daemon/learn.rs`), the links run variants of the programs that
//! also count by source (`dataplane/learning.rs`); [`policy::proposal`] makes a list of what was seen.
//!
//! # Invariants, and what is deliberately absent
//!
//! * What filters is pinned. There is **no clean-up at exit**: ending, in whatever way, opens
//!   nothing. Only [`dataplane::detach_all`] does.
//! * There is one writer ([`guard`]) and one reader of the ring. There are **no locks** around
//!   rules.
//! * Pins are checked (type, sizes, flags) before they are trusted, and pins of another layout are
//!   **never reinterpreted**: the layout's number is part of the path.
//! * The decision exists once. `explain` runs the loaded program's twin in the kernel; there is
//!   **no second implementation** that could differ, and **no marker in a packet** that changes
//!   what is counted.
//! * Checksums, MAC addresses and VLAN numbers decide nothing, nor do length fields, but for the
//!   end of an IPv6 first fragment. There is **no
//!   connection state**, and **no name is looked up by a packet**: the guard's rules are addresses, and those
//!   that host names come to are brought by a room with a clock of its own ([`names`]).
//! * A taken XDP slot is **never ours to clear**: the guard stands behind it, at TC ingress.
//! * Status is read from kernel and netlink, **never from the daemon's memory**.
//! * Versions of kernels are **not compared**: features are probed.
//! * **Not yet**: the inner door (cgroup_skb).
//!
//! What is promised, with the test behind each promise, stands in `docs/promises.md` beside this
//! crate's manifest, and every way past that we know in `docs/packets.md`.
//!
//! # Where to start reading
//!
//! The decision: `ollama-guard-common/src/judge.rs`, then `parse.rs`. The kernel side:
//! `ollama-guard-ebpf/src/hooks/xdp.rs`. A change: `guard.rs`, `guard/plan.rs`,
//! `policy/compile.rs`, `dataplane/slots.rs`. The whole: `daemon.rs`.

pub mod audit_log;
pub mod boot_clock;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod dataplane;
pub mod doctor;
pub mod doors;
pub mod events;
pub mod guard;
pub mod metrics;
pub mod names;
pub mod policy;
pub mod status;
pub mod verify;
