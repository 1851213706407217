//! What the name in a request means: a model of this machine or an upstream, the rules of
//! its entry, and who answers in its place; or the refusal in the words of the API. What
//! is decided is `route`'s.

use std::sync::Arc;
use std::time::Duration;

use super::Target;
use super::hold::Away;
use super::rules::Naming;
use crate::access::keys::Scope;
use crate::api::error::{ApiError, Code};
use crate::config::engine::Use;
use crate::config::request::Rules;
use crate::pool::Candidates;
use crate::registry::{Adapter, Snapshot};
use crate::route::{self, Decision, Demand, Why};
use crate::worker::LoadPlan;

/// What becomes of the name of the model on its way to an engine.
pub(super) fn naming<'n>(plan: &'n LoadPlan, missing: Option<&'n str>) -> Naming<'n> {
    match (plan.engine.model(), missing) {
        (Some(name), _) => Naming::Always(name),
        (None, Some(name)) => Naming::IfMissing(name),
        (None, None) => Naming::AsSaid,
    }
}

/// What a name means.
pub(super) struct Decided {
    /// What it leads to.
    pub(super) target: Target,
    pub(super) why: Why,
    /// What becomes of the fields of the request.
    pub(super) rules: Arc<Rules>,
    /// The adapter that a model of this machine answers with.
    pub(super) adapter: Option<Arc<Adapter>>,
    /// What answers if that cannot.
    pub(super) fallback: Option<Away>,
    /// How long a request may wait before that does anyway.
    pub(super) spill_after: Option<Duration>,
}

/// What the name means, or the refusal that says why it means nothing.
pub(super) fn decide(
    snapshot: &Snapshot,
    model: Option<&str>,
    demand: Demand,
    scope: &Scope,
) -> Result<Decided, ApiError> {
    let refuse = |code, message: String| Err(ApiError::new(code, message).param("model"));
    let permit = |name: &str| scope.permits(name);
    let decision = route::decide(snapshot, model, &permit);
    let suggestions = route::suggestions(snapshot, &decision, &permit);
    match decision {
        Decision::Serve {
            served,
            plan,
            why,
            variant,
        } => {
            if let Some(asked) = demand.asked.filter(|asked| !served.uses.contains(asked)) {
                let words = other_use(&served.name, &served.uses, asked);
                return refuse(Code::InvalidValue, words);
            }
            let rules = Arc::clone(served.rules(variant.as_deref()));
            let prefix = rules.system_prefix.as_ref();
            let demand = Demand {
                tokens: demand.tokens + prefix.map_or(0, |prefix| prefix.len() as u64),
                ..demand
            };
            let others = match why {
                Why::Background => route::others(snapshot, &served, demand, &permit),
                _ => Vec::new(),
            };
            let fallback = served.fallback.as_ref();
            // What it cannot be asked, it does not answer in anybody's place.
            let fallback = fallback.filter(|it| it.remote.serves(demand.asked));
            let fallback = fallback.map(|it| Away::to(&it.remote, &it.name));
            Ok(Decided {
                target: Target::Here(Candidates { own: plan, others }),
                why,
                rules,
                adapter: served.adapter.clone(),
                fallback,
                spill_after: served.spill_after,
            })
        }
        Decision::Away { remote, name, why } => {
            if let Some(asked) = demand.asked.filter(|asked| !remote.serves(Some(*asked))) {
                let words = other_use(&name, &remote.kinds(), asked);
                return refuse(Code::InvalidValue, words);
            }
            Ok(Decided {
                target: Target::Away(Away::to(&remote, &name)),
                why,
                rules: Arc::default(),
                adapter: None,
                fallback: None,
                spill_after: None,
            })
        }
        Decision::Invalid(error) => refuse(Code::InvalidModelId, error.to_string()),
        Decision::Unknown { name } => {
            let hint = match suggestions.is_empty() {
                true => "; GET /v1/models lists what is served".to_owned(),
                false => meant(&suggestions),
            };
            refuse(
                Code::ModelNotFound,
                format!("the model \"{name}\" does not exist here{hint}"),
            )
        }
        Decision::NotServable { name, reason } => refuse(
            Code::ModelNotFound,
            format!(
                "the model \"{name}\" cannot be served: {reason}{}",
                meant(&suggestions)
            ),
        ),
    }
}

/// The model is there, and for something else.
fn other_use(name: &str, uses: &[Use], asked: Use) -> String {
    let uses: Vec<_> = uses.iter().copied().map(Use::as_str).collect();
    format!(
        "the model \"{name}\" is for {}, and this asks for {}",
        uses.join(" and "),
        asked.as_str()
    )
}

/// The question after a name that is nowhere.
fn meant(suggestions: &[String]) -> String {
    match suggestions {
        [] => String::new(),
        names => format!("; did you mean {}?", names.join(" or ")),
    }
}
