//! Every family, in both text forms.
//!
//! Names and labels are an interface: dashboards and alerts are made of them. A new family goes
//! beside those of its kind, and into docs/metrics.md.

mod page;

use std::{fmt, sync::Arc};

use jiff::Timestamp;
use ollama_guard_common::{Mode, Reason, Verdict};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, prometheus_text, text},
    registry::{Registry, Unit},
};

use self::page::Page;
use super::{
    process::Process,
    sample::{Door, Kernel, Sample, Service},
};
use crate::{
    dataplane::{Hook, counters::Counts},
    policy::Family,
};

/// What stands for interfaces that have no counters of their own any more, or never had. The slash
/// is why no interface can have this name.
const ELSEWHERE: &str = "departed/other";

/// How a scrape is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    OpenMetrics,
    Prometheus,
}

impl Form {
    /// What a client takes, by its `Accept`.
    pub(super) fn accepted(accept: Option<&str>) -> Self {
        match accept {
            Some(accept) if accept.contains("application/openmetrics-text") => Self::OpenMetrics,
            _ => Self::Prometheus,
        }
    }

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
        }
    }
}

/// Writes a whole scrape.
///
/// # Errors
///
/// Only if a family has a value that its type does not fit.
pub(super) fn write(
    sample: Arc<Sample>,
    process: Process,
    form: Form,
) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    let own = Own { process, started: sample.started };
    registry.sub_registry_with_prefix("ollama_guard").register_collector(Box::new(Guard(sample)));
    registry.sub_registry_with_prefix("process").register_collector(Box::new(own));
    let mut text = String::with_capacity(32 * 1024);
    match form {
        Form::OpenMetrics => text::encode(&mut text, &registry)?,
        Form::Prometheus => prometheus_text::encode(&mut text, &registry)?,
    }
    Ok(text)
}

/// The families of the guard.
#[derive(Debug)]
struct Guard(Arc<Sample>);

impl Collector for Guard {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        let sample = &*self.0;
        let build = &sample.build;
        let labels = vec![
            ("version", build.version),
            ("revision", build.revision),
            ("layout", &build.layout),
            ("kernel_program_sha256", &build.object),
        ];
        page.infos("build", "Which ollama-guard this is", vec![labels])?;
        page.configuration(sample)?;
        let help =
            "Links, pins, programs and rules that were not as they should be and were put right";
        page.counters("repairs", help, vec![(vec![], sample.repairs)])?;
        let is_readable = sample.kernel.is_some();
        page.gauge("status_readable", "Whether the state in the kernel can be read", is_readable)?;
        match &sample.kernel {
            Some(kernel) => page.kernel(kernel),
            // What can't be read enforces nothing that anybody knows of.
            None => page.enforcing(false),
        }
    }
}

/// The families of the process, under the names that Prometheus' own libraries have for them.
#[derive(Debug)]
struct Own {
    process: Process,
    started: Timestamp,
}

impl Collector for Own {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        let Process { cpu_seconds, resident_bytes, open_fds, max_fds } = self.process;
        if let Some(seconds) = cpu_seconds {
            let help = "Time that the daemon has spent on a CPU, in user space and in the kernel";
            page.counters_of("cpu", help, Some(&Unit::Seconds), vec![(vec![], seconds)])?;
        }
        if let Some(bytes) = resident_bytes {
            let help = "Memory of the daemon that is resident";
            page.gauges_of("resident_memory", help, Some(&Unit::Bytes), vec![(vec![], bytes)])?;
        }
        if let Some(count) = open_fds {
            page.gauges("open_fds", "Open file descriptors", vec![(vec![], count)])?;
        }
        if let Some(count) = max_fds {
            let help = "The limit of open file descriptors";
            page.gauges("max_fds", help, vec![(vec![], count)])?;
        }
        page.time("start_time", "When the daemon started, since the epoch", self.started)
    }
}

impl Page<'_> {
    /// Named as Prometheus names its own, for people look for these.
    fn configuration(&mut self, sample: &Sample) -> fmt::Result {
        let configuration = &sample.configuration;
        self.gauge(
            "config_last_reload_successful",
            "Whether the configuration that was read last is in force: 0 if it was rejected",
            configuration.is_accepted,
        )?;
        let help = "When the configuration was read last, whatever came of it";
        self.time("config_last_reload_timestamp", help, configuration.read)?;
        let help = "Since when the configuration in force is";
        self.time("config_last_reload_success_timestamp", help, configuration.since)
    }

    fn kernel(&mut self, kernel: &Kernel) -> fmt::Result {
        self.enforcing(kernel.enforcing)?;
        let modes = Mode::ALL
            .map(|mode| (vec![("mode", mode.name())], u32::from(mode.name() == kernel.mode)));
        let help = "The mode in force has 1: enforce drops, observe only counts";
        self.gauges("mode", help, modes.to_vec())?;
        let help = "Things that are wrong, as `ollama-guard status` lists them";
        self.gauges("problems", help, vec![(vec![], kernel.problems)])?;
        let help = "The number of the policy in force: it grows with each change";
        self.gauges("policy_generation", help, vec![(vec![], kernel.generation)])?;
        self.rules(kernel)?;
        self.doors(&kernel.doors)?;
        self.packets(kernel)?;
        self.services(&kernel.services)?;
        self.events(kernel)
    }

    fn enforcing(&mut self, enforcing: bool) -> fmt::Result {
        let help = "Whether every interface that is to be guarded is, and drops: what `ollama-guard \
                    status` calls ENFORCING";
        self.gauge("enforcing", help, enforcing)
    }

    fn rules(&mut self, kernel: &Kernel) -> fmt::Result {
        let rules = kernel.rules.iter().map(|rules| {
            let labels = vec![("family", family(rules.family)), ("effect", rules.effect.name())];
            (labels, rules.count)
        });
        self.gauges("rules", "Rules as they are written, of every source", rules.collect())?;
        let prefixes = [(Family::V4, kernel.prefixes.v4), (Family::V6, kernel.prefixes.v6)];
        let prefixes = prefixes.map(|(of, count)| (vec![("family", family(of))], count));
        let help = "Different prefixes in force, of allow and deny rules together";
        self.gauges("prefixes", help, prefixes.to_vec())?;
        let help = "Different prefixes that fit, of both families together";
        self.gauges("prefix_capacity", help, vec![(vec![], kernel.prefixes.capacity)])
    }

    fn doors(&mut self, doors: &[Door]) -> fmt::Result {
        let covered = doors.iter().filter_map(|door| {
            Some((vec![("interface", door.name.as_str())], u32::from(door.is_covered?)))
        });
        let help = "Whether an interface is guarded that is to be";
        self.gauges("door_covered", help, covered.collect())?;
        let states = [("covered", Some(true)), ("not-covered", Some(false)), ("left-alone", None)];
        // The inner door is none: where nothing else is covered, no interface is.
        let interfaces = || doors.iter().filter(|door| door.hook != Some(Hook::Cgroup));
        let states = states.map(|(state, is_covered)| {
            let count = interfaces().filter(|door| door.is_covered == is_covered).count();
            (vec![("state", state)], count)
        });
        let help = "Interfaces: covered, not covered though they are to be, left alone on purpose";
        self.gauges("interfaces", help, states.to_vec())?;

        let number = |number: Option<u32>| number.map(|number| number.to_string());
        let numbers: Vec<_> = doors
            .iter()
            .filter(|door| door.is_covered.is_some())
            .map(|door| (door, door.ifindex.to_string(), number(door.program), number(door.behind)))
            .collect();
        let infos = numbers.iter().map(|(door, ifindex, program, behind)| {
            vec![
                ("interface", door.name.as_str()),
                ("ifindex", ifindex),
                ("hook", door.hook.map_or("", |hook| hook.name())),
                ("attach", door.attach.map_or("", |mode| mode.name())),
                ("program_id", program.as_deref().unwrap_or_default()),
                ("behind_program_id", behind.as_deref().unwrap_or_default()),
            ]
        });
        let help = "How an interface is guarded: where our program stands, and behind which other";
        self.infos("door", help, infos.collect())
    }

    fn packets(&mut self, kernel: &Kernel) -> fmt::Result {
        let all = counted(&kernel.packets);
        let help = "Packets for guarded ports, and such as cannot be read to the end, on all \
                    interfaces together, also those that are gone";
        self.counters(
            "packets",
            help,
            all.map(|(labels, count)| (labels.to_vec(), count)).collect(),
        )?;
        let doors = kernel.doors.iter();
        let doors = doors.filter_map(|door| Some((door.name.as_str(), door.packets.as_ref()?)));
        let by_door = doors.chain([(ELSEWHERE, &kernel.elsewhere)]).flat_map(|(name, packets)| {
            let counted = counted(packets).filter(|(_, count)| *count > 0);
            counted.map(move |(labels, count)| {
                ([("interface", name)].into_iter().chain(labels).collect(), count)
            })
        });
        let help = "The same by interface. When one goes, what was counted there moves to \
                    departed/other: for rates leave that one out";
        self.counters("interface_packets", help, by_door.collect())
    }

    fn services(&mut self, services: &[Service]) -> fmt::Result {
        let modes = services.iter().flat_map(|service| {
            Mode::ALL.map(|mode| {
                let labels = vec![("service", service.name.as_str()), ("mode", mode.name())];
                (labels, u32::from(mode.name() == service.mode))
            })
        });
        let help = "The mode in force for a service has 1";
        self.gauges("service_mode", help, modes.collect())?;
        let packets = services.iter().flat_map(|service| {
            counted(&service.packets).filter(|(_, count)| *count > 0).map(|(labels, count)| {
                ([("service", service.name.as_str())].into_iter().chain(labels).collect(), count)
            })
        });
        let help = "The same by service, as far as a packet is for one: what cannot be read to the \
                    end could be for any";
        self.counters("service_packets", help, packets.collect())
    }

    fn events(&mut self, kernel: &Kernel) -> fmt::Result {
        let outcomes = kernel.books.iter().flat_map(|(mode, book)| {
            let outcomes = [
                ("submitted", book.submitted),
                ("suppressed", book.suppressed),
                ("lost", book.lost),
            ];
            outcomes
                .map(|(outcome, count)| (vec![("mode", mode.name()), ("outcome", outcome)], count))
        });
        let help = "What became of the events of dropped, and of would-be dropped, packets: \
                    submitted to the daemon, suppressed by the budget, or lost because the ring was \
                    full; together as many as these packets";
        self.counters("events", help, outcomes.collect())?;
        let help = "Events that daemons have taken out of the ring";
        self.counters("events_read", help, vec![(vec![], kernel.ring.read)])?;
        self.gauges(
            "events_unread",
            "Events that wait in the ring",
            vec![(vec![], kernel.ring.unread)],
        )
    }
}

/// Every count with its verdict, reason and mode, also those that are 0.
fn counted(packets: &Counts) -> impl Iterator<Item = ([(&'static str, &'static str); 3], u64)> {
    Mode::ALL.into_iter().flat_map(move |mode| {
        let counts = packets.in_mode(mode);
        // What is not for a guarded port is never counted.
        let reasons = Reason::ALL.iter().filter(|reason| **reason != Reason::NotGuarded);
        reasons.map(move |reason| {
            let verdict = verdict(*reason, mode);
            let labels = [("verdict", verdict), ("reason", reason.name()), ("mode", mode.name())];
            (labels, counts.get(reason.name()).copied().unwrap_or(0))
        })
    })
}

/// What was done with a packet, in the words of the events.
const fn verdict(reason: Reason, mode: Mode) -> &'static str {
    match (reason.verdict(), mode) {
        (Verdict::Pass, _) => "pass",
        (Verdict::Drop, Mode::Enforce) => "drop",
        (Verdict::Drop, Mode::Observe) => "would-drop",
    }
}

const fn family(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

#[cfg(test)]
mod tests;
