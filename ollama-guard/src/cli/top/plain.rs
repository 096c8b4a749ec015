//! One snapshot, for pipes, scripts and small terminals.

use std::{
    fmt::{self, Write as _},
    io::Write,
    process::ExitCode,
    time::Instant,
};

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::sleep;

use super::{
    TopArgs, feed,
    model::{Model, Update},
    rates::ByVerdict,
    screen::{self, per_second},
    strangers::{Choice, Stranger},
};
use crate::{
    cli::written,
    control::Client,
    events::{Mark, event::Outcome, text::Printable},
    status::{BooksStatus, ConfigurationStatus, DoorStatus, StatusReport},
};

/// Looks twice, an interval apart, and prints.
pub(super) async fn run(args: &TopArgs, out: &mut (dyn Write + Send)) -> anyhow::Result<ExitCode> {
    let client = Client::new(args.socket());
    let mut model = Model::default();
    let begin = Instant::now();
    let look = async |model: &mut Model| -> anyhow::Result<()> {
        let report = Box::new(feed::status(&client).await?);
        model.take(Update::Status(report, Instant::now()), Timestamp::now());
        Ok(())
    };
    look(&mut model).await?;
    sleep(args.interval).await;
    look(&mut model).await?;
    let seconds = begin.elapsed().as_secs_f64();
    let mut lines = client.events_within(&args.window(), false).await?;
    while let Some(line) = lines.next().await? {
        model.take(Update::Line(line), Timestamp::now());
    }
    let choice = Choice { ignored: args.ignore.clone(), ..Choice::default() };
    let Some(snapshot) = Snapshot::of(&model, &choice, Timestamp::now(), seconds) else {
        anyhow::bail!("the daemon said nothing");
    };
    let text =
        if args.json { serde_json::to_string(&snapshot)? + "\n" } else { format!("{snapshot}") };
    written(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// All of the screen at one moment.
#[derive(Debug, Serialize)]
struct Snapshot<'m> {
    #[serde(serialize_with = "whole_seconds")]
    time: Timestamp,
    /// Over how long the rates are.
    seconds: f64,
    enforcing: bool,
    problems: &'m [String],
    mode: &'m str,
    generation: u64,
    ports: &'m [String],
    per_second: ByVerdict<f64>,
    totals: ByVerdict<u64>,
    /// What is said of strangers is estimated from events.
    strangers_are_estimates: bool,
    /// Events that are known to be missing there.
    events_missing: u64,
    strangers: Vec<Row>,
    doors: &'m [DoorStatus],
    books: &'m BooksStatus,
    configuration: Option<&'m ConfigurationStatus>,
    #[serde(skip)]
    report: &'m StatusReport,
}

#[derive(Debug, Serialize)]
struct Row {
    source: String,
    packets: u64,
    per_second: f64,
    #[serde(serialize_with = "whole_seconds")]
    first: Timestamp,
    #[serde(serialize_with = "whole_seconds")]
    last: Timestamp,
    verdict: Outcome,
    reason: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    marks: Vec<Mark>,
}

fn whole_seconds<S: serde::Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{time:.0}"))
}

impl<'m> Snapshot<'m> {
    fn of(model: &'m Model, choice: &Choice, now: Timestamp, seconds: f64) -> Option<Self> {
        let report = model.report.as_deref()?;
        let row = |stranger: &Stranger| Row {
            source: stranger.source(),
            packets: stranger.packets,
            per_second: (stranger.rate(now) * 10.0).round() / 10.0,
            first: stranger.first,
            last: stranger.last,
            verdict: stranger.verdict,
            reason: stranger.reason.clone(),
            marks: stranger.marks.clone(),
        };
        Some(Self {
            time: now,
            seconds,
            enforcing: report.enforcing,
            problems: &report.problems,
            mode: &report.mode,
            generation: report.generation,
            ports: &report.ports,
            per_second: model.rates.now(),
            totals: model.rates.totals(),
            strangers_are_estimates: true,
            events_missing: model.missing,
            strangers: model.strangers.chosen(choice, now).into_iter().map(row).collect(),
            doors: &report.doors,
            books: &report.books,
            configuration: report.daemon.configuration.as_ref(),
            report,
        })
    }
}

/// Every table under its titles, every line of one kind with the same columns.
impl fmt::Display for Snapshot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.enforcing { "ENFORCING" } else { "NOT ENFORCING" };
        writeln!(
            f,
            "{word}  mode {}  generation {}  ports {}  at {:.0}  over {:.1} s",
            self.mode,
            self.generation,
            self.ports.join(","),
            self.time,
            self.seconds
        )?;
        for problem in self.problems {
            writeln!(f, "problem: {}", Printable(problem))?;
        }
        writeln!(f, "\n{:<12} {:>12} {:>16}", "VERDICT", "PER_SECOND", "TOTAL")?;
        let (rates, totals) = (&self.per_second, &self.totals);
        for (name, rate, total) in [
            ("passed", rates.passed, totals.passed),
            ("dropped", rates.dropped, totals.dropped),
            ("would-drop", rates.would_drop, totals.would_drop),
        ] {
            writeln!(f, "{name:<12} {:>12} {total:>16}", per_second(rate))?;
        }
        writeln!(
            f,
            "\n{:<24} {:>12} {:>12}  {:<20}  {:<20}  {:<10}  {:<27}  MARKS",
            "STRANGER", "~PACKETS", "~PER_SECOND", "FIRST", "LAST", "VERDICT", "REASON"
        )?;
        for row in &self.strangers {
            let mut line = format!(
                "{:<24} {:>12} {:>12}  {:<20}  {:<20}  {:<10}  {:<27}",
                row.source,
                row.packets,
                per_second(row.per_second),
                format!("{:.0}", row.first),
                format!("{:.0}", row.last),
                row.verdict.name(),
                Printable(&row.reason).to_string(),
            );
            write!(
                line,
                "  {}",
                if row.marks.is_empty() { "-".into() } else { Mark::join(&row.marks) }
            )?;
            writeln!(f, "{line}")?;
        }
        if self.events_missing > 0 {
            writeln!(f, "({} events are missing in the estimates)", self.events_missing)?;
        }
        writeln!(f, "\n{:<16} COVERAGE", "DOOR")?;
        for door in self.doors {
            let name = Printable(&door.name).to_string();
            writeln!(f, "{name:<16} {}", screen::coverage(door))?;
        }
        writeln!(f, "\nbooks    {}", screen::books(self.report))?;
        writeln!(f, "config   {}", screen::configuration(self.report))?;
        if let Some(rejected) = self.report.rejected() {
            let first = rejected.problems.lines().next().unwrap_or_default();
            writeln!(f, "CONFIGURATION REJECTED at {:.0}: {}", rejected.at, Printable(first))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        cli::top::{
            model::tests::report,
            strangers::tests::{event, time},
        },
        events::{Event, Line},
    };

    fn model() -> Model {
        let (mut model, start) = (Model::default(), Instant::now());
        model.take(Update::Status(report(&[("allowed", 5, 0)]), start), time(0));
        let later = report(&[("allowed", 7, 0), ("not-listed", 300, 0)]);
        model.take(Update::Status(later, start + Duration::from_secs(2)), time(2));
        let scan = Event { marks: vec![Mark::Scan], ..event("203.0.113.66", 0, 400) };
        for one in [scan, event("2001:db8:bad::66", -100_000, 3)] {
            model.take(Update::Line(Line::Event(Arc::new(one))), time(2));
        }
        model.take(Update::Line(Line::Unwritten { unwritten: 9 }), time(2));
        model
    }

    #[test]
    fn the_snapshot_as_text() {
        let model = model();
        let snapshot = Snapshot::of(&model, &Choice::default(), time(2), 2.0).unwrap();
        let expected = "\
ENFORCING  mode enforce  generation 3  ports 11434/tcp  at 2026-03-01T12:00:02Z  over 2.0 s

VERDICT        PER_SECOND            TOTAL
passed                1.0                7
dropped             150.0              300
would-drop            0.0                0

STRANGER                     ~PACKETS  ~PER_SECOND  FIRST                 LAST                  VERDICT     REASON                       MARKS
203.0.113.66                      400         32.7  2026-03-01T12:00:00Z  2026-03-01T12:00:00Z  drop        not-listed                   scan
2001:db8:bad::/64                   3          0.0  2026-02-28T08:13:20Z  2026-02-28T08:13:20Z  drop        not-listed                   -
(9 events are missing in the estimates)

DOOR             COVERAGE
lo               not covered: loopback: only packets of this host itself arrive here
eth0             covered, native

books    1234 dropped = 1200 told + 34 over the budget + 0 lost
config   /etc/ollama-guard/config.toml, since 2026-03-01T09:00:00Z
";
        assert_eq!(snapshot.to_string(), expected);
    }

    #[test]
    fn the_snapshot_as_json() {
        let model = model();
        let ignored = vec!["2001:db8::/32".parse().unwrap()];
        let choice = Choice { ignored, ..Choice::default() };
        let snapshot = Snapshot::of(&model, &choice, time(2), 2.0).unwrap();
        let json = serde_json::to_value(&snapshot).unwrap();
        assert_eq!(json["per_second"]["dropped"], 150.0);
        assert_eq!(json["totals"]["passed"], 7);
        assert_eq!(json["strangers_are_estimates"], true);
        let strangers = serde_json::json!([{
            "source": "203.0.113.66", "packets": 400, "per_second": 32.7,
            "first": "2026-03-01T12:00:00Z", "last": "2026-03-01T12:00:00Z",
            "verdict": "drop", "reason": "not-listed", "marks": ["scan"],
        }]);
        assert_eq!(json["strangers"], strangers);
        assert_eq!(json["doors"][1]["name"], "eth0");
    }
}
