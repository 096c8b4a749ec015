//! The sources together.

use std::{
    collections::HashMap,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use tempfile::TempDir;

use super::*;
use crate::policy::{Effect, Origin};

/// A directory with a configuration file.
struct Bed {
    directory: TempDir,
    variables: HashMap<&'static str, String>,
    flags: Overrides,
}

impl Bed {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let bed = Self { directory, variables: HashMap::new(), flags: Overrides::default() };
        fs::write(bed.path(), text).unwrap();
        fs::set_permissions(bed.path(), Permissions::from_mode(0o644)).unwrap();
        Self { flags: Overrides { config: Some(bed.path()), ..Overrides::default() }, ..bed }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("config.toml")
    }

    fn set(mut self, name: &'static str, value: &str) -> Self {
        self.variables.insert(name, value.to_owned());
        self
    }

    fn load(&self) -> Result<Config, Problems> {
        load(&self.flags, &self.variables, &Lan)
    }

    fn problems(&self) -> String {
        let path = format!("{}", self.path().display());
        self.load().unwrap_err().to_string().replace(&path, "FILE")
    }
}

/// A host with a network, and with one group that it does not know at the moment.
struct Lan;

impl Surroundings for Lan {
    fn group(&self, name: &str) -> Option<Result<Vec<HostMember>, String>> {
        let member = |net: &str, interface: &str, only_there| {
            let (net, interface) = (net.parse().unwrap(), interface.into());
            Some(Ok(vec![HostMember { net, interface, only_there }]))
        };
        match name {
            "local-networks" => member("192.0.2.0/24", "eth0", false),
            "tailscale" => member("100.64.0.0/10", "tailscale0", true),
            "this-host" => Some(Err("no netlink".into())),
            _ => None,
        }
    }
}

fn strings<T: ToString>(items: impl IntoIterator<Item = T>) -> Vec<String> {
    items.into_iter().map(|item| item.to_string()).collect()
}

#[test]
fn an_empty_file_is_the_defaults() {
    let config = Bed::new("").load().unwrap();
    assert_eq!(config.services[0].mode, Mode::Enforce);
    assert_eq!(config.interfaces, Interfaces::Auto);
    assert_eq!((config.attach, config.scope), (AttachChoice::Auto, Scope::All));
    assert_eq!(strings(config.ports()), ["11434/tcp"]);
    assert_eq!((config.capacity, config.events_per_second), (65_536, 1000));
    assert!(!config.control.group_may_edit);
    assert_eq!(config.metrics.to_string(), "127.0.0.1:9434");
    assert_eq!(config.paths.socket, Path::new(DEFAULT_SOCKET));
    assert!(config.rules.is_empty());
}

#[test]
fn a_flag_goes_before_the_environment_and_that_before_the_file() {
    let file = "mode = \"observe\"\nattach = \"generic\"\nscope = \"local\"\ncapacity = 1\n\
                [events]\nkeep = \"1 MiB\"";
    let mut bed = Bed::new(file)
        .set("OLLAMA_GUARD_MODE", "enforce")
        .set("OLLAMA_GUARD_CAPACITY", "2")
        .set("OLLAMA_GUARD_EVENTS_KEEP", "512 KiB")
        .set("OLLAMA_GUARD_ATTACH", "")
        .set("OLLAMA_GUARD_STATE_DIR", "/state");
    let config = bed.load().unwrap();
    assert_eq!((config.services[0].mode, config.capacity), (Mode::Enforce, 2));
    assert_eq!(config.attach, AttachChoice::Generic, "an empty variable is not set");
    assert_eq!(config.scope, Scope::Local);
    assert_eq!(config.events_keep, Bytes(512 << 10));
    assert_eq!(config.paths.state_dir, Path::new("/state"));
    bed = bed.set("OLLAMA_GUARD_SCOPE", "all");
    assert_eq!(bed.load().unwrap().scope, Scope::All);
    bed.flags.scope = Some("local".into());
    bed.flags.observe = true;
    bed.flags.capacity = Some("3".into());
    bed.flags.state_dir = Some("/flag".into());
    let config = bed.load().unwrap();
    assert_eq!(config.services[0].mode, Mode::Observe);
    assert_eq!((config.scope, config.capacity), (Scope::Local, 3));
    assert_eq!(config.paths.state_dir, Path::new("/flag"));
}

#[test]
fn metrics_are_where_the_strongest_source_says() {
    let mut bed = Bed::new("[metrics]\nlisten = \"[::1]:1\"");
    assert_eq!(bed.load().unwrap().metrics.to_string(), "[::1]:1");
    bed = bed.set("OLLAMA_GUARD_METRICS", "off");
    assert_eq!(bed.load().unwrap().metrics, Metrics::Off);
    bed.flags.metrics = Some("0.0.0.0:2".into());
    let config = bed.load().unwrap();
    assert_eq!(config.metrics.to_string(), "0.0.0.0:2");
    assert!(config.warnings[0].contains("nothing there needs a login"), "{:?}", config.warnings);
    bed.flags.metrics = Some("2".into());
    assert!(bed.problems().starts_with("--metrics on the command line: "), "{}", bed.problems());
}

#[test]
fn lists_of_all_sources_add_up_and_rules_know_where_they_stand() {
    let file = "interfaces = \"auto\"\nexclude = [\"eth9\"]\n[[service]]\nports = [\"8080\"]\n\
                allow = [\n  \"10.0.0.0/8\",\n]\n";
    let mut bed = Bed::new(file)
        .set("OLLAMA_GUARD_ALLOW", "192.0.2.1, 192.0.2.2,")
        .set("OLLAMA_GUARD_DENY", "10.6.6.6")
        .set("OLLAMA_GUARD_EXCLUDE", "eth8")
        .set("OLLAMA_GUARD_PORTS", "11434/udp");
    bed.flags.interfaces = vec!["eth0".into(), "wg*".into()];
    bed.flags.ports = vec!["11434".into()];
    bed.flags.allow = vec!["2001:db8::/32".into()];
    let config = bed.load().unwrap();
    let Interfaces::Named(names) = &config.interfaces else { panic!("named") };
    assert_eq!(strings(names), ["eth0", "wg*"]);
    assert_eq!(strings(&config.exclude), ["eth9", "eth8"]);
    assert_eq!(strings(config.ports()), ["8080/tcp", "11434/tcp", "11434/udp"]);
    let rules: Vec<String> = config
        .rules
        .iter()
        .map(|rule| {
            let file = format!("{}", bed.path().display());
            format!("{} {} {}", rule.effect, rule.prefix, rule.written().replace(&file, "FILE"))
        })
        .collect();
    assert_eq!(
        rules,
        [
            "allow 10.0.0.0/8 FILE line 6",
            "allow 192.0.2.1 OLLAMA_GUARD_ALLOW in the environment",
            "allow 192.0.2.2 OLLAMA_GUARD_ALLOW in the environment",
            "deny 10.6.6.6 OLLAMA_GUARD_DENY in the environment",
            "allow 2001:db8::/32 --allow on the command line",
        ]
    );
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn groups_are_expanded_where_they_are_named() {
    let file = "[groups]\noffice = [\"203.0.113.0/24\"]\nold = [\"192.0.2.0/24\"]\n\
                [[service]]\nallow = [\"office\"]\ndeny = [\"203.0.113.66\"]\n";
    let bed = Bed::new(file);
    let config = bed.load().unwrap();
    let origin = Origin::File { path: bed.path().into(), line: 2 };
    assert_eq!((config.rules[0].effect, &*config.rules[0].origin), (Effect::Allow, &origin));
    assert_eq!(config.rules[0].comment.as_deref(), Some("group office"));
    assert_eq!(config.rules[1].effect, Effect::Deny);
    assert_eq!(config.warnings.len(), 1);
    assert!(config.warnings[0].ends_with("line 3: the group \"old\" is in no list"));
}

#[test]
fn everyone_is_let_in_only_if_it_is_said_twice() {
    let file = "[[service]]\nallow = [\"0.0.0.0/0\"]\ndeny = [\"::/0\"]\n";
    let mut bed = Bed::new(file);
    bed.flags.allow = vec!["::/0".into()];
    assert_eq!(
        bed.problems(),
        "FILE:2:10: 0.0.0.0/0 lets every IPv4 source in: add the line `anyone = true` to the \
         [[service]] if that is meant, or write the networks of those who may\n\
         --allow on the command line: ::/0 lets every IPv6 source in: add --anyone if that is \
         meant, or write the networks of those who may"
    );
    bed.flags.anyone = true;
    assert!(bed.problems().starts_with("FILE:2:10"), "a flag does not speak for the file");
    fs::write(bed.path(), format!("{file}anyone = true\n")).unwrap();
    let config = bed.load().unwrap();
    assert_eq!(config.rules.len(), 3);
    assert!(config.warnings.iter().any(|w| w.contains("lets everyone in over IPv4")));
}

#[test]
fn mistakes_of_all_sources_are_reported_at_once() {
    let mut bed = Bed::new("mode = \"obsrve\"\n")
        .set("OLLAMA_GUARD_ATTACH", "nativ")
        .set("OLLAMA_GUARD_SOCKET", "control.sock")
        .set("OLLAMA_GUARD_PORTS", "80, 0, 99999");
    bed.flags.allow = vec!["10.1.2.3/8".into()];
    bed.flags.interfaces = vec!["eth0".into(), "auto".into()];
    let expected = [
        "FILE:1:8: \"obsrve\" is not known: write \"observe\"",
        "OLLAMA_GUARD_ATTACH in the environment: \"nativ\" is not known: write \"native\"",
        "OLLAMA_GUARD_PORTS in the environment: \"0\" is no port: write a number from 1 to 65535, \
         as in 11434 or 11434/tcp",
        "OLLAMA_GUARD_PORTS in the environment: \"99999\" is no port: write a number from 1 to \
         65535, as in 11434 or 11434/tcp",
        "OLLAMA_GUARD_SOCKET in the environment: \"control.sock\" is not an absolute path: write \
         all of it, from the first / on",
        "--allow on the command line: \"10.1.2.3/8\" has host bits: write 10.0.0.0/8 for the \
         network or 10.1.2.3 for the one address",
        "--interface on the command line: \"auto\" stands among names: write it alone, or leave \
         it out",
    ];
    assert_eq!(bed.problems().lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_file_that_is_named_must_be_there_and_be_trustworthy() {
    let bed = Bed::new("");
    fs::set_permissions(bed.path(), Permissions::from_mode(0o666)).unwrap();
    assert!(bed.problems().contains("chmod go-w"), "{}", bed.problems());
    fs::remove_file(bed.path()).unwrap();
    assert!(bed.problems().starts_with("FILE: there is no such file"), "{}", bed.problems());

    let mut by_variable = Bed::new("capacity = 7");
    by_variable.flags.config = None;
    let path = by_variable.path().into_os_string().into_string().unwrap();
    let by_variable = by_variable.set("OLLAMA_GUARD_CONFIG", &path);
    assert_eq!(by_variable.load().unwrap().capacity, 7);
    fs::remove_file(by_variable.path()).unwrap();
    assert!(by_variable.problems().contains("there is no such file"));
}

#[test]
fn text_that_is_not_utf8_is_said_with_its_line() {
    let bed = Bed::new("");
    fs::write(bed.path(), b"mode = \"enforce\"\n# caf\xe9\n").unwrap();
    assert_eq!(bed.problems(), "FILE: line 2 is not UTF-8 text: save the file as UTF-8");
}

#[test]
fn very_many_mistakes_are_counted() {
    let bed = Bed::new(&format!("[[service]]\nallow = [{}]\n", "\"10.0.0.1/8\",\n".repeat(500)));
    let problems = bed.problems();
    assert_eq!(problems.lines().count(), 101);
    assert!(problems.ends_with("... and 400 more problems"));
}

#[test]
fn the_example_loads_without_a_warning_and_shows_every_key() {
    let text = include_str!("../../deploy/config.example.toml");
    let config = Bed::new(text).load().unwrap();
    assert_eq!(config.warnings, Vec::<String>::new());
    assert_eq!(config.services[0].mode, Mode::Enforce);
    assert_eq!(config.capacity, DEFAULT_CAPACITY);
    assert_eq!(config.events_per_second, DEFAULT_EVENTS_PER_SECOND);
    assert_eq!(config.events_keep, DEFAULT_EVENTS_KEEP);
    assert!(config.rules.iter().any(|rule| rule.effect == Effect::Deny));
    for key in file::every_key() {
        assert!(text.contains(key), "the example does not show `{key}`");
    }
}

impl Bed {
    /// Writes a file beside the configuration.
    fn write(&self, name: &str, text: &str) {
        let path = self.directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    }

    /// What is said, with the directory left out.
    fn short(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.directory.path().display()), "")
    }
}

#[test]
fn drop_ins_go_before_the_file_in_the_order_of_their_names() {
    let bed = Bed::new(
        "mode = \"observe\"\n[groups]\nhome = [\"192.0.2.1\"]\n[[service]]\nname = \"llm\"\n",
    );
    bed.write(
        "config.d/20-mode.toml",
        "mode = \"enforce\"\n[[service]]\nallow = [\"home\", \"lab\"]\n",
    );
    bed.write(
        "config.d/10-lab.toml",
        "mode = \"observe\"\n[groups]\nlab = [\"198.51.100.0/24\"]\n",
    );
    bed.write("config.d/.hidden.toml", "nonsense");
    bed.write("config.d/README", "nonsense");
    let reading = read(&bed.flags, &bed.variables, &Lan);
    let config = reading.config.unwrap();
    let [service] = &config.services[..] else { panic!("one service") };
    assert_eq!((service.mode, &*service.name), (Mode::Enforce, "llm"));
    let written: Vec<_> = config.rules.iter().map(|rule| bed.short(&rule.written())).collect();
    assert_eq!(written, ["config.toml line 3", "config.d/10-lab.toml line 3"]);
    let files: Vec<_> =
        config.files.iter().map(|path| bed.short(&path.display().to_string())).collect();
    assert_eq!(files, ["config.toml", "config.d/10-lab.toml", "config.d/20-mode.toml"]);
    // A new one is a change, and so is one that goes.
    assert_eq!(reading.fingerprint, reading.fingerprint.now());
    bed.write("config.d/30-more.toml", "");
    assert_ne!(reading.fingerprint, reading.fingerprint.now());
}

#[test]
fn mistakes_of_drop_ins_are_told_by_file() {
    let bed = Bed::new("[groups]\nhome = [\"192.0.2.1\"]\n[[service]]\nallow = [\"home\"]\n");
    bed.write("config.d/1.toml", "mode = \"off\"\n");
    bed.write("config.d/2.toml", "[groups]\nhome = []\n[[service]]\nname = \"other\"\n");
    let said = bed.short(&bed.load().unwrap_err().to_string());
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(
        said.contains("config.d/1.toml:1:8: ") && said.contains("config.d/2.toml:2:1: "),
        "{said}"
    );
    bed.write("config.d/1.toml", "[[service]]\nname = \"one\"\nports = [\"1\"]\n");
    bed.write("config.d/2.toml", "[[service]]\nname = \"two\"\n");
    let said = bed.short(&bed.load().unwrap_err().to_string());
    assert!(said.starts_with("config.d/2.toml:1:1: the service \"two\" has no ports"), "{said}");
    bed.write("config.d/2.toml", "[[service]]\nallow = [\"192.0.2.1\"]\n");
    let said = bed.short(&bed.load().unwrap_err().to_string());
    assert!(said.contains("2.toml:1:1: which service is this?"), "{said}");
    assert!(said.ends_with("name = \"ollama\", name = \"one\""), "{said}");
}

const SEVERAL: &str = "mode = \"observe\"\n[groups]\noffice = [\"192.0.2.0/24\"]\n\
    [[service]]\nname = \"ollama\"\nmode = \"enforce\"\nallow = [\"office\"]\n\
    [[service]]\nname = \"web\"\nports = [\"8080\"]\n\
    allow = [\"office\", { from = [\"10.0.0.0/8\", \"office\"], on = [\"eth1\", \"wg*\"] }]\n";

#[test]
fn each_service_has_its_own_ports_mode_and_rules() {
    let mut bed = Bed::new(SEVERAL).set("OLLAMA_GUARD_ALLOW", "198.51.100.7");
    let config = bed.load().unwrap();
    let services: Vec<_> = config
        .services
        .iter()
        .map(|one| format!("{} {} {}", one.name, one.mode.name(), strings(&one.ports).join(",")))
        .collect();
    assert_eq!(services, ["ollama enforce 11434/tcp", "web observe 8080/tcp"]);
    let rule = |rule: &Rule| match &rule.limits {
        Some(limits) => format!("{} {limits}", rule.prefix),
        None => rule.prefix.to_string(),
    };
    let rules: Vec<_> = config.rules.iter().map(rule).collect();
    assert_eq!(
        rules,
        [
            "192.0.2.0/24 for ollama",
            "192.0.2.0/24 for web",
            "10.0.0.0/8 for web, on eth1 and wg*",
            "192.0.2.0/24 for web, on eth1 and wg*",
            "198.51.100.7",
        ]
    );
    // What is said for all goes before what a file says of one.
    bed.flags.observe = true;
    assert_eq!(bed.load().unwrap().observed().count(), 2);
    bed.flags.ports = vec!["9000".into()];
    let said = bed.problems();
    assert!(said.starts_with("--port on the command line: there are several services"), "{said}");
}

#[test]
fn a_port_has_one_service() {
    let bed = Bed::new(&format!("{SEVERAL}[[service]]\nname = \"more\"\nports = [\"8080\"]\n"));
    let said = bed.problems();
    assert!(said.contains("8080/tcp is a port of \"web\" and of \"more\""), "{said}");
}

#[test]
fn the_rules_of_the_only_service_hold_for_it_whatever_its_name() {
    let config = Bed::new("[[service]]\nname = \"llm\"\nallow = [\"192.0.2.1\"]").load().unwrap();
    assert_eq!(config.rules[0].limits, None);
}

#[test]
fn a_directory_that_anybody_writes_to_is_not_believed() {
    let bed = Bed::new("");
    bed.write("config.d/1.toml", "");
    let directory = bed.directory.path().join("config.d");
    fs::set_permissions(&directory, Permissions::from_mode(0o777)).unwrap();
    let said = bed.short(&bed.load().unwrap_err().to_string());
    assert!(said.starts_with("config.d: others than its owner may write"), "{said}");
}

#[test]
fn a_group_takes_lists_from_files() {
    let bed = Bed::new(
        "[groups.blocked]\nprefixes = [\"192.0.2.9\"]\ninclude = [\"lists/a.txt\", \"lists/b.txt\"]\n\
         [[service]]\ndeny = [\"blocked\"]\n",
    );
    bed.write("lists/a.txt", "# from a feed\n198.51.100.7 # seen 2026-11-01\r\n\n2001:db8::/32\n");
    bed.write("lists/b.txt", "198.51.100.8");
    let reading = read(&bed.flags, &bed.variables, &Lan);
    let config = reading.config.unwrap();
    let rules: Vec<_> = config
        .rules
        .iter()
        .map(|rule| {
            let comment = rule.comment.as_deref().unwrap_or_default();
            format!("{} {}: {comment}", rule.prefix, bed.short(&rule.written()))
        })
        .collect();
    assert_eq!(
        rules,
        [
            "198.51.100.7 lists/a.txt line 2: group blocked: seen 2026-11-01",
            "2001:db8::/32 lists/a.txt line 4: group blocked",
            "198.51.100.8 lists/b.txt line 1: group blocked",
            "192.0.2.9 config.toml line 2: group blocked",
        ]
    );
    bed.write("lists/b.txt", "198.51.100.88");
    assert_ne!(reading.fingerprint, reading.fingerprint.now());
}

#[test]
fn mistakes_of_lists_are_told_by_line_and_of_very_many_the_first() {
    let bed = Bed::new("[groups.a]\ninclude = \"list.txt\"\n[[service]]\nallow = [\"a\"]\n");
    bed.write("list.txt", "192.0.2.1\n192.0.2\n0.0.0.0/0\n");
    let said = bed.short(&bed.load().unwrap_err().to_string());
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(said.contains("list.txt:2:1: ") && said.contains("list.txt:3:1: "), "{said}");
    bed.write("list.txt", &"nonsense\n".repeat(1000));
    let said = bed.short(&bed.load().unwrap_err().to_string());
    assert_eq!(said.lines().count(), 21, "{said}");
    assert!(said.contains("980 more lines are no prefixes"), "{said}");
}

#[test]
fn a_tailnet_is_let_in_through_its_own_interface_only_unless_the_entry_says_where() {
    let rules = |entry: &str| {
        let text = format!("[[service]]\nallow = [{entry}, \"local-networks\"]\n");
        let config = Bed::new(&text).load().unwrap();
        let on = |rule: &Rule| match rule.limits.as_deref() {
            Some(limits) => strings(&limits.on).join(","),
            None => String::new(),
        };
        config.rules.iter().map(|rule| format!("{} {}", rule.prefix, on(rule))).collect::<Vec<_>>()
    };
    assert_eq!(rules("\"tailscale\""), ["100.64.0.0/10 tailscale0", "192.0.2.0/24 "]);
    let elsewhere = rules("{ from = \"tailscale\", on = [\"eth1\"] }");
    assert_eq!(elsewhere, ["100.64.0.0/10 eth1", "192.0.2.0/24 "]);
}

#[test]
fn a_built_in_group_is_in_a_rule_where_a_list_names_it_and_nowhere_else() {
    assert!(Bed::new("").load().unwrap().rules.is_empty());
    let bed = Bed::new("[[service]]\nallow = [\n\"local-networks\"]\n");
    let config = bed.load().unwrap();
    assert!(config.follows_host && !Bed::new("").load().unwrap().follows_host);
    let rule = &config.rules[0];
    assert_eq!(bed.short(&rule.written()), "config.toml line 3");
    assert_eq!(rule.comment.as_deref(), Some("group local-networks: eth0"));
    assert_eq!((config.rules.len(), rule.prefix.to_string()), (1, "192.0.2.0/24".to_owned()));
    let unknown = Bed::new("[[service]]\ndeny = [\"this-host\"]\n");
    assert!(unknown.problems().starts_with("FILE:2:9: the members of \"this-host\" are not known"));
    let taken = Bed::new("[groups]\nlocal-networks = [\"10.0.0.0/8\"]\n");
    assert!(taken.problems().starts_with("FILE:2:1: \"local-networks\" is built in"));
}

#[test]
fn an_entry_of_a_list_may_have_an_end() {
    let bed = Bed::new(
        "[groups.a]\nprefixes = [{ from = \"192.0.2.1\", expires = 2036-01-01T12:00:00+01:00 }]\n\
         include = \"list.txt\"\n[[service]]\nallow = [\"a\", \"192.0.2.2\",\n\
         { expires = \"2026-01-01T12:00:00Z\", from = \"192.0.2.3\" }]\n",
    );
    bed.write("list.txt", "192.0.2.4 until 2036-01-01T12:00:00Z # the guest\n");
    let config = bed.load().unwrap();
    let rules: Vec<_> = config
        .rules
        .iter()
        .map(|rule| {
            let end = rule.expires.map_or_else(String::new, |end| end.to_string());
            format!("{} {end}", rule.prefix)
        })
        .collect();
    assert_eq!(
        rules,
        [
            "192.0.2.4 2036-01-01T12:00:00Z",
            "192.0.2.1 2036-01-01T11:00:00Z",
            "192.0.2.2 ",
            "192.0.2.3 2026-01-01T12:00:00Z",
        ]
    );
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let said = config.ended("2026-06-01T00:00:00Z".parse().unwrap());
    let expected =
        "config.toml line 6: allow 192.0.2.3 has ended at 2026-01-01T12:00:00Z: take it out";
    assert_eq!(said.iter().map(|line| bed.short(line)).collect::<Vec<_>>(), [expected]);
}

#[test]
fn of_the_same_entry_twice_the_one_that_lasts_longer_counts() {
    let end = |day| format!("{{ from = \"192.0.2.1\", expires = \"2036-01-0{day}T00:00:00Z\" }}");
    for (list, expected, warning) in [
        (format!("{},\n{}", end(1), end(2)), Some("2036-01-02T00:00:00Z"), "line 2: allow"),
        (format!("{},\n\"192.0.2.1\"", end(1)), None, "line 2: allow"),
        (format!("\"192.0.2.1\",\n{}", end(1)), None, "line 3: allow"),
    ] {
        let bed = Bed::new(&format!("[[service]]\nallow = [{list}]\n"));
        let config = bed.load().unwrap();
        let ends: Vec<_> = config.rules.iter().map(|rule| rule.expires).collect();
        assert_eq!(ends, [expected.map(|end| end.parse().unwrap())]);
        let said = bed.short(&config.warnings[0]);
        assert!(said.contains(warning) && said.contains("lasts longer there"), "{said}");
    }
}

#[test]
fn lists_may_have_host_names_wherever_they_have_prefixes() {
    let bed = Bed::new(
        "[groups.a]\nprefixes = [\"home.example.org\"]\ninclude = \"list.txt\"\n\
         [[service]]\nallow = [\"a\", \"192.0.2.2\", \"host:printer\"]\n\
         deny = [{ from = \"BAD.example.org.\", expires = \"2036-01-01T12:00:00Z\" }]\n",
    );
    bed.write("list.txt", "lab.example.org # third floor\nhome.example.org\n");
    let config = bed.load().unwrap();
    let names: Vec<_> = config
        .names
        .iter()
        .map(|rule| {
            let comment = rule.comment.as_deref().unwrap_or_default();
            format!("{} {} {}: {comment}", rule.effect, rule.name, bed.short(&rule.written()))
        })
        .collect();
    assert_eq!(
        names,
        [
            "allow lab.example.org list.txt line 1: group a: third floor",
            "allow home.example.org list.txt line 2: group a",
            "allow printer config.toml line 5: ",
            "deny bad.example.org config.toml line 6: ",
        ]
    );
    assert!(config.names[3].expires.is_some());
    assert!(config.warnings[0].contains("stands already at"), "{:?}", config.warnings);
    let flags = Bed::new("");
    let flags = Overrides { allow: vec!["home.example.org".into()], ..flags.flags.clone() };
    assert!(load(&flags, &bed.variables, &Lan).is_ok_and(|config| config.names.len() == 1));
}

#[test]
fn a_host_name_may_be_for_a_service_and_for_some_interfaces() {
    let bed = Bed::new(
        "[groups]\nfamily = [\"home.example.org\"]\n\
         [[service]]\nname = \"llm\"\nports = [\"11434\"]\n\
         allow = [{ from = [\"family\", \"lab.example.org\"], on = [\"wg*\", \"eth1\"] }, \"home.example.org\"]\n\
         [[service]]\nname = \"web\"\nports = [\"8080\"]\n\
         allow = [\"family\", { from = \"host:tv\", on = [\"eth1\"], expires = \"2036-01-01T12:00:00Z\" }]\n",
    );
    let config = bed.load().unwrap();
    let said = |rule: &NameRule| {
        let limits = rule.limits.as_deref().map(ToString::to_string);
        format!("{} {}", rule.name, limits.unwrap_or_default())
    };
    assert_eq!(
        config.names.iter().map(said).collect::<Vec<_>>(),
        [
            "home.example.org for llm, on eth1 and wg*",
            "lab.example.org for llm, on eth1 and wg*",
            "home.example.org for llm",
            "home.example.org for web",
            "tv for web, on eth1",
        ]
    );
    assert!(config.names[4].expires.is_some() && config.warnings.is_empty());
    let alone = Bed::new(
        "[[service]]\nname = \"llm\"\nallow = [\"a.example\", { from = \"a.example\", on = [\"eth1\"] }]",
    );
    let config = alone.load().unwrap();
    let limits: Vec<_> = config.names.iter().map(said).collect();
    assert_eq!(limits, ["a.example ", "a.example on eth1"], "of one service it is for everything");
}

#[test]
fn more_names_than_are_looked_up_are_a_mistake_at_its_line() {
    let bed = Bed::new("[groups.a]\ninclude = \"list.txt\"\n[[service]]\nallow = [\"a\"]\n");
    let list = |count| (0..count).map(|n| format!("h{n}.example.org\n")).collect::<String>();
    bed.write("list.txt", &(list(MAX_NAMES) + "h0.example.org"));
    assert_eq!(bed.load().unwrap().names.len(), MAX_NAMES);
    bed.write("list.txt", &list(MAX_NAMES + 2));
    let said = bed.short(&bed.load().unwrap_err().to_string());
    assert!(said.starts_with("list.txt:257:1: 258 host names are too many: 256 fit"), "{said}");
}
