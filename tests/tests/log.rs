//! Where the log goes, and that the walls around a running daemon do not stand in its way. The journal is the
//! test, which takes what systemd's would; systemd's own takes it in `cargo xtask package-test`.

use std::{
    collections::BTreeMap,
    fs::{self, File, Permissions},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::UnixDatagram,
    },
    path::PathBuf,
    process::Command,
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use ollama_guard_tests::{
    bed::{Bed, Guard, GuardSetup, Process, SERVER_DOOR, start, until},
    policy::FRIEND4,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// A script for `sh -c`: the command behind it, where the journal's socket is that of a directory.
const WITH_A_JOURNAL: &str = "set -e
    mount -t tmpfs none /run
    mkdir -p /run/systemd/journal
    mount --bind \"$0\" /run/systemd/journal
    exec \"$@\"";

/// A journal in a directory.
struct Journal {
    directory: PathBuf,
    entries: Receiver<Vec<u8>>,
}

impl Journal {
    fn beside(guard: &Guard<'_>) -> Result<Self> {
        let directory = guard.file("journal");
        fs::create_dir(&directory)?;
        fs::set_permissions(&directory, Permissions::from_mode(0o755))?;
        let path = directory.join("socket");
        let socket = UnixDatagram::bind(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o666))?;
        let (send, entries) = channel();
        thread::spawn(move || {
            let mut bytes = vec![0; 1 << 16];
            while let Ok(length) = socket.recv(&mut bytes) {
                // The first one is empty: somebody asks whether there is a journal.
                if length > 0 && send.send(bytes[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Ok(Self { directory, entries })
    }

    /// The next entry with such a message.
    fn entry(&self, message: &str) -> Result<BTreeMap<String, String>> {
        loop {
            let bytes = self.entries.recv_timeout(PATIENCE);
            let bytes = bytes.with_context(|| format!("nobody says {message}"))?;
            let fields = fields(&bytes).with_context(|| format!("no entry: {bytes:?}"))?;
            if fields.get("MESSAGE").is_some_and(|text| text.contains(message)) {
                return Ok(fields);
            }
        }
    }
}

/// The fields of an entry: `NAME=value`, or the name on a line, eight bytes of length, and the value
/// (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/).
fn fields(mut bytes: &[u8]) -> Option<BTreeMap<String, String>> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    let mut fields = BTreeMap::new();
    while !bytes.is_empty() {
        let end = bytes.iter().position(|&byte| byte == b'\n')?;
        let line = &bytes[..end];
        bytes = &bytes[end + 1..];
        if let Some(equals) = line.iter().position(|&byte| byte == b'=') {
            fields.insert(text(&line[..equals])?, text(&line[equals + 1..])?);
            continue;
        }
        let (length, rest) = bytes.split_first_chunk()?;
        let (value, rest) =
            rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        fields.insert(text(line)?, text(value)?);
        bytes = rest.strip_prefix(b"\n")?;
    }
    Some(fields)
}

fn guard<'bed>(bed: &'bed Bed, more: &[&str]) -> Result<Guard<'bed>> {
    let setup = GuardSetup::of(SERVER_DOOR).attach("generic").allow(FRIEND4).arguments(more);
    setup.prepare(&bed.server.namespace)
}

/// Starts the daemon where there is such a journal. `stream` is what `JOURNAL_STREAM` says, of the file that
/// standard error is.
fn launch(
    bed: &Bed,
    guard: &Guard<'_>,
    journal: &Journal,
    stream: impl FnOnce(&File) -> Result<String>,
) -> Result<Process> {
    let log = File::options().create(true).append(true).open(guard.file("daemon.log"))?;
    let daemon = guard.run_command();
    let words: Vec<_> = daemon.get_args().collect();
    let inner = words.iter().position(|word| *word == "--").context("no command")? + 1;
    let mut command: Command = bed.server.namespace.command("unshare");
    command.args(["--mount", "--propagation", "private", "--", "sh", "-c", WITH_A_JOURNAL]);
    command.arg(&journal.directory).args(&words[inner..]);
    command.env("JOURNAL_STREAM", stream(&log)?);
    start(command.stdout(log.try_clone()?).stderr(log))
}

fn numbers(file: &File) -> Result<String> {
    let file = file.metadata()?;
    Ok(format!("{}:{}", file.dev(), file.ino()))
}

fn until_it_answers(guard: &Guard<'_>) -> Result<()> {
    until("the daemon to answer", PATIENCE, || guard.ask("GET", "/v1/status", "").is_ok())
        .with_context(|| guard.log())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_daemon_of_systemds_writes_to_the_journal_with_fields() -> Result<()> {
    let bed = Bed::new()?;
    let guard = guard(&bed, &[])?;
    let journal = Journal::beside(&guard)?;
    let _daemon = launch(&bed, &guard, &journal, numbers)?;
    // Said by a daemon that is confined by then.
    let entry = journal.entry("ready")?;
    for (field, value) in
        [("PRIORITY", "6"), ("SYSLOG_IDENTIFIER", "ollama-guard"), ("OLLAMA_GUARD_DOORS", "1")]
    {
        ensure!(entry.get(field).is_some_and(|found| found == value), "{field}: {entry:?}");
    }
    until_it_answers(&guard)?;
    guard.done(&["deny", "add", "198.51.100.7"])?;
    guard.done(&["reload"])?;
    journal.entry("the configuration was read again")?;
    ensure!(guard.log().is_empty(), "{}", guard.log());
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_redirected_log_is_text_where_it_was_sent() -> Result<()> {
    let bed = Bed::new()?;
    let guard = guard(&bed, &[])?;
    let journal = Journal::beside(&guard)?;
    let other = |_: &File| numbers(&File::open("/dev/null")?);
    let _daemon = launch(&bed, &guard, &journal, other)?;
    until("the word", PATIENCE, || guard.log().contains(" INFO ready socket="))?;
    ensure!(journal.entries.try_recv().is_err(), "the journal was told");
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn json_is_an_object_a_line() -> Result<()> {
    let bed = Bed::new()?;
    let guard = guard(&bed, &["--log-format", "json"])?;
    let journal = Journal::beside(&guard)?;
    let _daemon = launch(&bed, &guard, &journal, numbers)?;
    until("the word", PATIENCE, || guard.log().contains("\"ready\""))?;
    let log = guard.log();
    let lines: Vec<serde_json::Value> =
        log.lines().map(serde_json::from_str).collect::<Result<_, _>>().context(log.clone())?;
    let ready = lines.iter().find(|line| line["message"] == "ready").context("nobody is ready")?;
    ensure!(ready["level"] == "INFO" && ready["doors"] == 1, "{ready}");
    ensure!(ready["timestamp"].is_string(), "{ready}");
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_journal_that_is_not_there_is_no_reason_not_to_guard() -> Result<()> {
    let bed = Bed::new()?;
    let guard = guard(&bed, &["--log-format", "journald"])?;
    let journal = Journal::beside(&guard)?;
    fs::remove_file(journal.directory.join("socket"))?;
    let _daemon = launch(&bed, &guard, &journal, numbers)?;
    until_it_answers(&guard)?;
    ensure!(guard.log().contains("the journal can't be reached"), "{}", guard.log());
    assert_eq!(guard.cli(&["status"])?.code, Some(0));
    Ok(())
}
