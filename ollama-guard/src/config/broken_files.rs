//! A corpus of broken configuration files: each with all that is to be said about it.

use proptest::prelude::*;

use super::{
    Nowhere, Place, file,
    files::{Files, Text},
    problem::Problems,
};

/// Text, and for each problem its line, its column and a part of its message.
type Broken = (&'static str, &'static [(usize, usize, &'static str)]);

const CORPUS: &[Broken] = &[
    // Values.
    ("mode = \"off\"", &[(1, 8, "write one of \"enforce\", \"observe\"")]),
    ("mode = true", &[(1, 8, "not true or false: write mode = \"enforce\"")]),
    ("attach = \"Native\"", &[(1, 10, "write \"native\"")]),
    ("capacity = 0", &[(1, 12, "write a number from 1 to 4194304")]),
    ("capacity = 99999999999999999999", &[(1, 12, "write a number from 1 to 4194304")]),
    ("capacity = 0xffffffff", &[(1, 12, "write a number from 1 to 4194304")]),
    ("capacity = \"65536\"", &[(1, 12, "a whole number belongs here, not text: write capacity")]),
    ("capacity = 1.5", &[(1, 12, "not a fraction")]),
    ("[events]\nkeep = 16", &[(2, 8, "text in quotes belongs here, not a whole number")]),
    ("[events]\nkeep = \"16 MB\"", &[(2, 8, "write a size from \"256 KiB\" to \"1 GiB\"")]),
    ("[events]\nper_second = -5", &[(2, 14, "write a number from 1 to 1000000")]),
    ("[control]\ngroup_may_edit = \"yes\"", &[(2, 18, "true or false belongs here")]),
    ("events = 1000", &[(1, 10, "a table belongs here, not a whole number: write [events]")]),
    // Interfaces.
    ("interfaces = \"eth0\"", &[(1, 14, "stand in a list: write interfaces = \"auto\" or")]),
    ("interfaces = []", &[(1, 14, "so nothing would be guarded")]),
    ("interfaces = [\"auto\"]", &[(1, 15, "write interfaces = \"auto\"")]),
    ("interfaces = [\"eth0\", \"auto\"]", &[(1, 23, "stands among names")]),
    ("interfaces = [\n  \"eth0\",\n  \"a b\",\n  3,\n]", &[(3, 3, "white space"), (4, 3, "text")]),
    ("exclude = \"eth0\"", &[(1, 11, "a list belongs here, not text: write exclude = [\"eth1\"]")]),
    ("exclude = [\"eth[\"]", &[(1, 12, "close its brackets")]),
    // Services.
    ("[service]\nports = [\"0\"]", &[(1, 1, "write [[service]], with two brackets")]),
    ("service = 5", &[(1, 11, "write [[service]], with two brackets")]),
    (
        "[[service]]\n[[service]]\nports = [\"0\"]",
        &[(1, 1, "needs a name"), (2, 1, "needs a name"), (3, 10, "no port")],
    ),
    ("[[service]]\nname = \"a service\"", &[(2, 8, "a letter first")]),
    (
        "[[service]]\nname = \"a\"\n[[service]]\nname = \"a\"",
        &[(3, 1, "stands here a second time: give this one another name")],
    ),
    ("[[service]]\nports = []", &[(2, 9, "so nothing would be guarded")]),
    (
        "[[service]]\nports = [11434]",
        &[(2, 10, "not a whole number: write ports = [\"11434/tcp\"]")],
    ),
    ("[[service]]\nports = [\"1-9\", \"70000\"]", &[(2, 10, "a range"), (2, 17, "1 to 65535")]),
    ("[[service]]\nallow = \"10.0.0.0/8\"", &[(2, 9, "write allow = [\"203.0.113.0/24\"]")]),
    (
        "[[service]]\nallow = [\"0.0.0.0/0\"]\nanyone = 1",
        &[
            (2, 10, "add the line `anyone = true` to the [[service]]"),
            (3, 10, "true or false belongs here"),
        ],
    ),
    // Prefixes and groups.
    (
        "[[service]]\nallow = [\"10.1.2.3/8\", \"::1\"]\ndeny = [\"010.0.0.1\"]",
        &[
            (2, 10, "write 10.0.0.0/8 for the network or 10.1.2.3"),
            (2, 24, "leave it out"),
            (3, 9, "write 10.0.0.1"),
        ],
    ),
    (
        "[[service]]\nallow = [\n  \"ünïcode\", \"10.1.2.3/8\"\n]",
        &[(3, 3, ""), (3, 14, "host bits")],
    ),
    (
        "[[service]]\nallow = [\"offce\"]\n[groups]\noffice = [\"192.0.2.1\"]",
        &[(2, 10, "\"office\"")],
    ),
    ("[[service]]\nallow = [\"localhost\"]", &[(2, 10, "define it under [groups], or write an")]),
    (
        "[groups]\noffice = [\"0.0.0.0/0\"]\n[[service]]\nallow = [\"office\"]",
        &[(2, 11, "`anyone")],
    ),
    ("[groups]\noffice = [\"192.0.2.1/24\"]", &[(2, 11, "write 192.0.2.0/24")]),
    ("[groups]\n\"10.0.0.0/8\" = []", &[(2, 1, "a letter first")]),
    ("groups = [\"office\"]", &[(1, 10, "a table belongs here, not a list: write [groups]")]),
    // Ends.
    (
        "[[service]]\nallow = [{ from = \"192.0.2.1\", expires = \"tomorrow\" }]",
        &[(2, 42, "write date, time and offset")],
    ),
    (
        "[[service]]\nallow = [{ from = \"192.0.2.1\", expires = 2036-01-01 }]",
        &[(2, 42, "write date, time and offset")],
    ),
    (
        "[[service]]\nallow = [{ expires = \"2036-01-01T00:00:00Z\" }]",
        &[(2, 10, "whom is this entry about?")],
    ),
    ("[[service]]\nallow = [{ from = \"192.0.2.1\", expire = 1 }]", &[(2, 32, "not known")]),
    (
        "[groups]\na = []\n[[service]]\nallow = [\"a\", { from = \"a\", expires = \"2036-01-01T00:00:00Z\" }]",
        &[(4, 24, "write it where the group has its members")],
    ),
    ("[[service]]\nexpires = 1", &[(2, 1, "misplaced: write it in an entry of a list")]),
    // Keys.
    ("interface = \"auto\"", &[(1, 1, "`interface` is not known: write `interfaces`")]),
    ("[[services]]\nports = [\"0\"]", &[(1, 3, "write `service`")]),
    ("[[service]]\nport = [\"0\"]", &[(2, 1, "`port` is not known: write `ports`")]),
    ("allow = [\"10.0.0.0/8\"]", &[(1, 1, "misplaced: write it under [[service]]")]),
    ("[[service]]\nmode = \"off\"", &[(2, 8, "enforce")]),
    ("[[service]]\nallow = [{ on = [\"eth1\"] }]", &[(2, 10, "whom is this entry about?")]),
    ("[[service]]\nallow = [{ from = 5 }]", &[(2, 19, "a list belongs here")]),
    (
        "[[service]]\nallow = [{ from = \"10.0.0.0/8\", at = [\"eth1\"] }]",
        &[(2, 33, "`at` is not known in an entry of a list")],
    ),
    ("[[service]]\nallow = [7]", &[(2, 10, "text in quotes, or an entry in braces")]),
    (
        "[[service]]\nallow = [{ from = \"10.0.0.0/8\", on = [\"eth 1\"] }]",
        &[(2, 39, "is no interface name")],
    ),
    ("[[service]]\nper_second = 1", &[(2, 1, "misplaced: write it under [events]")]),
    (
        "[events]\nburst = 5",
        &[(2, 1, "not known under [events]: write one of `per_second`, `keep`")],
    ),
    ("colour = 1", &[(1, 1, "write one of `mode`, `interfaces`, `exclude`")]),
    ("[[service]]\nexpires = 5", &[(2, 1, "`expires` is misplaced: write it in an entry")]),
    ("[metrics]\nlisten = \":9434\"", &[(2, 10, "write \"0.0.0.0:9434\"")]),
    ("[metrics]\nlisten = 9434", &[(2, 10, "text in quotes belongs here")]),
    ("[metrics]\naddress = \"off\"", &[(2, 1, "under [metrics]: write one of `listen`")]),
    ("listen = \"off\"", &[(1, 1, "misplaced: write it under [metrics]")]),
    ("include = [\"more.toml\"]", &[(1, 1, "write it in a group, [groups.NAME]")]),
    ("[groups.a]\ninclude = \"/no/such/list\"", &[(2, 11, "/no/such/list: there is no such file")]),
    ("[groups.a]\ninclude = 5", &[(2, 11, "a list belongs here, not a whole number")]),
    ("[groups.a]\nprefix = [\"192.0.2.1\"]", &[(2, 1, "write `prefixes` or `include`")]),
    ("[groups.a]\nprefixes = [\"192.0.2\"]", &[(2, 13, "")]),
    ("[[service]]\nscope = \"local\"", &[(2, 1, "at the top of the file")]),
    ("scope = \"host\"", &[(1, 9, "\"host\"")]),
    ("pin_dir = \"/pins\"", &[(1, 1, "use --pin-dir or OLLAMA_GUARD_PIN_DIR")]),
    // No valid TOML: what is certain is said too, and nothing that may only follow from it.
    ("mode = enforce", &[(1, 8, "not valid TOML: string values must be quoted")]),
    ("mode = \"enforce\nattach = \"drv\"", &[(1, 16, "not valid TOML"), (2, 10, "\"drv\"")]),
    ("mode = \"observe\"\nmode = \"enforce\"", &[(2, 1, "not valid TOML: duplicate key")]),
    ("[events\nper_second = 0", &[(1, 8, "not valid TOML: unclosed table")]),
    (
        "[groups]\noffice = \"1.2.3.4]\n[[service]]\nallow = [\"office\"]",
        &[(2, 19, "not valid TOML")],
    ),
    ("capacity = 1\u{1}", &[(1, 12, "not valid TOML")]),
    ("=", &[(1, 1, "not valid TOML")]),
    (
        "[[service]]\nallow = [\n  \"10.0.0.0/8\"\n  \"192.0.2.1\",\n  \"10.1.2.3/8\"\n]",
        &[(4, 3, "not valid TOML: missing comma"), (5, 3, "host bits")],
    ),
];

fn written(text: &str) -> Text {
    Text { path: "/c".into(), text: text.to_owned() }
}

#[test]
fn each_broken_file_is_answered_with_all_that_is_wrong_with_it() {
    for (text, expected) in CORPUS {
        let mut problems = Vec::new();
        file::layer(&[written(text)], &Nowhere, &mut Files::default(), &mut problems);
        let said = Problems::new(problems).map(|p| p.to_string()).unwrap_or_default();
        let context = format!("--- text\n{text}\n--- said\n{said}\n---");
        assert_eq!(said.lines().count(), expected.len(), "{context}");
        for (line, (at_line, at_column, part)) in said.lines().zip(*expected) {
            let place = format!("/c:{at_line}:{at_column}: ");
            assert!(line.starts_with(&place) && line.contains(part), "{place}{part}\n{context}");
        }
    }
}

proptest! {
    #[test]
    fn any_text_is_answered_and_places_lie_within_it(
        base in prop::sample::select(CORPUS),
        at in any::<prop::sample::Index>(),
        removed in 0_usize..4,
        added in "[\\[\\]=\"'.,#\\n a0é\u{1}]{0,4}",
    ) {
        let mut text: Vec<char> = base.0.chars().collect();
        let start = at.index(text.len() + 1);
        let end = (start + removed).min(text.len());
        text.splice(start..end, added.chars());
        let text: String = text.into_iter().collect();
        let mut problems = Vec::new();
        file::layer(&[written(&text)], &Nowhere, &mut Files::default(), &mut problems);
        for problem in problems {
            let Place::File { position: Some((line, column)), .. } = problem.place else {
                panic!("{problem:?}")
            };
            let width = text.split('\n').nth(line - 1).map(|line| line.chars().count());
            prop_assert!(width.is_some_and(|width| column <= width + 1), "{problem} in {text:?}");
        }
    }
}
