//! The one way in for every dialect: one snapshot, one decision, one lease, one
//! answer. It speaks OpenAI bytes inwards and forwards them as they came, but for
//! what the rules of an entry change; the dialects stand in `api`.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Method, Response};
use bytes::Bytes;

use crate::access::Caller;
use crate::access::keys::Scope;
use crate::api::error::{ApiError, Code};
use crate::api::fields::Endpoint;
use crate::api::openai::nothing_here;
use crate::config::engine::Use;
use crate::config::request::{PromptCache, Rules};
use crate::pool::{Asker, Candidates, Lease, Pool, Refused, Terms};
use crate::records::entry::Entry;
use crate::registry::{Registry, Snapshot};
use crate::route::{self, Decision, Demand, Why};
use crate::shutdown::Tasks;
use crate::upstream::Upstreams;
use crate::worker::client::{self, Failure};
use crate::worker::{CALLER_HEADER, LoadPlan, PlannedEngine};
use away::Fallen;
use hold::{Away, Hold, crashed, give_up, taken_away};
use patience::{TooLate, within};
use payload::Payload;
use rules::Naming;

mod away;
mod body;
mod explained;
mod foreign;
pub mod headers;
mod heartbeat;
mod hold;
pub mod live;
pub mod observer;
mod patience;
pub mod payload;
pub mod peek;
pub mod relay;
pub mod rules;
mod shortage;
pub mod spool;
mod stream;
pub mod upload;
mod whole;

/// Says which upstream answers: the request has left this machine.
const UPSTREAM_HEADER: &str = "x-roundhouse-upstream";

/// Says which of its names answers in the place of a model that could not.
const FALLBACK_HEADER: &str = "x-roundhouse-fallback";

/// How long the pool may take to learn that a worker died: it is told when the
/// process has been reaped.
const SETTLING: Duration = Duration::from_secs(1);

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
    /// The id under which everything about it is logged.
    pub request_id: String,
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
    /// What an engine gets of its body. Rules are about fields of JSON.
    fn ruled(&self, rules: &Rules, naming: Naming) -> rules::Ruled {
        match &self.upload {
            Some(upload) => rules::Ruled {
                payload: upload.named(&self.body, naming),
                limited: Vec::new(),
            },
            None => rules::apply(self.endpoint, &self.body, rules, naming),
        }
    }
}

/// A request for which a model has been found.
struct Routed {
    request: Request,
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
    /// What answers if a model of this machine cannot.
    fallback: Option<Away>,
    /// How long it may wait before that does anyway.
    spill_after: Option<Duration>,
    /// Who answers in that place, once somebody does.
    fallen: ArcSwapOption<Fallen>,
    /// Whether it has left this machine in place of a model of it: it does once.
    has_left: AtomicBool,
    /// The model that answers; nothing until there is a lease.
    answering: ArcSwapOption<LoadPlan>,
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
        mut request: Request,
    ) -> Result<Response<Body>, ApiError> {
        let arrived = Instant::now();
        if self.tasks.stop_signal().is_cancelled() {
            return Err(shutting_down());
        }
        let snapshot = request.snapshot.clone();
        self.log_body(&request.request_id, "a request's body", &request.body);
        let limits = &snapshot.config.server.limits;
        let peek = match &request.upload {
            Some(upload) => upload.peek(),
            None => peek::peek(request.endpoint, &request.body, &limits.counts)?,
        };
        let is_other = request.endpoint == Endpoint::Other;
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
        let beyond_own = peek.beyond_own.or_else(|| is_other.then(nothing_here));
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
        let asker = Asker::new(
            &request.request_id,
            &request.caller.id,
            name.unwrap_or_default(),
        );
        let place = self
            .live
            .begin(asker.into(), target.model(), why.as_str(), peek.stream);
        let explained = match (&target, request.explain) {
            (Target::Here(candidates), true) => {
                self.explained(&request, &candidates.own, why).await
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
        let routed = Routed {
            request,
            payload: ruled.payload,
            rules,
            missing,
            limited: ruled.limited,
            target,
            why,
            fallback,
            spill_after,
            fallen: ArcSwapOption::empty(),
            has_left: AtomicBool::new(false),
            answering: ArcSwapOption::empty(),
            snapshot,
            arrived,
            place,
            explained: explained.clone(),
        };
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

/// What becomes of the name of the model on its way to an engine.
fn naming<'n>(plan: &'n LoadPlan, missing: Option<&'n str>) -> Naming<'n> {
    match (plan.engine.model(), missing) {
        (Some(name), _) => Naming::Always(name),
        (None, Some(name)) => Naming::IfMissing(name),
        (None, None) => Naming::AsSaid,
    }
}

/// What a name means.
struct Decided {
    /// What it leads to.
    target: Target,
    why: Why,
    /// What becomes of the fields of the request.
    rules: Arc<Rules>,
    /// What answers if that cannot.
    fallback: Option<Away>,
    /// How long a request may wait before that does anyway.
    spill_after: Option<Duration>,
}

/// What the name means, or the refusal that says why it means nothing.
fn decide(
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

impl Routed {
    /// The body as the engine of this model gets it.
    fn payload(&self, own: &LoadPlan, plan: &LoadPlan) -> Payload {
        if plan.engine.model() == own.engine.model() {
            return self.payload.clone();
        }
        let naming = naming(plan, self.missing.as_deref());
        self.request.ruled(&self.rules, naming).payload
    }

    /// Whether an engine of the file answers, or an upstream.
    fn is_foreign(&self) -> bool {
        let Target::Here(candidates) = &self.target else {
            return true;
        };
        if self.fallen.load().is_some() {
            return true;
        }
        let answering = self.answering.load();
        let plan = answering.as_ref().unwrap_or(&candidates.own);
        matches!(plan.engine, PlannedEngine::Spawned(_))
    }

    /// The model that answers, or that it leads to while none does.
    fn model(&self) -> String {
        if let Some(fallen) = self.fallen.load().as_ref() {
            return fallen.away.model().to_owned();
        }
        match self.answering.load().as_ref() {
            Some(plan) => plan.model.clone(),
            None => self.target.model().to_owned(),
        }
    }

    /// Waits for the model and hands it the request. A worker that died a moment
    /// ago and was never reached is no answer: the next one is asked, once.
    async fn send(&self, dispatch: &Dispatch) -> Result<(Hold, Response<client::Body>), ApiError> {
        let (candidates, away) = match &self.target {
            Target::Here(candidates) => (Some(candidates), self.away()),
            Target::Away(_) => (None, self.away()),
        };
        let candidates = match (candidates, away) {
            (_, Some(away)) => return self.send_away(dispatch, &away).await,
            (Some(candidates), None) => candidates,
            (None, None) => return Err(ended_early(&self.model())),
        };
        let mut sent = self.send_once(dispatch, candidates).await;
        if let Err(Unsent::Spills(fallback)) = &sent {
            if let Some(sent) = self.spill(dispatch, fallback).await {
                return Ok(sent);
            }
            sent = self.send_once(dispatch, candidates).await;
        }
        match sent {
            Err(Unsent::Unreached) => {
                self.send_once(dispatch, candidates)
                    .await
                    .map_err(|unsent| match unsent {
                        Unsent::Refused(error) => error,
                        Unsent::Unreached | Unsent::Spills(_) => ended_early(&self.model()),
                    })
            }
            Err(Unsent::Refused(error)) => Err(error),
            Err(Unsent::Spills(_)) => Err(ended_early(&self.model())),
            Ok(sent) => Ok(sent),
        }
    }

    async fn send_once(
        &self,
        dispatch: &Dispatch,
        candidates: &Candidates,
    ) -> Result<(Hold, Response<client::Body>), Unsent> {
        let terms = self.request.terms;
        let pool = dispatch.pool.asked_by(self.place.running().asker.clone());
        let acquired = tokio::select! {
            biased;
            acquired = pool.acquire(candidates.clone(), terms) => acquired,
            fallback = self.waits_too_long(dispatch, &candidates.own.model) => {
                return Err(Unsent::Spills(fallback));
            }
        };
        let lease = acquired.map_err(|error| {
            if let Refused::LoadFailed { model, reason, .. } = &error {
                let id = &self.request.request_id;
                tracing::warn!(request.id = id, model.id = model, reason, "not loaded");
            }
            let scope = &self.request.caller.scope;
            let words = shortage::words(&error, &dispatch.pool.view(), &|name| scope.permits(name));
            let told = refused(error);
            Unsent::Refused(ApiError {
                message: words.unwrap_or(told.message),
                ..told
            })
        })?;
        self.answering.store(Some(lease.plan().clone()));
        let load_ms = lease.ready().load_ms;
        let entry = &self.request.entry;
        let priority = self.request.terms.priority;
        entry.routed(&lease.plan().model, self.why.as_str(), priority);
        entry.granted(lease.waited(), lease.generation(), load_ms);
        self.place.running().granted(lease.waited());
        let overhead = self.arrived.elapsed().saturating_sub(lease.waited());
        entry.handed_over(overhead);
        // Nothing of the client's headers: credentials, cookies and framing stay here.
        let limit = self.snapshot.config.server.limits.first_token;
        let own = &candidates.own;
        let sent = tokio::select! {
            sent = self.hand_over(&lease, own, limit) => sent.map_err(Unsent::Refused)?,
            error = taken_away(&lease) => return Err(Unsent::Refused(error)),
        };
        match sent {
            Ok(Ok(response)) => Ok((Hold::Here(lease), response)),
            Ok(Err(failure @ Failure::Unreached(_))) => {
                crashed(&self.request.request_id, &Hold::Here(lease), &failure).await;
                Err(Unsent::Unreached)
            }
            Ok(Err(failure)) => Err(Unsent::Refused(
                crashed(&self.request.request_id, &Hold::Here(lease), &failure).await,
            )),
            Err(TooLate) => {
                give_up(&Hold::Here(lease));
                Err(Unsent::Refused(ApiError::new(
                    Code::FirstTokenTimeout,
                    format!("{} sent nothing within {limit:?}", self.model()),
                )))
            }
        }
    }

    /// From whose prompts an engine of our own may go on.
    fn mark(&self, plan: &LoadPlan) -> Option<HeaderValue> {
        let mark = match (&plan.engine, self.rules.prompt_cache) {
            (PlannedEngine::Spawned(_), _) | (_, PromptCache::Off) => return None,
            (PlannedEngine::Own(_), PromptCache::Private) => self.request.caller.mark(),
            (PlannedEngine::Own(_), PromptCache::Shared) => Caller::mark_of_all(),
        };
        HeaderValue::try_from(mark).ok()
    }

    /// Sends the request to the engine that has been got for it, and waits for the
    /// beginning of its answer for as long as `limit`.
    async fn hand_over(
        &self,
        lease: &Lease,
        own: &LoadPlan,
        limit: Duration,
    ) -> Result<Result<Result<Response<client::Body>, Failure>, TooLate>, ApiError> {
        let (client, payload) = (lease.client(), self.payload(own, lease.plan()));
        let (path, id) = (self.request.path.as_ref(), &self.request.request_id);
        if let Some(upload) = &self.request.upload {
            let send = |headers, body| client.send(Method::POST, path, headers, body);
            let strip = &self.rules.strip;
            return upload.hand_over(id, payload, strip, limit, send).await;
        }
        let kind = HeaderValue::from_static("application/json");
        let mut headers = headers::to_engine(kind, id);
        if let Some(mark) = self.mark(lease.plan()) {
            headers.insert(CALLER_HEADER, mark);
        }
        let sent = client.send(Method::POST, path, headers, payload);
        Ok(within(limit, sent).await)
    }

    /// Which model answers, as far as that is certain, and why, as headers.
    fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let is_certain = match self.away() {
            Some(away) => away.is_settled(),
            None => self.why() != Why::Background || self.answering.load().is_some(),
        };
        let model = is_certain.then(|| HeaderValue::from_str(&self.model()).ok());
        let away = self.away().filter(Away::is_settled);
        let upstream = away.as_ref().map(Away::upstream);
        let fallen = self.fallen.load();
        let fallback = fallen.as_ref().map(|fallen| fallen.away.name.as_str());
        [
            ("x-roundhouse-model", model.flatten()),
            (
                "x-roundhouse-route",
                Some(HeaderValue::from_static(self.why().as_str())),
            ),
            (
                UPSTREAM_HEADER,
                upstream.and_then(|name| HeaderValue::from_str(name).ok()),
            ),
            (
                FALLBACK_HEADER,
                fallback.and_then(|name| HeaderValue::from_str(name).ok()),
            ),
            (explained::HEADER, self.explained.clone()),
            (headers::LIMITED, limited(&self.limited, None)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((HeaderName::from_static(name), value?)))
        .collect()
    }

    /// Of these, what was not certain before there was a lease.
    fn late_headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        match self.why() {
            Why::Background | Why::Fallback | Why::Spill => self.headers(),
            _ if self.away().is_some() => self.headers(),
            _ => Vec::new(),
        }
    }

    /// Adds the headers to an answer.
    fn finish(&self, mut response: Response<Body>, wait: Option<Wait>) -> Response<Body> {
        let headers = response.headers_mut();
        let of_engine = headers.remove(headers::LIMITED);
        headers.extend(self.headers());
        if let Some(value) = limited(&self.limited, of_engine.as_ref()) {
            headers.insert(headers::LIMITED, value);
        }
        headers.extend(wait.iter().flat_map(Wait::headers));
        response
    }

    /// Counts what the engine reports against the day of the caller's key; without
    /// a report, one token for each of the `events` that went out, so that leaving
    /// before the end does not make an answer free.
    fn count(&self, usage: Option<&str>, events: u64) {
        if let Some(seat) = &self.request.caller.seat {
            let tokens = usage.and_then(tokens).unwrap_or(events);
            seat.spend(tokens, SystemTime::now());
        }
    }

    /// One line for the log. Never the prompt, never the answer.
    fn log(&self, outcome: &str, usage: Option<&str>) {
        if let Some(usage) = usage {
            self.request.entry.usage(usage);
        }
        tracing::info!(
            request.id = self.request.request_id,
            caller.id = self.request.caller.id,
            model.id = self.model(),
            path = self.request.endpoint.path(),
            outcome,
            usage,
            duration_ms = self.arrived.elapsed().as_millis() as u64,
            "answered"
        );
    }
}

/// What the rules lowered and what the engine did, in one header. A bound that both
/// lowered is as the engine says, since it saw the rules' already.
fn limited(rules: &[String], engine: Option<&HeaderValue>) -> Option<HeaderValue> {
    let engine = engine.and_then(|value| value.to_str().ok());
    let name = |item: &str| item.split('=').next().unwrap_or_default().to_owned();
    let said: Vec<_> = engine.iter().flat_map(|items| items.split(", ")).collect();
    let ours = rules.iter().map(String::as_str);
    let ours = ours.filter(|item| said.iter().all(|other| name(other) != name(item)));
    let all: Vec<_> = said.iter().copied().chain(ours).collect();
    match all.is_empty() {
        true => None,
        false => HeaderValue::from_str(&all.join(", ")).ok(),
    }
}

/// What waiting for a model was like.
#[derive(Clone, Copy, Debug)]
struct Wait {
    /// How long it took.
    time: Duration,
    /// How many requests, of all models, stood before it when it came.
    position: usize,
}

impl Wait {
    /// As it was for whoever got this. For an upstream nobody waits here.
    fn of(hold: &Hold) -> Self {
        let (time, position) = match hold {
            Hold::Here(lease) => (lease.waited(), lease.queue_position()),
            Hold::Away(..) => (Duration::ZERO, 0),
        };
        Self { time, position }
    }

    /// The same as headers.
    fn headers(&self) -> [(HeaderName, HeaderValue); 2] {
        let header = |name, value: u64| (HeaderName::from_static(name), HeaderValue::from(value));
        [
            header("x-roundhouse-wait-ms", self.time.as_millis() as u64),
            header("x-roundhouse-queue-position", self.position as u64),
        ]
    }
}

/// The tokens of a usage as workers report it: `prompt=3 completion=5 finish=stop`.
fn tokens(usage: &str) -> Option<u64> {
    let number = |name: &str| {
        let field = usage.split(' ').find_map(|field| field.strip_prefix(name));
        field?.strip_prefix('=')?.parse::<u64>().ok()
    };
    number("prompt")?.checked_add(number("completion")?)
}

/// The pool's refusal in the words of the API.
pub fn refused(refused: Refused) -> ApiError {
    let message = refused.to_string();
    match refused {
        Refused::NeverFits { .. } => ApiError::new(Code::InsufficientMemory, message),
        Refused::QueueFull { retry_after, .. } => {
            ApiError::new(Code::QueueFull, message).retry_after(retry_after)
        }
        Refused::QueueTimeout { .. } => ApiError::new(Code::QueueTimeout, message),
        // Why is the engine's own word, and for the owner: the log and the status
        // of the model tell it.
        Refused::LoadFailed { model, .. } => {
            ApiError::new(Code::LoadFailed, format!("{model} could not be loaded"))
        }
        Refused::Contended { retry_after, .. } => {
            ApiError::new(Code::Overloaded, message).retry_after(retry_after)
        }
        Refused::NotLoaded { .. } => ApiError::new(Code::Conflict, message).param("model"),
        Refused::LoadTimeout { .. } => ApiError::new(Code::LoadTimeout, message),
        Refused::ShuttingDown => shutting_down(),
        Refused::Unloaded { .. } => ApiError::new(Code::Overloaded, message),
        Refused::Lost => ApiError::new(Code::InternalError, message),
        Refused::Unlisted { .. } => ApiError::new(Code::ModelNotFound, message).param("model"),
    }
}

/// A server like this one asks, and what it asks for is somewhere else again.
fn passed_on(away: &Away) -> ApiError {
    let message = format!(
        "the request was sent on once already, and \"{}\" is not answered on this machine",
        away.name
    );
    ApiError::new(Code::BadUpstreamResponse, message).param("model")
}

/// Somebody ended the request from outside.
fn cancelled() -> ApiError {
    ApiError::new(
        Code::RequestCancelled,
        "the request was ended by management",
    )
}

fn shutting_down() -> ApiError {
    ApiError::new(Code::ShuttingDown, "the server is shutting down")
}

/// Why a worker has not got a request.
enum Unsent {
    /// It was gone before it saw anything of it.
    Unreached,
    /// It would have to wait too long, and this may answer instead.
    Spills(Away),
    /// The client is to be told.
    Refused(ApiError),
}

fn ended_early(model: &str) -> ApiError {
    ApiError::new(
        Code::WorkerCrashed,
        format!("the worker of {model} ended before its answer did"),
    )
}
