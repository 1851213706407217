//! `GET /metrics`: one scrape for the router and all its models, in the text format
//! of OpenMetrics 1.0, which Prometheus reads. A scrape loads nothing and waits for
//! nothing. Every label is a word of ours or the name of a model that the
//! configuration permits.

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::api::error::{ApiError, Code};
use crate::platform::pressure::{self, Pressure};
use crate::pool::{ModelView, View};
use crate::service::Service;

/// The media type that its specification gives the format.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The answer.
pub async fn metrics(State(service): State<Service>) -> Result<Response, ApiError> {
    let mut registry = Registry::with_prefix("roundhouse");
    service.records.counters.register(&mut registry);
    service.dispatch.pool.book().register(&mut registry);
    registry.register_collector(Box::new(Moment {
        view: service.dispatch.pool.view(),
        is_ready: service.is_ready(),
        is_current: service.reload.last_failure().is_none(),
        pressure: pressure::now(),
    }));
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|error| {
        tracing::error!(?error, "the metrics could not be written");
        ApiError::new(Code::InternalError, "the metrics could not be written")
    })?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}

/// What is not counted but looked at.
#[derive(Debug)]
struct Moment {
    view: Arc<View>,
    is_ready: bool,
    is_current: bool,
    pressure: Pressure,
}

/// A figure of one model.
type Figure = fn(&ModelView) -> u64;

impl Collector for Moment {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> fmt::Result {
        let counters = &self.view.counters;
        for (name, help, value) in [
            ("loads", "Loads that were begun", counters.loads),
            (
                "load_failures",
                "Loads that failed or took too long",
                counters.load_failures,
            ),
            (
                "swaps",
                "Loads for which another model had to go",
                counters.swaps,
            ),
            (
                "rollbacks",
                "Models that had gone for a load which failed, and were loaded again",
                counters.rollbacks,
            ),
        ] {
            let counter = ConstCounter::new(value);
            let kind = counter.metric_type();
            counter.encode(out.encode_descriptor(name, help, None, kind)?)?;
        }
        let help = "Models that were ready and went, by reason";
        let mut family = out.encode_descriptor("unloads", help, None, MetricType::Counter)?;
        for (reason, count) in &counters.unloads {
            let label = [("reason", reason.as_str())];
            ConstCounter::new(*count).encode(family.encode_family(&label)?)?;
        }
        for (name, help, value) in [
            (
                "ready",
                "Whether requests can be served",
                u64::from(self.is_ready),
            ),
            (
                "configuration_current",
                "Whether the file, as it was when it was last read, is in force",
                u64::from(self.is_current),
            ),
            (
                "memory_budget_bytes",
                "Budget for everything loaded",
                self.view.budget.0,
            ),
            (
                "memory_reserved_bytes",
                "Reserved by everything loaded, loading and not yet reaped",
                self.view.reserved.0,
            ),
            (
                "memory_footprint_bytes",
                "Held by all workers when they were looked at last",
                self.view.footprint().0,
            ),
            (
                "memory_free_bytes",
                "Memory of the machine or cgroup that can be had",
                self.pressure.free.map_or(0, |free| free.0),
            ),
            (
                "memory_pressure",
                "How short memory is: 0 normal, 1 short, 2 critical",
                self.pressure.level.number(),
            ),
        ] {
            let gauge = ConstGauge::new(signed(value));
            let kind = gauge.metric_type();
            gauge.encode(out.encode_descriptor(name, help, None, kind)?)?;
        }
        self.models(&mut out)
    }
}

impl Moment {
    fn models(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let figures: [(&str, &str, Figure); 6] = [
            ("model_up", "Whether the model is loaded", |model| {
                u64::from(model.ready.is_some())
            }),
            ("model_leases", "Requests that the model answers", |model| {
                model.leases()
            }),
            (
                "model_waiting",
                "Requests that wait for the model",
                |model| model.waiting as u64,
            ),
            ("model_reserved_bytes", "Reserved for the model", |model| {
                model.reserved.0
            }),
            (
                "model_need_bytes",
                "What the next load of the model reserves",
                |model| model.need.0,
            ),
            (
                "model_footprint_bytes",
                "Held by the model's worker when it was looked at last",
                |model| model.footprint.map_or(0, |bytes| bytes.0),
            ),
        ];
        for (name, help, figure) in figures {
            let mut family = out.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for model in self.view.models.iter() {
                let label = [("model", model.model.as_str())];
                let gauge = ConstGauge::new(signed(figure(model)));
                gauge.encode(family.encode_family(&label)?)?;
            }
        }
        Ok(())
    }
}

/// Gauges are signed.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
