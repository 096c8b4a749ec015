//! What the tests of `ollama-guard` stand on.
//!
//! * [`packet`]: packets, written as sentences.
//! * [`policy`]: the fixed policies of the packet table, and a host model of them.
//! * [`table`]: the one table of packets with the verdict and the reason of each. It runs on the
//!   host and through the loaded kernel object.
//! * [`loaded`]: the kernel object itself, without a daemon.
//! * [`lpm`]: the rules in the kernel's own LPM tries, to compare the guard's tables with.
//! * [`budget`]: what the programs cost the verifier, and the record of it.
//! * [`paths`]: what each kind of packet costs the program, counted.
//! * [`bed`]: network namespaces with a server, a friend, strangers, and the real daemon.
//! * [`faults`]: the real daemon under a tracer that makes its system calls fail.
//! * [`oracle`]: packets made by chance, and real servers without and with the guard that get them.
//! * [`soak`]: everything at once, for minutes.
//! * [`bench`]: what the guard costs, beside what people would use instead.
//! * [`demo`]: the main job, played for an audience.
//! * [`cluster`]: the chart in a real Kubernetes, with a real LLM server behind the guard.
//! * [`deployment`]: the Kubernetes manifests and the chart, as kubectl and helm render them.
//! * [`machine`]: a Debian that a real systemd boots, on the network of a bed's server.
//! * [`package`]: the Debian package in such a machine, from installation to purge.
//! * [`terminal`]: pictures of what a terminal shows, for documentation.
//!
//! Everything here is bounded in count and time and cleans up after itself, also on a panic.

#![forbid(unsafe_code)]

pub mod bed;
pub mod bench;
pub mod budget;
pub mod cluster;
pub mod demo;
pub mod deployment;
pub mod faults;
pub mod loaded;
pub mod lpm;
pub mod machine;
pub mod oracle;
pub mod package;
pub mod packet;
pub mod paths;
pub mod policy;
pub mod soak;
pub mod table;
pub mod terminal;
