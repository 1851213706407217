//! The one way in for every dialect: one snapshot, one decision, one lease, one
//! answer. It speaks OpenAI bytes inwards and forwards them as they came, but for
//! what the rules of an entry change; the dialects stand in `api`.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use axum::body::Body;
use axum::http::{HeaderValue, Response};
use bytes::Bytes;

use crate::access::Caller;
use crate::api::error::ApiError;
use crate::api::fields::{Endpoint, is_about_words};
use crate::api::openai::nothing_here;
use crate::config::request::Rules;
use crate::pool::{Asker, Candidates, Pool, Terms};
use crate::records::entry::Entry;
use crate::records::usage::Usage;
use crate::registry::{Adapter, Registry, Snapshot};
use crate::route::{Demand, Why};
use crate::shutdown::Tasks;
use crate::upstream::Upstreams;
use crate::worker::{LoadPlan, PlannedEngine};
use away::Fallen;
use hold::Away;
use late::Late;
use meaning::{Decided, decide, naming};
use payload::Payload;
use refusals::{passed_on, shutting_down};
use rules::Naming;
use upload::form::FormRules;

mod away;
mod body;
mod explained;
mod foreign;
pub mod headers;
mod heartbeat;
mod hold;
pub mod json;
mod late;
pub mod live;
mod meaning;
pub mod observer;
mod patience;
pub mod payload;
pub mod peek;
mod refusals;
pub mod relay;
mod reply;
pub mod rules;
mod send;
mod shortage;
pub mod spool;
mod stream;
pub mod upload;
mod whole;

pub use refusals::refused;

/// Everything an answer needs.
pub struct Dispatch {
    /// The snapshot in force.
    pub registry: Arc<Registry>,
    /// The models.
    pub pool: Pool,
    /// The services elsewhere.
    pub upstreams: Arc<Upstreams>,
    /// Room for what slow clients have not taken yet.
    pub spools: spool::Budget,
    /// The requests that are worked on now.
    pub live: live::Live,
    /// Where the halves that read engines run.
    pub tasks: Tasks,
    /// Whether prompts and answers go to the log: only if the owner asked for it
    /// on the command line.
    pub log_bodies: bool,
}

/// A request in the inner language: a path of the OpenAI API and its body.
#[derive(Debug)]
pub struct Request {
    /// Which of the paths.
    pub endpoint: Endpoint,
    /// The path itself, here and at the engine.
    pub path: Cow<'static, str>,
    /// The world that it sees, from its first byte to its last.
    pub snapshot: Arc<Snapshot>,
    /// The body as it came; of an upload its beginning.
    pub body: Bytes,
    /// What is known of an upload, and the rest of it.
    pub upload: Option<upload::Upload>,
    /// Who asks.
    pub caller: Caller,
    /// Where it is recorded.
    pub entry: Entry,
    /// On what terms it waits for its model.
    pub terms: Terms,
    /// Whether the answer is to say what was done for it (`x-roundhouse-explain`).
    pub explain: bool,
    /// Whether a server like this one sent it, so that it goes no further.
    pub is_passed_on: bool,
}

/// What may answer a request.
enum Target {
    /// A model of this machine, or one of those that may in its place.
    Here(Candidates),
    /// An upstream.
    Away(Away),
}

impl Target {
    /// What it is called.
    fn model(&self) -> &str {
        match self {
            Self::Here(candidates) => &candidates.own.model,
            Self::Away(away) => away.model(),
        }
    }

    /// What it is counted under: a name of the file, whatever was asked for.
    fn counted(&self) -> &str {
        match self {
            Self::Here(candidates) => &candidates.own.model,
            Self::Away(away) => &away.remote.name,
        }
    }
}

impl Request {
    /// The id under which everything about it is logged.
    fn id(&self) -> &str {
        self.entry.request_id()
    }

    /// What an engine gets of its body.
    fn ruled(&self, rules: &Rules, naming: Naming) -> rules::Ruled {
        match &self.upload {
            Some(upload) => rules::Ruled {
                payload: upload.ruled(&self.body, &self.form_rules(rules), naming),
                limited: Vec::new(),
            },
            None => rules::apply(self.endpoint, &self.body, rules, naming),
        }
    }

    /// What the rules of an entry say of forms.
    fn form_rules(&self, rules: &Rules) -> FormRules {
        FormRules::of(self.endpoint, rules)
    }
}

/// A request for which a model has been found.
struct Routed {
    request: Box<Request>,
    /// The body as the engine of the model that it leads to gets it.
    payload: Payload,
    /// What becomes of its fields.
    rules: Arc<Rules>,
    /// The name that it means without saying it.
    missing: Option<String>,
    /// What a limit of the entry lowered.
    limited: Vec<String>,
    /// What it leads to.
    target: Target,
    why: Why,
    /// The adapter that the model which it leads to answers with.
    adapter: Option<Arc<Adapter>>,
    /// What answers if a model of this machine cannot.
    fallback: Option<Away>,
    /// How long it may wait before that does anyway.
    spill_after: Option<Duration>,
    /// Who answers in that place, once somebody does.
    fallen: Late<Fallen>,
    /// Whether it has left this machine in place of a model of it: it does once.
    has_left: AtomicBool,
    /// Upstreams that were asked and did not answer, separated by commas.
    tried: Late<String>,
    /// The model that answers; nothing until there is a lease.
    answering: Late<LoadPlan>,
    snapshot: Arc<Snapshot>,
    arrived: Instant,
    place: live::Place,
    /// What was going to be done for it when it came, if it wants to know.
    explained: Option<HeaderValue>,
}

impl Dispatch {
    /// Answers a request, or refuses it.
    pub async fn answer(
        self: &Arc<Self>,
        mut request: Box<Request>,
    ) -> Result<Response<Body>, ApiError> {
        let arrived = Instant::now();
        if self.tasks.stop_signal().is_cancelled() {
            return Err(shutting_down());
        }
        let snapshot = request.snapshot.clone();
        self.log_body(request.id(), "a request's body", &request.body);
        let limits = &snapshot.config.server.limits;
        let mut peek = match &request.upload {
            Some(upload) => upload.peek(),
            None => peek::peek(request.endpoint, &request.body, &limits.counts)?,
        };
        let is_other = request.endpoint == Endpoint::Other;
        let is_about_words = is_about_words(&request.path);
        // Who tells words tells them at once.
        peek.stream &= !is_about_words;
        if is_other && peek.model.is_none() {
            return Err(nothing_here());
        }
        request.terms.idle_unload = peek.idle_unload;
        let demand = Demand {
            asked: request.endpoint.asks(),
            chat: request.endpoint == Endpoint::Chat,
            tokens: request.body.len() as u64,
        };
        let Decided {
            mut target,
            why,
            rules,
            adapter,
            fallback,
            spill_after,
        } = decide(
            &snapshot,
            peek.model.as_deref(),
            demand,
            &request.caller.scope,
        )?;
        let is_own = |plan: &LoadPlan| matches!(plan.engine, PlannedEngine::Own(_));
        // Our own engine knows no other paths than ours.
        let is_beyond = is_other && !is_about_words;
        let beyond_own = peek.beyond_own.or_else(|| is_beyond.then(nothing_here));
        if let (Some(refusal), Target::Here(candidates)) = (beyond_own, &mut target) {
            if is_own(&candidates.own) {
                return Err(refusal);
            }
            candidates.others.retain(|plan| !is_own(plan));
        }
        let fallback = fallback.filter(|_| !request.is_passed_on);
        match &target {
            Target::Away(away) if request.is_passed_on => return Err(passed_on(away)),
            _ => {}
        }
        let priority = request.terms.priority;
        request
            .entry
            .routed(target.counted(), why.as_str(), priority);
        let default = snapshot.config.default.as_ref();
        let name = peek.model.as_deref().or(default.map(|name| name.as_str()));
        let asker = Asker::new(request.id(), &request.caller.id, name.unwrap_or_default());
        let came = request.entry.came();
        let (model, asker) = (target.model(), asker.into());
        let place = self
            .live
            .begin(asker, model, why.as_str(), peek.stream, came);
        let explained = match (&target, request.explain) {
            (Target::Here(candidates), true) => {
                Box::pin(self.explained(&request, &candidates.own, why)).await
            }
            (Target::Away(away), true) => explained::away(away, why),
            (_, false) => None,
        };
        let missing = match peek.model {
            None => default.map(|name| name.as_str()),
            Some(_) => None,
        };
        let naming = match &target {
            Target::Here(candidates) => naming(&candidates.own, missing),
            Target::Away(_) => Naming::AsSaid,
        };
        let ruled = request.ruled(&rules, naming);
        let missing = missing.map(str::to_owned);
        let model = target.model().to_owned();
        let routed = Arc::new(Routed {
            request,
            payload: ruled.payload,
            rules,
            missing,
            limited: ruled.limited,
            target,
            why,
            adapter,
            fallback,
            spill_after,
            fallen: Late::default(),
            has_left: AtomicBool::new(false),
            tried: Late::default(),
            answering: Late::default(),
            snapshot,
            arrived,
            place,
            explained: explained.clone(),
        });
        if let Target::Away(away) = &routed.target {
            routed.depart(away);
        }
        let answered = if peek.stream {
            stream::answer(self.clone(), routed).await
        } else {
            whole::answer(self, routed).await
        };
        answered.map_err(|error| self.with_outlook(error, &model, explained))
    }

    /// Writes what is said to the log, if the owner asked for that.
    fn log_body(&self, request_id: &str, what: &str, bytes: &[u8]) {
        if self.log_bodies {
            let body = String::from_utf8_lossy(bytes);
            tracing::info!(request.id = request_id, body = body.as_ref(), "{what}");
        }
    }
}

impl Routed {
    /// Whether an engine of the file answers, or an upstream.
    fn is_foreign(&self) -> bool {
        let Target::Here(candidates) = &self.target else {
            return true;
        };
        if self.fallen.is_known() {
            return true;
        }
        let answering = self.answering.get();
        let plan = answering.as_ref().unwrap_or(&candidates.own);
        matches!(plan.engine, PlannedEngine::Spawned(_))
    }

    /// The model that answers, or that it leads to while none does.
    fn model(&self) -> String {
        if let Some(fallen) = self.fallen.get() {
            return fallen.away.model().to_owned();
        }
        match self.answering.get() {
            Some(plan) => plan.model.clone(),
            None => self.target.model().to_owned(),
        }
    }

    /// Counts what the engine reports against the day of the caller's key; without
    /// a report, one token for each of the `events` that went out, so that leaving
    /// before the end does not make an answer free.
    fn count(&self, usage: Option<&Usage>, events: u64) {
        if let Some(seat) = &self.request.caller.seat {
            let tokens = usage.and_then(Usage::tokens).unwrap_or(events);
            seat.spend(tokens, SystemTime::now());
        }
    }

    /// One line for the log. Never the prompt, never the answer.
    fn log(&self, outcome: &str, usage: Option<&Usage>) {
        if let Some(usage) = usage {
            self.request.entry.usage(usage);
        }
        tracing::info!(
            request.id = self.request.id(),
            caller.id = self.request.caller.id,
            model.id = self.model(),
            path = self.request.endpoint.path(),
            outcome,
            usage = usage.map(|usage| usage.text.as_str()),
            duration_ms = self.arrived.elapsed().as_millis() as u64,
            "answered"
        );
    }
}
