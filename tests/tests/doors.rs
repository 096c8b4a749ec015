//! The list of interfaces and the choice of doors on real devices.
//!
//! Each test works in network namespaces that belong to its own threads and have no name: the
//! kernel removes them, with every device in them, when the thread ends, however it ends.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use nix::{
    net::if_::if_nameindex,
    sched::{CloneFlags, unshare},
    unistd::gettid,
};
use ollama_guard::doors::{self, Interface, Plan, Selection, Skip, XdpSlots, choose};
use ollama_guard::{config::AttachChoice, dataplane::AttachMode};
use ollama_guard_common::Start;

const ETHERNET: u16 = 1;
const LOOPBACK: u16 = 772;
const NONE: u16 = 65534;

/// Starts a thread in a network namespace of its own.
fn in_new_namespace<T: Send + 'static>(
    body: impl FnOnce() -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace needs root");
        body()
    })
}

/// Waits for a thread; its panic is this one's.
fn join<T>(thread: thread::JoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// `ip` with these arguments, in the namespace of the calling thread.
fn ip(arguments: &str) {
    let output =
        Command::new("ip").args(arguments.split_whitespace()).output().expect("iproute2 is there");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
}

fn list() -> Vec<Interface> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    runtime.expect("a runtime").block_on(doors::list()).expect("the list of interfaces")
}

fn by_name<'a>(interfaces: &'a [Interface], name: &str) -> &'a Interface {
    interfaces.iter().find(|i| i.name == name).unwrap_or_else(|| panic!("{name} is not listed"))
}

fn make_devices() {
    ip("link add veth0 mtu 1400 type veth peer name veth1");
    ip("link add br0 type bridge");
    ip("link add mac0 link veth0 type macvlan");
    ip("link add mac1 link mac0 type macvlan");
    ip("link add mactap0 link veth0 type macvtap");
    ip("link add vx0 type vxlan id 7 dev veth1 dstport 4789");
    ip("link add gpe0 type vxlan dstport 4790 gpe external");
    ip("link add ifb0 type ifb");
    ip("tuntap add dev tun0 mode tun");
    ip("tuntap add dev tap0 mode tap");
    ip("tuntap add dev tap1 mode tap");
    ip("link set tap0 master br0");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn devices_are_listed_as_the_kernel_has_them() {
    join(in_new_namespace(|| {
        make_devices();
        ip("link set br0 up");
        let interfaces = list();
        let expected = [
            ("lo", LOOPBACK, None, None, None),
            ("veth0", ETHERNET, Some("veth"), None, Some("veth1")),
            ("veth1", ETHERNET, Some("veth"), None, Some("veth0")),
            ("br0", ETHERNET, Some("bridge"), None, None),
            ("mac0", ETHERNET, Some("macvlan"), None, Some("veth0")),
            // The kernel puts a macvlan on a macvlan beside it.
            ("mac1", ETHERNET, Some("macvlan"), None, Some("veth0")),
            ("mactap0", ETHERNET, Some("macvtap"), None, Some("veth0")),
            // The kernel tells what a VXLAN device is bound to elsewhere.
            ("vx0", ETHERNET, Some("vxlan"), None, None),
            ("gpe0", NONE, Some("vxlan"), None, None),
            ("ifb0", ETHERNET, Some("ifb"), None, None),
            ("tun0", NONE, Some("tun"), None, None),
            ("tap0", ETHERNET, Some("tun"), Some("br0"), None),
            ("tap1", ETHERNET, Some("tun"), None, None),
        ];
        let ifindex = |name| by_name(&interfaces, name).ifindex;
        for (name, arphrd, kind, master, parent) in expected {
            let interface = by_name(&interfaces, name);
            assert_eq!(interface.arphrd, arphrd, "{name}");
            assert_eq!(interface.kind.as_deref(), kind, "{name}");
            assert_eq!(interface.master, master.map(ifindex), "{name}");
            assert_eq!(interface.parent, parent.map(ifindex), "{name}");
            assert!(interface.parent_is_here, "{name}");
            assert_eq!(interface.xdp, XdpSlots::default(), "{name}");
            assert_eq!(interface.up, name == "br0", "{name}");
        }
        assert_eq!(by_name(&interfaces, "veth0").mtu, 1400);

        let listed: Vec<_> = interfaces.iter().map(|i| i.ifindex).collect();
        let known = if_nameindex().expect("names");
        let mut known: Vec<_> = known.iter().map(|interface| interface.index()).collect();
        known.sort_unstable();
        assert_eq!(listed, known, "every interface once, in order");
    }));
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_parent_in_another_namespace_is_told_from_one_that_is_here() {
    join(in_new_namespace(|| {
        let (thread_id, inner) = mpsc::channel();
        let (start, started) = mpsc::channel::<()>();
        let container = in_new_namespace(move || {
            thread_id.send(gettid()).expect("the test waits");
            started.recv().expect("the test says when");
            list()
        });
        let namespace = inner.recv().expect("the namespace is there");
        ip(&format!("link add veth0 type veth peer name eth0 netns {namespace}"));
        ip("link add mac0 link veth0 type macvlan");
        ip(&format!("link set mac0 netns {namespace}"));
        let host = list();
        start.send(()).expect("the namespace waits");
        let container = join(container);

        assert!(!by_name(&host, "veth0").parent_is_here);
        for name in ["eth0", "mac0"] {
            let interface = by_name(&container, name);
            assert!(interface.parent.is_some() && !interface.parent_is_here, "{interface:?}");
        }
    }));
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_automatic_choice_on_real_devices_takes_the_tunnels_and_leaves_the_plumbing() {
    join(in_new_namespace(|| {
        make_devices();
        for interface in list() {
            ip(&format!("link set {} up", interface.name));
        }
        let selection =
            Selection { named: None, excluded: &|_| false, attach: AttachChoice::default() };
        let guard = |start| Plan::Guard { start, modes: vec![AttachMode::Generic] };
        let plumbing = |kind: &str| Plan::Skip(Skip::ContainerPlumbing { kind: kind.to_owned() });
        let on_plumbing = |kind: &str| {
            Plan::Skip(Skip::OnPlumbing { kind: kind.to_owned(), parent: "veth0".to_owned() })
        };
        let expected = [
            ("lo", Plan::Skip(Skip::Loopback)),
            ("veth0", plumbing("veth")),
            ("veth1", plumbing("veth")),
            ("br0", plumbing("bridge")),
            ("mac0", on_plumbing("macvlan")),
            ("mac1", on_plumbing("macvlan")),
            ("mactap0", on_plumbing("macvtap")),
            ("vx0", guard(Start::Link)),
            ("gpe0", guard(Start::Network)),
            ("ifb0", Plan::Skip(Skip::Silent { kind: "ifb".to_owned() })),
            ("tun0", guard(Start::Network)),
            ("tap0", Plan::Skip(Skip::VirtualMachine { bridge: "br0".to_owned() })),
            ("tap1", guard(Start::Link)),
        ];
        let doors = choose(&list(), &selection);
        for (name, plan) in expected {
            let door = doors.iter().find(|door| door.interface.name == name);
            assert_eq!(door.map(|door| &door.plan), Some(&plan), "{name}");
        }
    }));
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_list_is_complete_while_interfaces_come_and_go() {
    join(in_new_namespace(|| {
        for number in 0..100 {
            ip(&format!("link add fixed{number} type ifb"));
        }
        let is_over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&is_over);
        // A thread is born in the namespace of the one that starts it.
        let churn = thread::spawn(move || {
            let mut rounds = 0;
            while rounds < 1000 && !stop.load(Ordering::Relaxed) {
                ip("link add come0 type veth peer name come1");
                ip("link delete come0");
                rounds += 1;
            }
            rounds
        });
        for _ in 0..300 {
            let interfaces = list();
            let fixed = interfaces.iter().filter(|i| i.name.starts_with("fixed")).count();
            assert_eq!(fixed, 100);
            assert!(interfaces.is_sorted_by(|a, b| a.ifindex < b.ifindex));
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(join(churn) > 0);
    }));
}
