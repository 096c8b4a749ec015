//! Which test programs run on other kernels, and which do not.

/// The test programs that run in the guests: the packet table, the costs, the life cycle, and what
/// else depends on what a kernel does with attached programs.
pub const RUN: [&str; 6] = ["budget", "kernel", "lifecycle", "attach", "foreign", "services"];

/// Those that do not, and why.
pub const LEFT_OUT: [(&[&str], &str); 8] = [
    (
        &[
            "capacity",
            "doctor",
            "documented",
            "doors",
            "errors",
            "expiry",
            "history",
            "last_good",
            "log",
            "manifests",
            "mode",
            "policy",
            "reload",
            "supervised",
        ],
        "about the user side, which is the same program on every kernel",
    ),
    (
        &["drift", "inner_life", "learn", "trial", "watch"],
        "keep to seconds, for which an emulated processor is too slow",
    ),
    (
        &["drivers", "layout", "privileges", "scope", "service", "verify"],
        "about this machine's accounts, interfaces, programs, drivers and builds: not tried in a guest",
    ),
    (&["metrics", "top"], "need Prometheus and a terminal, which a guest does not have"),
    (&["paths"], "runs the programs on a machine of its own, without a kernel"),
    (&["speed"], "measures time, which an emulated processor does not show"),
    (
        &["bed", "container", "inner", "names", "strangers", "traffic", "tunnel"],
        "need curl, dnsmasq, nft, nmap, podman, socat, scapy or tcpdump, which a guest does not have",
    ),
    (
        &["books", "evasion", "faults", "hostile", "inject", "lpm", "oracle", "ordinary", "soak"],
        "floods, captures and faults by the hundred: minutes on real hardware, hours when emulated; \
         their packets are rows of the table",
    ),
];
