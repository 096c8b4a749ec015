//! What a Prometheus draws of the guard's metrics while something happens, as SVG.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::bed::{Namespace, fetch};

/// How often the metrics are asked for.
const EVERY: Duration = Duration::from_millis(500);
/// The metric, and the curves that are drawn of it: what is summed up, the title, and the colour.
const METRIC: &str = "ollama_guard_packets_total{";
const CURVES: [(&str, &str, &str); 2] = [
    ("verdict=\"drop\"", "dropped, packets per second", "#d9534f"),
    ("verdict=\"pass\"", "let in, packets per second", "#2f7ed8"),
];

const WIDTH: f64 = 760.0;
/// Room for the numbers at the left, for the marks at the top, and for the seconds below.
const LEFT: f64 = 70.0;
const TOP: f64 = 24.0;
const BELOW: f64 = 30.0;
/// A curve's height, with the line of its title.
const PANEL: f64 = 110.0;
const TITLE: f64 = 26.0;

/// The counters at a moment.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Seconds since the beginning.
    at: f64,
    /// As many as there are curves; `None` if nobody answered.
    counted: Option<[f64; CURVES.len()]>,
}

/// Asks for the metrics while something happens.
#[derive(Debug)]
pub(super) struct Recorder {
    begin: Instant,
    samples: Mutex<Vec<Sample>>,
    marks: Mutex<Vec<(f64, &'static str)>>,
}

impl Recorder {
    /// Asks there for as long as `work` takes. Returns what came of it, and the picture.
    pub(super) fn during<T>(
        namespace: &Namespace,
        daemon: SocketAddr,
        work: impl FnOnce(&Self) -> T,
    ) -> (T, String) {
        let recorder =
            Self { begin: Instant::now(), samples: Mutex::default(), marks: Mutex::default() };
        let is_over = AtomicBool::new(false);
        let outcome = thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let page = fetch(namespace, daemon, "/metrics", "").ok();
                    recorder.sample(page.filter(|page| page.status == 200).map(|page| page.body));
                    thread::sleep(EVERY);
                }
            });
            let outcome = work(&recorder);
            is_over.store(true, Ordering::Relaxed);
            outcome
        });
        let Self { samples, marks, .. } = recorder;
        let samples = samples.into_inner().unwrap_or_else(PoisonError::into_inner);
        let marks = marks.into_inner().unwrap_or_else(PoisonError::into_inner);
        (outcome, svg(&samples, &marks))
    }

    /// Writes a word at this moment.
    pub(super) fn mark(&self, word: &'static str) {
        let at = self.begin.elapsed().as_secs_f64();
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).push((at, word));
    }

    fn sample(&self, metrics: Option<String>) {
        let at = self.begin.elapsed().as_secs_f64();
        let counted = metrics.map(|metrics| CURVES.map(|(label, ..)| sum(&metrics, label)));
        let sample = Sample { at, counted };
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
    }
}

/// The sum of the metric's numbers that have this label.
fn sum(metrics: &str, label: &str) -> f64 {
    let lines = metrics.lines().filter(|line| line.starts_with(METRIC) && line.contains(label));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

/// How fast a counter has grown since it was seen before, as `rate()` says it. Where nobody answered, it is the mean until
/// somebody does again; `None` where the counter has begun anew. The daemon reads the counters once a second: an answer
/// that is the one before again says nothing.
fn rates(samples: &[Sample], curve: usize) -> Vec<(f64, Option<f64>)> {
    let mut answers: Vec<_> =
        samples.iter().filter_map(|sample| Some((sample.at, sample.counted?))).collect();
    answers.dedup_by_key(|(_, counted)| *counted);
    let counted = answers
        .iter()
        .filter_map(|(at, counted)| Some((*at, *counted.get(curve)?)))
        .collect::<Vec<_>>();
    let pairs = counted.iter().zip(counted.iter().skip(1));
    pairs
        .map(|((since, before), (at, after))| {
            let grown = Some(after - before).filter(|grown| *grown >= 0.0);
            (*at, grown.map(|grown| grown / (at - since)))
        })
        .collect()
}

fn svg(samples: &[Sample], marks: &[(f64, &str)]) -> String {
    let last = samples.last().map_or(1.0, |sample| sample.at).max(1.0);
    let height = TOP + (PANEL + TITLE) * CURVES.len() as f64 + BELOW;
    let x = |seconds: f64| LEFT + seconds / last * (WIDTH - LEFT - 10.0);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#808080\">\n"
    );
    // Writing into a string never fails.
    for (seconds, word) in marks {
        let (x, bottom) = (x(*seconds), height - BELOW);
        let _ = writeln!(
            text,
            "<path d=\"M{x:.1} {TOP}V{bottom}\" stroke=\"#808080\" stroke-dasharray=\"2 3\"/>\n\
             <text x=\"{:.1}\" y=\"{}\">{word}</text>",
            x + 3.0,
            TOP - 8.0
        );
    }
    for (number, (_, title, colour)) in CURVES.iter().enumerate() {
        let rates = rates(samples, number);
        let top = TOP + (PANEL + TITLE) * number as f64 + TITLE;
        let bottom = top + PANEL;
        let most = rates.iter().filter_map(|(_, rate)| *rate).fold(1.0, f64::max);
        let _ = writeln!(
            text,
            "<text x=\"{LEFT}\" y=\"{:.1}\" font-weight=\"bold\">{title}</text>\n\
             <text x=\"{1:.1}\" y=\"{2:.1}\" text-anchor=\"end\">{most:.0}</text>\n\
             <text x=\"{1:.1}\" y=\"{bottom:.1}\" text-anchor=\"end\">0</text>\n\
             <path d=\"M{LEFT} {bottom:.1}H{WIDTH}\" stroke=\"#808080\"/>",
            top - 8.0,
            LEFT - 6.0,
            top + 10.0
        );
        for run in rates.split(|(_, rate)| rate.is_none()).filter(|run| !run.is_empty()) {
            let points = run.iter().filter_map(|(at, rate)| {
                Some(format!("{:.1},{:.1}", x(*at), bottom - (*rate)? / most * PANEL))
            });
            let points = points.collect::<Vec<_>>().join(" ");
            let _ = writeln!(
                text,
                "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>"
            );
        }
    }
    let step = if last > 60.0 { 10 } else { 5 };
    for second in (0..=last as u32).step_by(step) {
        let x = x(f64::from(second));
        let y = height - BELOW + 18.0;
        let _ = writeln!(
            text,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{second} s</text>"
        );
    }
    text + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "# TYPE ollama_guard_packets_total counter\n\
                           ollama_guard_packets_total{verdict=\"drop\",reason=\"a\"} 7\n\
                           ollama_guard_packets_total{verdict=\"drop\",reason=\"b\"} 3\n\
                           ollama_guard_packets_total{verdict=\"pass\",reason=\"c\"} 1\n";

    #[test]
    fn what_has_a_label_is_summed_up() {
        assert_eq!(CURVES.map(|(label, ..)| sum(METRICS, label)), [10.0, 1.0]);
    }

    #[test]
    fn a_curve_goes_on_where_nobody_answered_and_is_broken_where_a_counter_begins_anew() {
        let sample = |at, counted| Sample { at, counted };
        let samples = [
            sample(0.0, Some([0.0, 0.0])),
            sample(1.0, Some([10.0, 5.0])),
            sample(1.5, Some([10.0, 5.0])),
            sample(2.0, None),
            sample(3.0, Some([30.0, 6.0])),
            sample(5.0, Some([50.0, 1.0])),
        ];
        let of = |curve| rates(&samples, curve).iter().map(|(_, rate)| *rate).collect::<Vec<_>>();
        assert_eq!(of(0), [Some(10.0), Some(10.0), Some(10.0)]);
        assert_eq!(of(1), [Some(5.0), Some(0.5), None]);
        let picture = svg(&samples, &[(1.5, "now")]);
        assert_eq!(picture.matches("<polyline").count(), 2);
        assert!(picture.contains(">now</text>") && picture.contains(">5 s</text>"), "{picture}");
    }
}
