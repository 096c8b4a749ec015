//! P10: the daemon as a service with a user of its own, and everybody who talks to it.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{self, Command},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use ollama_guard_tests::{
    bed::{
        Bed, Guard, GuardSetup, PIN_DIR_PREFIX, RunsAs, SERVER_DOOR, SERVICE_UID, Standin,
        only_the_friend_is_served, run, start, until, xdp_program_id,
    },
    policy::{FRIEND4, FRIEND6, GUARDED, STRANGER4},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// A user with no right to anything.
const STRANGER_UID: u32 = 64_012;

fn guard_for_the_friend(user: RunsAs) -> GuardSetup {
    GuardSetup::of(SERVER_DOOR).attach("native").allow(FRIEND4).allow(FRIEND6).runs_as(user)
}

/// A script for `sh -c`: the command behind it, on a BPF file system of its own that is closed to
/// all but root, as systemd mounts it. The machine's own may be open.
const ON_A_CLOSED_BPFFS: &str = "set -e
    mount -t bpf -o mode=0700 bpf /sys/fs/bpf
    exec \"$@\"";

/// A directory of the machine's own BPF file system, made beforehand for the service's user, and
/// mounted where it can get at it, whether or not the rest is closed. As docs/privileges.md has it.
struct Prepared {
    directory: PathBuf,
}

impl Prepared {
    fn new() -> Result<Self> {
        let name = format!("{PIN_DIR_PREFIX}{}-prepared", process::id());
        let directory = Path::new("/sys/fs/bpf").join(name);
        let uid = SERVICE_UID.to_string();
        let mut install = Command::new("install");
        install.args(["-d", "-m", "0700", "-o", &uid, "-g", &uid]).arg(&directory);
        run(&mut install, PATIENCE)?.expect_success()?;
        Ok(Self { directory })
    }

    /// The daemon as the unit starts it: on a `/sys/fs/bpf` that has nothing but this directory.
    fn daemon(&self, guard: &Guard<'_>, bed: &Bed) -> Result<Command> {
        const UNIT: &str = "set -e
            dir=$1; shift
            exec 9<\"$dir\"
            mount -t tmpfs -o mode=0755 none /sys/fs/bpf
            mkdir \"$dir\"
            mount --no-canonicalize --bind /proc/self/fd/9 \"$dir\"
            exec 9<&-
            exec setpriv --reuid $0 --regid $0 --clear-groups --no-new-privs \\
                --bounding-set=-all,+bpf,+net_admin,+perfmon \\
                --inh-caps=-all,+bpf,+net_admin,+perfmon \\
                --ambient-caps=-all,+bpf,+net_admin,+perfmon -- \"$@\"";
        let daemon = guard.run_command();
        let words: Vec<_> = daemon.get_args().collect();
        let inner = words.iter().position(|word| *word == "--").context("no command")? + 1;
        let mut command = bed.server.namespace.command("unshare");
        command.args(["--mount", "--propagation", "private", "--", "sh", "-c", UNIT]);
        command.arg(SERVICE_UID.to_string()).arg(&self.directory).args(&words[inner..]);
        Ok(command)
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // Gone already where the test has come to its end.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_directory_made_beforehand_is_enough_where_the_bpf_file_system_is_roots() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    // The contrast: without the directory, the user is told what is missing, and by what command.
    let absent = Path::new("/sys/fs/bpf").join(format!("{PIN_DIR_PREFIX}{}-absent", process::id()));
    let setup = guard_for_the_friend(RunsAs::service()).pins_at(&absent);
    let unprepared = setup.prepare(&bed.server.namespace)?;
    let mut closed = Command::new("unshare");
    closed.args(["--mount", "--propagation", "private", "--", "sh", "-c", ON_A_CLOSED_BPFFS, "sh"]);
    let daemon = unprepared.run_command();
    closed.arg(daemon.get_program()).args(daemon.get_args());
    let refused = run(&mut closed, PATIENCE)?;
    ensure!(
        refused.code == Some(2) && refused.stderr.contains("install -d -m 0700"),
        "{refused:?}"
    );

    let prepared = Prepared::new()?;
    let setup = guard_for_the_friend(RunsAs::Root).pins_at(&prepared.directory);
    let guard = setup.prepare(&bed.server.namespace)?;
    let home = guard.state_dir().parent().context("a directory")?.to_owned();
    fs::set_permissions(&home, Permissions::from_mode(0o755))?;
    for (directory, mode) in [("state", 0o700), ("control", 0o750)] {
        let directory = home.join(directory);
        fs::create_dir(&directory)?;
        fs::set_permissions(&directory, Permissions::from_mode(mode))?;
        chown(&directory, Some(SERVICE_UID), Some(SERVICE_UID))?;
    }
    let log = home.join("unit.log");
    let launch = || -> Result<_> {
        let file = fs::File::options().create(true).append(true).open(&log)?;
        let mut command = prepared.daemon(&guard, &bed)?;
        let mut daemon = start(command.stdout(file.try_clone()?).stderr(file))?;
        let ready = until("the daemon to answer", PATIENCE, || {
            !daemon.is_running() || guard.ask("GET", "/v1/status", "").is_ok()
        });
        let said = fs::read_to_string(&log)?;
        ensure!(ready.is_ok() && daemon.is_running(), "{said}");
        Ok(daemon)
    };
    let mut daemon = launch()?;
    only_the_friend_is_served(&bed)?;
    let first = guard.cli(&["status", "--json"])?;
    assert_eq!(first.code, Some(0), "{first:?}");
    // Its mount namespace dies with it; the filter does not, and root can see it.
    daemon.kill()?;
    only_the_friend_is_served(&bed)?;
    assert_eq!(guard.cli(&["status"])?.code, Some(0));
    let mut daemon = launch()?;
    assert!(fs::read_to_string(&log)?.contains("adopted, without a gap"));
    // Root's command takes the directory away too, which the daemon could not.
    guard.done(&["detach"])?;
    daemon.wait(PATIENCE)?;
    assert_eq!(xdp_program_id(&bed.server.namespace, SERVER_DOOR)?, None);
    assert!(!prepared.directory.exists(), "the directory stays");
    Ok(())
}

/// Root, the service's own user, and somebody else at the same daemon.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn who_may_ask_the_services_daemon_is_answered_and_others_are_told_how() -> Result<()> {
    let bed = Bed::new()?;
    let guard = guard_for_the_friend(RunsAs::service()).start(&bed.server.namespace)?;
    let service = |arguments: &[&str]| guard.command(arguments);
    // The same words behind another user.
    let as_user = |uid: Option<u32>, arguments: &[&str]| -> Command {
        let command = service(arguments);
        let words: Vec<_> = command.get_args().collect();
        let binary = words.iter().rposition(|word| *word == "--").map_or(0, |at| at + 1);
        let Some(uid) = uid else {
            let mut command = bed.server.namespace.command(Path::new(words[binary]));
            command.args(&words[binary + 1..]);
            return command;
        };
        let id = uid.to_string();
        let mut command = bed.server.namespace.command("setpriv");
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--inh-caps=-all", "--"]);
        command.args(&words[binary..]);
        command
    };
    let questions: [&[&str]; 4] = [
        &["status"],
        &["explain", &STRANGER4.to_string()],
        &["allow", "add", "198.51.100.7"],
        &["allow", "list"],
    ];
    for arguments in questions {
        // `explain` says by 1 that a stranger would be dropped.
        let expected = Some(i32::from(arguments[0] == "explain"));
        for uid in [None, Some(SERVICE_UID)] {
            let mut command = match uid {
                None => as_user(None, arguments),
                Some(_) => service(arguments),
            };
            let answer = run(&mut command, PATIENCE)?;
            assert_eq!(answer.code, expected, "{arguments:?} as {uid:?}: {answer:?}");
        }
        let refused = run(&mut as_user(Some(STRANGER_UID), arguments), PATIENCE)?;
        assert_eq!(refused.code, Some(2), "{refused:?}");
        let text = &refused.stderr;
        assert!(text.contains("sudo") || text.contains("run as root"), "{refused:?}");
    }
    // The service's user without its capabilities may ask, but not look at the pins itself.
    let answer = run(&mut as_user(Some(SERVICE_UID), &["allow", "list"]), PATIENCE)?;
    assert_eq!(answer.code, Some(0), "{answer:?}");
    let refused = run(&mut as_user(Some(SERVICE_UID), &["explain", "192.0.2.1"]), PATIENCE)?;
    assert!(refused.code == Some(2) && refused.stderr.contains("CAP_BPF"), "{refused:?}");
    Ok(())
}
