//! The play, in eight steps.

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Write as _},
    net::{IpAddr, SocketAddr},
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::Stage;
use crate::{
    bed::{
        Answer, Bed, CLIENT_INTERFACE, Capture, Direction, Guard, GuardSetup, Host, Knock, Process,
        SERVER_DOOR, Standin, knock, post, start, xdp_program_id,
    },
    packet::ends,
    policy::{FRIEND4, FRIEND6, GUARDED, STRANGER4, STRANGER6},
};

/// How long a client that is to be served may wait.
const SERVED_PATIENCE: Duration = Duration::from_secs(5);
/// How long a client waits that is to get nothing: the first SYN and its repeat after a second.
const SILENT_PATIENCE: Duration = Duration::from_millis(1300);
/// How long the drop events may take to stream by.
const EVENTS_PATIENCE: Duration = Duration::from_secs(5);
/// Drop events to print; further ones are counted only.
const EVENTS_SHOWN: usize = 12;

/// Plays the demo with this binary. What is claimed and seen is recorded on the stage.
///
/// # Errors
///
/// If the demo can't go on, or was interrupted. A claim that does not hold is no error here.
pub fn play(stage: &mut Stage, binary: &Path) -> Result<()> {
    stage.say(&format!(
        "ollama-guard drops every packet to port {GUARDED} whose source is not on the allowlist, \
         in the kernel, before the network stack. Watch it:"
    ));
    stage.step("building the stage")?;
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    stage.say(&format!(
        "      a server with a stand-in for Ollama on port {GUARDED}; a friend ({FRIEND4}, \
         {FRIEND6});\n      two strangers ({STRANGER4} and {STRANGER6}), each in a network \
         namespace of its own"
    ));

    stage.step("without a guard, anyone is served")?;
    everyone_asks(stage, &bed, |_| true)?;

    stage.step("the guard goes up and allows the friend")?;
    let mut guard = GuardSetup::of(SERVER_DOOR)
        .binary(binary)
        .attach("native")
        .allow(FRIEND4)
        .allow(FRIEND6)
        .start(&bed.server.namespace)?;
    the_door_is_covered(stage, &bed, &guard)?;
    let events = Events::stream(&guard)?;

    stage.step("strangers get nothing, the friend is served")?;
    let back = packets_back(&bed)?;
    everyone_asks(stage, &bed, |client| client.mac == bed.friend.mac)?;
    let back: u64 = back.into_iter().map(|capture| capture.stop().count).sum();
    stage.line("packets that came back to the strangers", back.to_string(), back == 0)?;
    the_friend_asks_the_model(stage, &bed)?;
    drops_stream_by(stage, &events)?;

    let strangers = [STRANGER4.to_string(), STRANGER6.to_string()];
    stage.step("`allow add` lets the strangers in")?;
    edit(stage, &guard, "add", &strangers)?;
    everyone_asks(stage, &bed, |_| true)?;

    stage.step("`allow remove` shuts them out again")?;
    edit(stage, &guard, "remove", &strangers)?;
    everyone_asks(stage, &bed, |client| client.mac == bed.friend.mac)?;

    stage.step("kill -9 of the daemon opens nothing")?;
    // Before the daemon: a reader says when its stream breaks off.
    drop(events);
    guard.kill9()?;
    everyone_asks(stage, &bed, |client| client.mac == bed.friend.mac)?;

    stage.step("`detach` removes it from the kernel: the way is free again")?;
    let detached = guard.cli(&["detach"])?;
    let left = xdp_program_id(&bed.server.namespace, SERVER_DOOR)?;
    let is_gone = detached.succeeded() && left.is_none() && !guard.pin_dir().exists();
    let seen = if is_gone { "nothing left".to_owned() } else { format!("{detached:?}, {left:?}") };
    stage.line("what is left in the kernel", seen, is_gone)?;
    everyone_asks(stage, &bed, |_| true)?;

    stage.step("cleaning up")?;
    Ok(())
}

/// Every client asks, in each family that it speaks; some are to be served, the others are to
/// hear nothing.
fn everyone_asks(stage: &mut Stage, bed: &Bed, is_welcome: impl Fn(&Host) -> bool) -> Result<()> {
    stage.go_on()?;
    let patience =
        |client: &Host| if is_welcome(client) { SERVED_PATIENCE } else { SILENT_PATIENCE };
    for knock in knock(bed, patience)? {
        let client = bed
            .clients()
            .into_iter()
            .find(|client| client.namespace.name() == knock.client)
            .context("a client that is not there")?;
        let claim = format!(
            "{} {} {}",
            who(&knock),
            address_of(client, knock.server),
            if is_welcome(client) { "is served" } else { "gets nothing" }
        );
        let (seen, is_served) = match &knock.answer {
            Answer::Served(body) => (String::from_utf8_lossy(body).into_owned(), true),
            Answer::NoAnswer => ("no answer".to_owned(), false),
            other => (format!("{other:?}"), false),
        };
        let held = if is_welcome(client) { is_served } else { knock.answer == Answer::NoAnswer };
        stage.line(claim, seen, held)?;
    }
    Ok(())
}

const fn who(knock: &Knock) -> &'static str {
    if knock.is_friend { "the friend" } else { "a stranger" }
}

fn address_of(client: &Host, server: SocketAddr) -> IpAddr {
    let address = match server {
        SocketAddr::V4(_) => client.v4.map(IpAddr::from),
        SocketAddr::V6(_) => client.v6.map(IpAddr::from),
    };
    address.unwrap_or_else(|| server.ip())
}

fn the_door_is_covered(stage: &mut Stage, bed: &Bed, guard: &Guard<'_>) -> Result<()> {
    let door = guard.status()?.door(SERVER_DOOR)?;
    let seen = xdp_program_id(&bed.server.namespace, SERVER_DOOR)?;
    let held = door.is_covered
        && door.attach.as_deref() == Some("native")
        && seen.is_some()
        && door.program == seen;
    let mut text = String::new();
    match (&door.attach, seen) {
        (Some(attach), Some(id)) if held => write!(text, "{attach} XDP, program {id}")?,
        _ => write!(text, "{door:?}, the kernel says {seen:?}")?,
    }
    stage.line(format!("{SERVER_DOOR} is covered"), text, held)
}

/// The friend streams an answer from the model through the guard.
fn the_friend_asks_the_model(stage: &mut Stage, bed: &Bed) -> Result<()> {
    let question = r#"{"model":"standin","prompt":"Who is there?"}"#;
    for server in bed.friend.servers(GUARDED) {
        let answer =
            post(&bed.friend.namespace, server, "/api/generate", question, SERVED_PATIENCE)?;
        let claim = format!("the friend {} uses the model", address_of(&bed.friend, server));
        let seen = match &answer {
            Answer::Served(body) => format!("{} bytes streamed", body.len()),
            other => format!("{other:?}"),
        };
        stage.line(claim, seen, answer.is_served())?;
    }
    Ok(())
}

fn edit(stage: &mut Stage, guard: &Guard<'_>, verb: &str, prefixes: &[String]) -> Result<()> {
    let mut arguments = vec!["allow", verb];
    arguments.extend(prefixes.iter().map(String::as_str));
    stage.say(&format!("      $ ollama-guard {}", arguments.join(" ")));
    let finished = guard.cli(&arguments)?;
    let seen = if finished.succeeded() { "done" } else { finished.stderr.trim() };
    stage.line(format!("`allow {verb}`"), seen, finished.succeeded())
}

/// Whatever comes back from the guarded port to the strangers, from now on.
fn packets_back(bed: &Bed) -> Result<Vec<Capture>> {
    [&bed.stranger4, &bed.stranger6]
        .into_iter()
        .map(|stranger| {
            Capture::start(&stranger.namespace, CLIENT_INTERFACE, |frame, direction| {
                direction == Direction::In
                    && ends(frame).is_some_and(|ends| ends.source.port() == GUARDED)
            })
        })
        .collect()
}

/// Both strangers are seen in the stream.
fn drops_stream_by(stage: &mut Stage, events: &Events) -> Result<()> {
    let deadline = Instant::now() + EVENTS_PATIENCE;
    for stranger in [STRANGER4.to_string(), STRANGER6.to_string()] {
        while !events.mentions(&stranger) && Instant::now() < deadline {
            stage.go_on()?;
            thread::sleep(Duration::from_millis(10));
        }
        let is_seen = events.mentions(&stranger);
        let seen = if is_seen { "seen" } else { "not seen" };
        stage.line(format!("the drops of {stranger} stream by"), seen, is_seen)?;
    }
    Ok(())
}

/// `events --follow`, printed as it comes.
struct Events {
    lines: Arc<Mutex<Vec<String>>>,
    process: Option<Process>,
    printer: Option<JoinHandle<()>>,
}

impl Events {
    fn stream(guard: &Guard<'_>) -> Result<Self> {
        let mut command = guard.command(&["events", "--follow"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = start(&mut command)?;
        let output = process.take_stdout().context("a pipe from the events")?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let printer = {
            let lines = Arc::clone(&lines);
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(std::io::Result::ok) {
                    let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                    if lines.len() < EVENTS_SHOWN {
                        let _ = writeln!(std::io::stdout().lock(), "      | {line}");
                    }
                    lines.push(line);
                }
            })
        };
        Ok(Self { lines, process: Some(process), printer: Some(printer) })
    }

    fn mentions(&self, address: &str) -> bool {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().any(|line| line.contains(address))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // Its end closes the pipe, which ends the printer.
        drop(self.process.take());
        if let Some(printer) = self.printer.take() {
            let _ = printer.join();
        }
    }
}
