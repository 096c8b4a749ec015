//! The loop of the live screen: keys, updates and signals in, frames out.

use std::{
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::bail;
use jiff::Timestamp;
use ratatui::crossterm::event::{self, Event};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc::{Receiver, channel},
    time::{MissedTickBehavior, interval},
};

use super::{
    TopArgs, feed,
    model::{Model, Update},
    screen,
    terminal::Taken,
    theme::Theme,
    view::{Action, Message, View},
};
use crate::{
    control::{
        Client, ClientError,
        protocol::{AddRequest, EditReply},
    },
    events::text::Printable,
    policy::Effect,
};

/// The clock goes on also if nothing happens.
const TICK: Duration = Duration::from_millis(250);
/// Between two frames, however much comes. A key is shown at once.
const FRAME: Duration = Duration::from_millis(100);
/// Updates that are taken in before the next frame.
const TOGETHER: usize = 1_024;

/// Shows the screen until the person has seen enough or the terminal goes away.
pub(super) async fn run(args: TopArgs) -> anyhow::Result<ExitCode> {
    let client = Client::new(args.socket());
    // Before the screen is taken: who may not, or asks in the wrong place, is told on a line.
    let report = feed::status(&client).await?;
    let mut model = Model::default();
    model.take(Update::Status(Box::new(report), Instant::now()), Timestamp::now());
    let mut signals = [
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
    ];
    let updates = feed::start(args.socket().to_owned(), args.interval, args.window());
    let taken = Taken::take()?;
    let live = Live { client, model, view: args.view(), updates, input: input(), taken };
    let [terminate, interrupt, hangup] = &mut signals;
    tokio::select! {
        outcome = live.show() => outcome?,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// What the person and the terminal do, from a thread that waits for it. It ends with the process.
fn input() -> Receiver<Event> {
    let (sender, receiver) = channel(64);
    thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                break;
            }
        }
    });
    receiver
}

struct Live {
    client: Client,
    model: Model,
    view: View,
    updates: Receiver<Update>,
    input: Receiver<Event>,
    taken: Taken,
}

impl Live {
    async fn show(mut self) -> anyhow::Result<()> {
        let theme = Theme::from_environment();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut drawn, mut had_input): (Option<Instant>, _) = (None, false);
        loop {
            if drawn.is_none_or(|drawn| drawn.elapsed() >= FRAME) {
                let (model, view) = (&self.model, &self.view);
                let now = Timestamp::now();
                self.taken.terminal.draw(|frame| screen::draw(frame, model, view, theme, now))?;
                drawn = Some(Instant::now());
            }
            tokio::select! {
                event = self.input.recv() => match event {
                    Some(Event::Key(key)) => {
                        (drawn, had_input) = (None, true);
                        match self.view.press(key, &self.model, Timestamp::now()) {
                            Action::None => {}
                            Action::Quit => return Ok(()),
                            Action::Add(effect, prefix) => self.add(effect, prefix).await,
                        }
                    }
                    // Another size: the next frame has it.
                    Some(_) => drawn = None,
                    None if had_input => return Ok(()),
                    None => bail!("no key can be read here: use `--once`, or a terminal"),
                },
                Some(update) = self.updates.recv() => {
                    let now = Timestamp::now();
                    self.model.take(update, now);
                    for _ in 0..TOGETHER {
                        let Ok(update) = self.updates.try_recv() else { break };
                        self.model.take(update, now);
                    }
                }
                _ = tick.tick() => {}
            }
        }
    }

    /// The same request as the command's.
    async fn add(&mut self, effect: Effect, prefix: String) {
        let request = AddRequest {
            effect,
            prefixes: vec![prefix],
            limits: None,
            comment: None,
            anyone: false,
            expires: None,
            for_seconds: None,
        };
        let reply = self.client.add(&request).await;
        self.view.message = Some(told(effect, reply));
    }
}

fn told(effect: Effect, reply: Result<EditReply, ClientError>) -> Message {
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) => {
            let text = format!("not done: {}", Printable(&error.to_string()));
            return Message { text, is_bad: true };
        }
    };
    let mut text = if reply.added.is_empty() {
        format!("nothing changed: {} has that {effect} rule", reply.unchanged.join(", "))
    } else {
        let added = reply.added.join(", ");
        format!("added: {effect} {added}; generation {} is in force", reply.generation)
    };
    for warning in &reply.warnings {
        text.push_str(&format!("; {warning}"));
    }
    Message { text: Printable(&text).to_string(), is_bad: !reply.warnings.is_empty() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_of_a_deed_is_one_line() {
        let reply = EditReply {
            generation: 4,
            added: vec!["192.0.2.9".into()],
            warnings: vec!["it stays\nclosed".into()],
            ..EditReply::default()
        };
        let message = told(Effect::Allow, Ok(reply));
        let text = "added: allow 192.0.2.9; generation 4 is in force; it stays\\nclosed";
        assert_eq!(message, Message { text: text.into(), is_bad: true });
        let reply = EditReply { unchanged: vec!["::1".into()], ..EditReply::default() };
        assert_eq!(told(Effect::Deny, Ok(reply)).text, "nothing changed: ::1 has that deny rule");
        let refused = ClientError::Refused { status: 403, message: "use sudo".into() };
        assert_eq!(told(Effect::Deny, Err(refused)).text, "not done: use sudo");
    }
}
