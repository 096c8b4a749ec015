//! The doctor finds what is there, and says nothing of what is not.
//!
//! Each test builds a situation in a namespace (real rules, listeners, devices, settings, processes
//! under the names of the real ones) and looks at it by the released binary, with the situation and
//! without it.
//!
//! Long because every finding has its situation here, and each is a few lines.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aya::programs::XdpMode;
use ollama_guard_tests::{
    bed::{
        CABLE_MTU, Foreign, Guard, GuardSetup, Namespace, Pair, Process, SERVER_DOOR, Standin,
        XDP_PASS, guard_binary, run, start,
    },
    policy::{FRIEND4, GUARDED},
};
use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);
/// On bpffs, and nothing is there.
const NO_PINS: &str = "/sys/fs/bpf/og-test-doctor-without-a-guard";

/// What the doctor said.
struct Diagnosis {
    code: Option<i32>,
    json: Value,
}

impl Diagnosis {
    fn of(mut command: Command) -> Result<Self> {
        let finished = run(&mut command, PATIENCE)?;
        let json = serde_json::from_str(&finished.stdout)
            .with_context(|| format!("no JSON: {}{}", finished.stdout, finished.stderr))?;
        Ok(Self { code: finished.code, json })
    }

    fn finding(&self, code: &str) -> Option<&Value> {
        self.json["findings"].as_array()?.iter().find(|finding| finding["code"] == code)
    }

    /// The finding, which has to be there once, be this bad, and have all of these words in it.
    fn expect(&self, code: &str, severity: &str, words: &[&str]) -> Result<&Value> {
        let finding = self.finding(code).with_context(|| format!("no {code}: {}", self.json))?;
        ensure!(finding["severity"] == severity, "{finding}");
        let text = format!("{} -> {}", finding["what"], finding["advice"]);
        for word in words {
            ensure!(text.contains(word), "no {word:?} in: {text}");
        }
        let is_bad = matches!(severity, "open" | "lacks" | "hurts");
        ensure!(!is_bad || self.code == Some(1), "{code}, but exit status {:?}", self.code);
        Ok(finding)
    }

    fn expect_silence(&self, code: &str) -> Result<()> {
        ensure!(self.finding(code).is_none(), "{}", self.json["findings"]);
        Ok(())
    }

    fn hides(&self, code: &str, address: &str) -> bool {
        let hidden = self.finding(code).and_then(|finding| finding["hides_clients"].as_array());
        hidden.is_some_and(|hidden| hidden.iter().any(|one| one == address))
    }
}

/// The doctor in a namespace without a guard.
fn doctor(namespace: &Namespace, arguments: &[&str]) -> Result<Diagnosis> {
    let mut command = namespace.command(guard_binary()?);
    command.args(["doctor", "--json", "--pin-dir", NO_PINS]).args(arguments);
    Diagnosis::of(command)
}

fn doctor_of(guard: &Guard<'_>, arguments: &[&str]) -> Result<Diagnosis> {
    Diagnosis::of(guard.command(&[&["doctor", "--json"], arguments].concat()))
}

/// A process under another name.
struct Bystander {
    _process: Process,
    _directory: TempDir,
}

impl Bystander {
    fn start(
        namespace: &Namespace,
        name: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let program = directory.path().join(name);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_bystander"), &program)?;
        let mut command = namespace.command(program);
        command.args(arguments).envs(variables.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = start(&mut command)?;
        let mut line = String::new();
        BufReader::new(process.take_stdout().context("a pipe")?).read_line(&mut line)?;
        ensure!(line == "ready\n", "the bystander {name} said {line:?}");
        Ok(Self { _process: process, _directory: directory })
    }
}

/// Sets something under `/proc/sys` of a namespace.
fn set(namespace: &Namespace, name: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    namespace.enter(|| fs::write(&path, value))?.with_context(|| path.display().to_string())
}

fn shell(namespace: &Namespace, line: &str) -> Result<()> {
    namespace.run("sh", &["-c", line], PATIENCE)?.expect_success()?;
    Ok(())
}

/// A namespace in which nothing is forwarded, whatever the machine does.
fn patient() -> Result<Pair> {
    let pair = Pair::new(CABLE_MTU)?;
    set(&pair.server, "net.ipv4.conf.all.forwarding", "0")?;
    Ok(pair)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn with_a_guard_in_place_there_is_nothing_to_do() -> Result<()> {
    let pair = patient()?;
    let _standin = Standin::start_in(&pair.server, GUARDED)?;
    let open = doctor(&pair.server, &[])?;
    open.expect("no-guard", "open", &["11434", "ollama-guard run"])?;

    let guard = GuardSetup::of(SERVER_DOOR).allow(FRIEND4).start(&pair.server)?;
    let healthy = doctor_of(&guard, &[])?;
    assert_eq!((healthy.code, &healthy.json["findings"]), (Some(0), &serde_json::json!([])));
    assert_eq!(healthy.json["healthy"], true);
    let named = doctor_of(&guard, &["--interface", SERVER_DOOR])?;
    assert_eq!(named.json["findings"], healthy.json["findings"]);
    let interfaces = named.json["facts"]["interfaces"].as_array().context("interfaces")?;
    let door = interfaces.iter().find(|one| one["name"] == SERVER_DOOR).context("the door")?;
    assert_eq!(door["driver"], "veth", "by the interface's own word");
    assert_eq!((&door["covered"], &door["best_mode"]), (&true.into(), &"generic".into()));
    let text = guard.cli(&["doctor"])?;
    assert!(text.stdout.starts_with("NOTHING TO DO\n"), "{}", text.stdout);
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_listener_of_ollama_is_found_where_it_is_and_explained() -> Result<()> {
    let pair = patient()?;
    let server = &pair.server;
    let nobody = doctor(server, &[])?;
    nobody.expect("no-guard", "note", &["nobody listens"])?;
    for code in ["unguarded-listener", "loopback-listener", "origins"] {
        nobody.expect_silence(code)?;
    }
    let exposed = Bystander::start(
        server,
        "ollama",
        &["serve"],
        &[
            ("BYSTANDER_LISTEN", "0.0.0.0:80"),
            ("OLLAMA_HOST", "http://0.0.0.0"),
            ("OLLAMA_ORIGINS", "*"),
        ],
    )?;
    let found = doctor(server, &[])?;
    let words = ["ollama (process", "0.0.0.0:80", "not 11434", "guard 80/tcp"];
    found.expect("unguarded-listener", "open", &words)?;
    found.expect("origins", "note", &["OLLAMA_ORIGINS=*"])?;
    doctor(server, &["--port", "80"])?.expect_silence("unguarded-listener")?;
    drop(exposed);

    // The runner of a model, as Ollama starts it.
    let _runner = Bystander::start(
        server,
        "ollama",
        &["runner"],
        &[("BYSTANDER_LISTEN", "127.0.0.1:34567,127.0.0.1:11434")],
    )?;
    let inside = doctor(server, &[])?;
    inside.expect_silence("unguarded-listener")?;
    inside.expect("loopback-listener", "note", &["11434/tcp"])?;
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn published_ports_of_containers_are_found() -> Result<()> {
    let pair = patient()?;
    let server = &pair.server;
    server.ip(&["link", "add", "docker0", "type", "bridge"])?;
    server.ip(&["address", "add", "172.17.0.1/16", "dev", "docker0"])?;
    let words = |port: &'static str| {
        let line = "-proto tcp -host-ip 0.0.0.0 -container-ip 172.17.0.2 -container-port 11434";
        line.split(' ').chain(["-host-port", port]).collect::<Vec<_>>()
    };
    {
        let _guarded = Bystander::start(server, "docker-proxy", &words("11434"), &[])?;
        doctor(server, &[])?.expect_silence("published-port")?;
    }
    {
        let _proxy = Bystander::start(server, "docker-proxy", &words("8080"), &[])?;
        let found = doctor(server, &[])?;
        let words = ["172.17.0.2:11434", "port 8080", "guard 8080/tcp too"];
        found.expect("published-port", "open", &words)?;
        assert!(found.hides("published-port", "172.17.0.1"), "{}", found.json["findings"]);
        doctor(server, &["--port", "8080", "--port", "11434"])?.expect_silence("published-port")?;
    }
    {
        let arguments = ["--config-net", "-t", "8080:11434"];
        let _pasta = Bystander::start(server, "pasta", &arguments, &[])?;
        doctor(server, &[])?.expect("published-port", "open", &["guard 8080/tcp too"])?;
    }
    // Where this one leads is nowhere to be seen; but there is a container that it may lead to.
    let listen = [("BYSTANDER_LISTEN", "0.0.0.0:8080")];
    let _rootless = Bystander::start(server, "rootlessport", &[], &listen)?;
    let _inside = Standin::start_in(&pair.client, GUARDED)?;
    let _holder = Bystander::start(&pair.client, "sleeper", &[], &[])?;
    doctor(server, &[])?.expect("published-port", "open", &["8080", "cannot be seen"])?;
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn rules_that_lead_to_a_guarded_port_are_found_in_every_filter() -> Result<()> {
    let pair = patient()?;
    let server = &pair.server;
    let code = "port-translation";
    doctor(server, &[])?.expect_silence(code)?;
    let nft = "nft add table ip t && nft add chain ip t c '{ type nat hook prerouting priority 0; }' \
               && nft add rule ip t c tcp dport";
    let filters = [
        (format!("{nft} 11434 dnat to 172.17.0.2"), format!("{nft} 8081 dnat to 172.17.0.2:11434")),
        (
            "iptables-nft -t nat -A PREROUTING -p tcp --dport 11434 -j DNAT --to 172.17.0.2".into(),
            "iptables-nft -t nat -A PREROUTING -p tcp --dport 8082 -j DNAT --to 172.17.0.2:11434"
                .into(),
        ),
        (
            "iptables-legacy -t nat -A PREROUTING -p tcp --dport 11434 -j DNAT --to 172.17.0.2"
                .into(),
            "iptables-legacy -t nat -A PREROUTING -p tcp --dport 8083 -j REDIRECT --to-ports 11434"
                .into(),
        ),
        (
            "ip6tables-nft -t nat -A PREROUTING -p tcp --dport 11434 -j DNAT --to fd00::2".into(),
            "ip6tables-nft -t nat -A PREROUTING -p tcp --dport 8084 -j DNAT --to '[fd00::2]:11434'"
                .into(),
        ),
    ];
    for (harmless, _) in &filters {
        shell(server, harmless)?;
    }
    doctor(server, &[])?.expect_silence(code)?;
    for (_, around) in &filters {
        shell(
            server,
            &around.replace("nft add table ip t && nft add chain", "true; nft add chain"),
        )?;
    }
    let found = doctor(server, &[])?;
    found.expect(code, "open", &["packets arrive with a port"])?;
    let findings = found.json["findings"].to_string();
    for port in ["8081", "8082", "8083", "8084"] {
        assert!(findings.contains(&format!("guard {port}/tcp too")), "{port}: {findings}");
    }
    let ports: Vec<_> =
        ["11434", "8081", "8082", "8083", "8084"].iter().flat_map(|one| ["--port", *one]).collect();
    doctor(server, &ports)?.expect_silence(code)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn masquerading_is_marked_as_hiding_clients() -> Result<()> {
    let pair = patient()?;
    let server = &pair.server;
    let address = Pair::SERVER_END.to_string();
    let guard = GuardSetup::of(SERVER_DOOR).allow(&address).start(server)?;
    let before = doctor_of(&guard, &[])?;
    before.expect_silence("masquerade")?;
    before.expect_silence("allowed-address-hides-clients")?;
    shell(
        server,
        "nft add table ip t && nft add chain ip t c '{ type nat hook postrouting priority 100; }' \
         && nft add rule ip t c oifname door0 masquerade",
    )?;
    let found = doctor_of(&guard, &[])?;
    found.expect("masquerade", "caution", &["11434 as source port", "--to-ports"])?;
    assert!(found.hides("masquerade", &address), "{}", found.json["findings"]);
    found.expect("allowed-address-hides-clients", "open", &[&address])?;
    guard.done(&["deny", "add", &address])?;
    doctor_of(&guard, &[])?.expect_silence("allowed-address-hides-clients")
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn local_proxies_and_tunnels_are_found() -> Result<()> {
    let pair = patient()?;
    let server = &pair.server;
    let _standin = Standin::start_in(server, GUARDED)?;
    let connect = ("BYSTANDER_CONNECT", "127.0.0.1:11434");
    {
        let _client = Bystander::start(server, "chat", &[], &[connect])?;
        doctor(server, &[])?.expect_silence("local-proxy")?;
    }
    {
        let listen = ("BYSTANDER_LISTEN", "0.0.0.0:8080");
        let _proxy = Bystander::start(server, "chat", &[], &[connect, listen])?;
        let found = doctor(server, &[])?;
        found.expect(
            "local-proxy",
            "open",
            &["chat (process", "127.0.0.1:11434", "0.0.0.0:8080"],
        )?;
        assert!(found.hides("local-proxy", "127.0.0.1"), "{}", found.json["findings"]);
        doctor(server, &["--port", "8080", "--port", "11434"])?.expect_silence("local-proxy")?;
    }
    // Not connected at the moment: its configuration tells.
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("nginx.conf");
    let file_name = file.to_str().context("a name")?;
    let listen = [("BYSTANDER_LISTEN", "0.0.0.0:8080")];
    let _nginx = Bystander::start(server, "nginx", &["-c", file_name], &listen)?;
    fs::write(&file, "# proxy_pass http://127.0.0.1:11434;\n")?;
    doctor(server, &[])?.expect_silence("local-proxy")?;
    fs::write(&file, "location / { proxy_pass http://127.0.0.1:11434; }\n")?;
    doctor(server, &[])?.expect("local-proxy", "open", &["nginx (process", "nginx.conf"])?;

    for (code, severity, name, arguments) in [
        ("tunnel", "open", "cloudflared", &["tunnel", "run"][..]),
        ("tunnel", "open", "ssh", &["-N", "-R", "9000:localhost:11434", "relay.example"]),
        ("tailscale", "note", "tailscaled", &[]),
    ] {
        doctor(server, &[])?.expect_silence(code)?;
        let _process = Bystander::start(server, name, arguments, &[])?;
        doctor(server, &[])?.expect(code, severity, &[name])?;
    }
    doctor(server, &[])?.expect_silence("ssh-forwarding")?;
    let _plain = Bystander::start(server, "ssh", &["relay.example"], &[])?;
    doctor(server, &[])?.expect_silence("tunnel")?;
    let _session = Bystander::start(server, "sshd", &[], &[connect])?;
    doctor(server, &[])?.expect("ssh-forwarding", "note", &["sshd (process"])?;
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn tunnels_and_routed_localhost_without_a_guard_are_found() -> Result<()> {
    let pair = patient()?;
    let server = &pair.server;
    let guard = GuardSetup::of(SERVER_DOOR).start(server)?;
    server.ip(&["tuntap", "add", "dev", "tun7", "mode", "tun"])?;
    server.ip(&["link", "add", "br7", "type", "bridge"])?;
    let codes = ["uncovered-interface", "excluded-interface", "route-localnet"];
    for code in codes {
        doctor_of(&guard, &[])?.expect_silence(code)?;
    }
    server.ip(&["link", "set", "tun7", "up"])?;
    server.ip(&["link", "set", "br7", "up"])?;
    doctor_of(&guard, &[])?.expect("uncovered-interface", "open", &["tun7 (tun)", "11434/tcp"])?;
    guard.write_config("exclude = [\"tun*\"]\n")?;
    let config = guard.config_file();
    let config = ["--config", config.to_str().context("a name")?];
    let excluded = doctor_of(&guard, &config)?;
    excluded.expect("excluded-interface", "note", &["tun7 (tun)"])?;
    excluded.expect_silence("uncovered-interface")?;

    set(server, &format!("net.ipv4.conf.{SERVER_DOOR}.route_localnet"), "1")?;
    doctor_of(&guard, &config)?.expect_silence("route-localnet")?;
    set(server, "net.ipv4.conf.br7.route_localnet", "1")?;
    doctor_of(&guard, &config)?.expect("route-localnet", "open", &["br7 (bridge)", "127.0.0.1"])?;
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_foreign_program_in_the_slot_is_named() -> Result<()> {
    let pair = patient()?;
    let arguments = ["--interface", SERVER_DOOR];
    doctor(&pair.server, &arguments)?.expect_silence("xdp-slot-taken")?;
    let foreign = Foreign::attach(&pair.server, SERVER_DOOR, XDP_PASS, XdpMode::Skb)?;
    let name = format!("program {} (generic)", foreign.program_id()?);
    doctor(&pair.server, &arguments)?.expect("xdp-slot-taken", "caution", &[&name, SERVER_DOOR])?;
    Ok(())
}

/// The first way to hurt innocents. The line that is printed helps.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_guarded_port_among_those_of_own_connections_is_said_with_the_line_that_helps() -> Result<()> {
    let pair = patient()?;
    let server = &pair.server;
    let code = "ephemeral-port";
    doctor(server, &[])?.expect_silence(code)?;
    set(server, "net.ipv4.ip_local_port_range", "1025 60999")?;
    set(server, "net.ipv4.ip_local_reserved_ports", "8080,9148-9150")?;
    let found = doctor(server, &[])?;
    let finding = found.expect(code, "hurts", &["guarded port 11434", "replies"])?;
    let advice = finding["advice"].as_str().context("advice")?;
    let line = advice.split('`').nth(1).context("a line to type")?;
    let setting = line.strip_prefix("sysctl -w ").context("sysctl")?;
    let (name, value) = setting.split_once('=').context("a setting")?;
    let mut guard = GuardSetup::of(SERVER_DOOR).start(server)?;
    assert!(guard.log().contains(line), "the daemon says it at its start: {}", guard.log());
    guard.stop()?;

    set(server, name, value)?;
    doctor(server, &[])?.expect_silence(code)?;
    let kept =
        server.enter(|| fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports"))??;
    assert_eq!(kept.trim(), "8080,9148-9150,11434", "what was reserved stays reserved");
    let before = guard.log().len();
    guard.start()?;
    assert!(!guard.log()[before..].contains("ip_local_reserved_ports"), "{}", guard.log());
    Ok(())
}

/// The second way.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn native_attachment_is_said_before_it_happens_and_not_again() -> Result<()> {
    let pair = patient()?;
    let server = &pair.server;
    let code = "native-attach";
    let of = |mode| doctor(server, &["--interface", SERVER_DOOR, "--attach", mode]);
    of("generic")?.expect_silence(code)?;
    of("native")?.expect(code, "caution", &[SERVER_DOOR, "MTU", "`--attach generic`"])?;
    {
        let quiet = GuardSetup::of(SERVER_DOOR).attach("generic").start(server)?;
        assert!(!quiet.log().contains("--attach generic"), "{}", quiet.log());
    }
    let mut guard = GuardSetup::of(SERVER_DOOR).attach("native").start(server)?;
    let log = guard.log();
    let (said, done) = (log.find("`--attach generic`"), log.find("guarding door0 in native"));
    assert!(said.is_some() && said < done, "said before: {log}");
    let attached = doctor_of(&guard, &["--interface", SERVER_DOOR, "--attach", "native"])?;
    attached.expect_silence(code)?;
    guard.stop()?;
    guard.start()?;
    assert_eq!(guard.log().matches("`--attach generic`").count(), 1, "{}", guard.log());
    Ok(())
}

/// The third way.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_host_that_routes_or_bridges_is_told_of_the_scope() -> Result<()> {
    let pair = patient()?;
    let server = &pair.server;
    let door = ["--interface", SERVER_DOOR];
    for code in ["forwarding", "bridging"] {
        doctor(server, &door)?.expect_silence(code)?;
    }
    let way_out = "scope = \\\"local\\\"";
    set(server, "net.ipv4.conf.all.forwarding", "1")?;
    let setting = "net.ipv4.conf.all.forwarding=1";
    doctor(server, &door)?.expect("forwarding", "hurts", &[setting, way_out])?;
    let guard = GuardSetup::of(SERVER_DOOR).start(server)?;
    assert!(guard.log().contains("scope = "), "the daemon says it at its start: {}", guard.log());
    drop(guard);
    set(server, "net.ipv4.conf.all.forwarding", "0")?;
    set(server, "net.ipv6.conf.all.forwarding", "1")?;
    let setting = "net.ipv6.conf.all.forwarding=1";
    doctor(server, &door)?.expect("forwarding", "hurts", &[setting, way_out])?;
    set(server, "net.ipv6.conf.all.forwarding", "0")?;

    server.ip(&["link", "add", "br7", "type", "bridge"])?;
    server.ip(&["link", "set", SERVER_DOOR, "master", "br7"])?;
    let found = doctor(server, &door)?;
    found.expect("bridging", "hurts", &["br7 bridges door0", way_out])?;
    found.expect_silence("forwarding")
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_this_process_lacks_and_cannot_see_is_listed() -> Result<()> {
    let pair = patient()?;
    let server = &pair.server;
    let whole = doctor(server, &[])?;
    whole.expect_silence("capabilities")?;
    whole.expect_silence("bpffs")?;
    let not_seen = |diagnosis: &Diagnosis| diagnosis.json["facts"]["not_seen"].to_string();
    assert!(!not_seen(&whole).contains("nftables"), "{}", not_seen(&whole));

    let without = |program: &str, arguments: &[&str]| -> Result<Diagnosis> {
        let mut command = server.command(program);
        command.args(arguments).arg(guard_binary()?);
        command.args(["doctor", "--json", "--pin-dir", NO_PINS]);
        Diagnosis::of(command)
    };
    let dropped = without("setpriv", &["--bounding-set", "-net_admin"])?;
    dropped.expect("capabilities", "lacks", &["CAP_NET_ADMIN"])?;
    let ordinary = without("setpriv", &["--reuid", "65534", "--clear-groups"])?;
    ordinary.expect("capabilities", "lacks", &["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"])?;
    for what in ["sockets, settings", "nftables", "the guard's pins"] {
        assert!(not_seen(&ordinary).contains(what), "{what}: {}", not_seen(&ordinary));
    }
    let hide =
        "mount --bind /dev/null \"$(readlink -f \"$(command -v nft)\")\" && exec \"$0\" \"$@\"";
    let blind = without("unshare", &["--mount", "sh", "-c", hide])?;
    assert!(not_seen(&blind).contains("nft is not installed"), "{}", not_seen(&blind));

    let directory = tempfile::tempdir()?;
    let elsewhere = directory.path().to_str().context("a name")?;
    let mut command = server.command(guard_binary()?);
    command.args(["doctor", "--json", "--pin-dir", elsewhere]);
    Diagnosis::of(command)?.expect("bpffs", "lacks", &[elsewhere, "mount -t bpf"])?;
    Ok(())
}

/// A process in a container is no listener of this host, but it is listed.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn processes_of_other_namespaces_are_not_this_hosts() -> Result<()> {
    let pair = patient()?;
    let listen = [("BYSTANDER_LISTEN", "0.0.0.0:8080")];
    let _elsewhere = Bystander::start(&pair.client, "ollama", &["serve"], &listen)?;
    let _tunnel = Bystander::start(&pair.client, "cloudflared", &[], &[])?;
    let found = doctor(&pair.server, &[])?;
    found.expect_silence("unguarded-listener")?;
    found.expect_silence("tunnel")?;
    let listeners = found.json["facts"]["listeners"].as_array().context("listeners")?;
    let address: SocketAddr = "0.0.0.0:8080".parse()?;
    let is_listed = listeners.iter().any(|one| {
        one["process"] == "ollama" && one["port"] == address.port() && one["is_here"] == false
    });
    assert!(is_listed, "but it is listed: {listeners:?}");
    Ok(())
}
