//! Writing families of one kind: name, help, and rows of labels with a value.

use std::fmt;

use jiff::Timestamp;
use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, NoLabelSet},
    metrics::{MetricType, exemplar::Exemplar},
    registry::Unit,
};

/// Names and values.
type Labels<'l> = Vec<(&'static str, &'l str)>;

/// The page that is being written.
pub(super) struct Page<'e>(pub(super) DescriptorEncoder<'e>);

impl Page<'_> {
    pub(super) fn gauge(&mut self, name: &str, help: &str, holds: bool) -> fmt::Result {
        self.gauges(name, help, vec![(vec![], u32::from(holds))])
    }

    pub(super) fn time(&mut self, name: &str, help: &str, at: Timestamp) -> fmt::Result {
        let seconds = at.as_millisecond() as f64 / 1e3;
        self.gauges_of(name, help, Some(&Unit::Seconds), vec![(vec![], seconds)])
    }

    pub(super) fn gauges<V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        rows: Vec<(Labels<'_>, V)>,
    ) -> fmt::Result {
        self.gauges_of(name, help, None, rows)
    }

    pub(super) fn gauges_of<V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        rows: Vec<(Labels<'_>, V)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, value) in rows {
            match labels.is_empty() {
                true => metric.encode_gauge(&value)?,
                false => metric.encode_family(&labels)?.encode_gauge(&value)?,
            }
        }
        Ok(())
    }

    pub(super) fn counters(
        &mut self,
        name: &str,
        help: &str,
        rows: Vec<(Labels<'_>, u64)>,
    ) -> fmt::Result {
        self.counters_of(name, help, None, rows)
    }

    pub(super) fn counters_of<V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        rows: Vec<(Labels<'_>, V)>,
    ) -> fmt::Result {
        const NO_EXEMPLAR: Option<&Exemplar<NoLabelSet, f64>> = None;
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (labels, value) in rows {
            match labels.is_empty() {
                true => metric.encode_counter(&value, NO_EXEMPLAR)?,
                false => metric.encode_family(&labels)?.encode_counter(&value, NO_EXEMPLAR)?,
            }
        }
        Ok(())
    }

    pub(super) fn infos(&mut self, name: &str, help: &str, rows: Vec<Labels<'_>>) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Info)?;
        rows.iter().try_for_each(|labels| metric.encode_info(labels))
    }
}
