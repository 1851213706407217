//! What a request is told of what is done for it: on one line in a header if it
//! asked, and with a refusal when its model will be there.

use std::sync::Arc;
use std::time::Instant;

use axum::http::{HeaderName, HeaderValue};

use super::hold::Away;
use super::{Dispatch, Request};
use crate::access::keys::Scope;
use crate::api::error::{ApiError, Code};
use crate::pool::forecast::{Course, Forecast};
use crate::route::Why;
use crate::worker::LoadPlan;

/// Asked with `1`; answered with a line.
pub(super) const HEADER: HeaderName = HeaderName::from_static("x-roundhouse-explain");

impl Dispatch {
    /// What is going to be done for a request that has not asked the pool yet.
    pub(super) async fn explained(
        &self,
        request: &Request,
        plan: &Arc<LoadPlan>,
        why: Why,
    ) -> Option<HeaderValue> {
        let forecast = self.pool.forecast(plan, request.terms).await?;
        let line = line(&forecast, why, &request.caller.scope);
        HeaderValue::from_str(&line).ok()
    }

    /// A refusal, with when the model will be there and what was going to be done.
    pub(super) fn with_outlook(
        &self,
        error: ApiError,
        model: &str,
        explained: Option<HeaderValue>,
    ) -> ApiError {
        let passes = matches!(
            error.code,
            Code::QueueFull | Code::QueueTimeout | Code::Overloaded
        );
        let eta = passes.then(|| self.pool.view().eta(model, Instant::now()));
        let eta = eta.flatten().map(|eta| eta.as_millis() as u64);
        error.header(HEADER, explained).header(
            HeaderName::from_static("x-roundhouse-eta-ms"),
            eta.map(HeaderValue::from),
        )
    }
}

/// The same where an upstream answers: there is nothing to wait for.
pub(super) fn away(away: &Away, why: Why) -> Option<HeaderValue> {
    let (model, upstream) = (away.model(), away.upstream());
    HeaderValue::from_str(&format!(
        "route={} {model}; upstream={upstream}",
        why.as_str()
    ))
    .ok()
}

/// One line. Of models outside the caller's set it says how many there are.
fn line(forecast: &Forecast, why: Why, scope: &Scope) -> String {
    let mut said = vec![
        format!("route={} {}", why.as_str(), forecast.model),
        format!("state={}", word(&forecast.state)),
        format!("course={}", word(&forecast.course)),
    ];
    if let Some(progress) = forecast.progress {
        said.push(format!("loaded={}%", progress.percent()));
    }
    let (known, others): (Vec<_>, Vec<_>) = forecast
        .victims
        .iter()
        .map(|victim| victim.model.as_str())
        .partition(|model| scope.permits(model));
    if !known.is_empty() {
        said.push(format!("evicts={}", known.join(",")));
    }
    if !others.is_empty() {
        said.push(format!("evicts_others={}", others.len()));
    }
    if !matches!(forecast.course, Course::Answer | Course::Refuse) {
        said.push(format!("before={}", forecast.before));
    }
    if let Some(eta) = forecast.eta {
        said.push(format!("eta_ms={}", eta.as_millis()));
    }
    said.join("; ")
}

/// A word as everywhere else in the API.
fn word(value: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Pattern;
    use crate::pool::ModelState;
    use crate::pool::forecast::Candidate;
    use crate::units::ByteSize;

    #[test]
    fn the_line_names_no_model_that_the_caller_may_not_know() {
        let victim = |model: &str| Candidate {
            model: model.to_owned(),
            bytes: ByteSize(1),
            busy: false,
        };
        let forecast = Forecast {
            model: "a/b".to_owned(),
            state: ModelState::Unloaded,
            progress: None,
            course: Course::Evict,
            refusal: None,
            need: ByteSize(1),
            observed: ByteSize::ZERO,
            budget: ByteSize(2),
            reserved: ByteSize(2),
            victims: vec![victim("a/c"), victim("secret/d")],
            before: 2,
            load_time: None,
            eta: Some(Duration::from_secs(9)),
        };
        let check = |models: Option<&str>, expected: &str| {
            let pattern = |text| vec![Pattern::parse(text).expect("a pattern")];
            let scope = Scope {
                models: models.map(pattern),
                ..Scope::default()
            };
            assert_eq!(line(&forecast, Why::Alias, &scope), expected);
        };
        check(
            None,
            "route=alias a/b; state=unloaded; course=evict; evicts=a/c,secret/d; before=2; eta_ms=9000",
        );
        check(
            Some("a/*"),
            "route=alias a/b; state=unloaded; course=evict; evicts=a/c; evicts_others=1; before=2; \
             eta_ms=9000",
        );
    }
}
