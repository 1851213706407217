//! The one way in for every dialect: one snapshot, one decision, one lease, one
//! answer. It speaks OpenAI bytes inwards and forwards them as they came, but for
//! what the rules of an entry change; the dialects stand in `api`.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Method, Response};
use bytes::Bytes;

use crate::access::Caller;
use crate::access::keys::Scope;
use crate::api::error::{ApiError, Code};
use crate::api::fields::Endpoint;
use crate::config::engine::Use;
use crate::config::request::{PromptCache, Rules};
use crate::pool::{Asker, Candidates, Ending, Lease, Pool, Refused, Terms, UnloadReason};
use crate::records::entry::Entry;
use crate::registry::{Registry, Served, Snapshot};
use crate::route::{self, Decision, Demand, Why};
use crate::shutdown::Tasks;
use crate::worker::client::Failure;
use crate::worker::{CALLER_HEADER, LoadPlan, PlannedEngine};
use patience::{TooLate, within};
use payload::Payload;
use rules::Naming;

mod body;
mod explained;
mod foreign;
pub mod headers;
mod heartbeat;
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
mod whole;

/// How long the pool may take to learn that a worker died: it is told when the
/// process has been reaped.
const SETTLING: Duration = Duration::from_secs(1);

/// Everything an answer needs.
pub struct Dispatch {
    /// The snapshot in force.
    pub registry: Arc<Registry>,
    /// The models.
    pub pool: Pool,
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
    /// The world that it sees, from its first byte to its last.
    pub snapshot: Arc<Snapshot>,
    /// The body as it came.
    pub body: Bytes,
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
    /// The model it leads to, and those that may answer in its place.
    candidates: Candidates,
    why: Why,
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
        let peek = peek::peek(request.endpoint, &request.body, &limits.counts)?;
        request.terms.idle_unload = peek.idle_unload;
        let demand = Demand {
            asked: request.endpoint.asks(),
            chat: request.endpoint == Endpoint::Chat,
            tokens: request.body.len() as u64,
        };
        let Decided {
            mut candidates,
            why,
            rules,
        } = decide(
            &snapshot,
            peek.model.as_deref(),
            demand,
            &request.caller.scope,
        )?;
        let is_own = |plan: &LoadPlan| matches!(plan.engine, PlannedEngine::Own(_));
        if let Some(refusal) = peek.beyond_own {
            if is_own(&candidates.own) {
                return Err(refusal);
            }
            candidates.others.retain(|plan| !is_own(plan));
        }
        let priority = request.terms.priority;
        request
            .entry
            .routed(&candidates.own.model, why.as_str(), priority);
        let default = snapshot.config.default.as_ref();
        let name = peek.model.as_deref().or(default.map(|name| name.as_str()));
        let asker = Asker::new(
            &request.request_id,
            &request.caller.id,
            name.unwrap_or_default(),
        );
        let place = self.live.begin(
            asker.into(),
            &candidates.own.model,
            why.as_str(),
            peek.stream,
        );
        let explained = match request.explain {
            true => self.explained(&request, &candidates.own, why).await,
            false => None,
        };
        let missing = match peek.model {
            None => default.map(|name| name.as_str()),
            Some(_) => None,
        };
        let naming = naming(&candidates.own, missing);
        let ruled = rules::apply(request.endpoint, &request.body, &rules, naming);
        let missing = missing.map(str::to_owned);
        let routed = Routed {
            request,
            payload: ruled.payload,
            rules,
            missing,
            limited: ruled.limited,
            candidates,
            why,
            answering: ArcSwapOption::empty(),
            snapshot,
            arrived,
            place,
            explained: explained.clone(),
        };
        let model = routed.candidates.own.model.clone();
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
    /// The model it leads to, and those that may answer in its place.
    candidates: Candidates,
    why: Why,
    /// What becomes of the fields of the request.
    rules: Arc<Rules>,
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
            if !served.uses.contains(&demand.asked) {
                return refuse(Code::InvalidValue, other_use(&served, demand.asked));
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
            Ok(Decided {
                candidates: Candidates { own: plan, others },
                why,
                rules,
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
fn other_use(served: &Served, asked: Use) -> String {
    let uses: Vec<_> = served.uses.iter().copied().map(Use::as_str).collect();
    format!(
        "the model \"{}\" is for {}, and this asks for {}",
        served.name,
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
    fn payload(&self, plan: &LoadPlan) -> Payload {
        if plan.engine.model() == self.candidates.own.engine.model() {
            return self.payload.clone();
        }
        let naming = naming(plan, self.missing.as_deref());
        let Request { endpoint, body, .. } = &self.request;
        rules::apply(*endpoint, body, &self.rules, naming).payload
    }

    /// Whether an engine of the file answers.
    fn is_foreign(&self) -> bool {
        let answering = self.answering.load();
        let plan = answering.as_ref().unwrap_or(&self.candidates.own);
        matches!(plan.engine, PlannedEngine::Spawned(_))
    }

    /// The model that answers, or that it leads to while none does.
    fn model(&self) -> String {
        let answering = self.answering.load();
        let plan = answering.as_ref().unwrap_or(&self.candidates.own);
        plan.model.clone()
    }

    /// Waits for the model and hands it the request. A worker that died a moment
    /// ago and was never reached is no answer: the next one is asked, once.
    async fn send(
        &self,
        dispatch: &Dispatch,
    ) -> Result<(Lease, Response<crate::worker::client::Body>), ApiError> {
        match self.send_once(dispatch).await {
            Err(Unsent::Unreached) => {
                self.send_once(dispatch)
                    .await
                    .map_err(|unsent| match unsent {
                        Unsent::Unreached => ended_early(&self.model()),
                        Unsent::Refused(error) => error,
                    })
            }
            Err(Unsent::Refused(error)) => Err(error),
            Ok(sent) => Ok(sent),
        }
    }

    async fn send_once(
        &self,
        dispatch: &Dispatch,
    ) -> Result<(Lease, Response<crate::worker::client::Body>), Unsent> {
        let terms = self.request.terms;
        let pool = dispatch.pool.asked_by(self.place.running().asker.clone());
        let acquired = pool.acquire(self.candidates.clone(), terms).await;
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
        let kind = HeaderValue::from_static("application/json");
        let mut headers = headers::to_engine(kind, &self.request.request_id);
        if let Some(mark) = self.mark(lease.plan()) {
            headers.insert(CALLER_HEADER, mark);
        }
        let limit = self.snapshot.config.server.limits.first_token;
        let sent = lease.client().send(
            Method::POST,
            self.request.endpoint.path(),
            headers,
            self.payload(lease.plan()),
        );
        let sent = tokio::select! {
            sent = within(limit, sent) => sent,
            error = revoked(&lease) => return Err(Unsent::Refused(error)),
        };
        match sent {
            Ok(Ok(response)) => Ok((lease, response)),
            Ok(Err(failure @ Failure::Unreached(_))) => {
                crashed(&self.request.request_id, &lease, &failure).await;
                Err(Unsent::Unreached)
            }
            Ok(Err(failure)) => Err(Unsent::Refused(
                crashed(&self.request.request_id, &lease, &failure).await,
            )),
            Err(TooLate) => {
                give_up(&lease);
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

    /// Which model answers, as far as that is certain, and why, as headers.
    fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let is_certain = self.why != Why::Background || self.answering.load().is_some();
        let model = is_certain.then(|| HeaderValue::from_str(&self.model()).ok());
        [
            ("x-roundhouse-model", model.flatten()),
            (
                "x-roundhouse-route",
                Some(HeaderValue::from_static(self.why.as_str())),
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
        match self.why {
            Why::Background => self.headers(),
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
    /// As it was for whoever got this lease.
    fn of(lease: &Lease) -> Self {
        Self {
            time: lease.waited(),
            position: lease.queue_position(),
        }
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

/// Waits until the pool takes the model away from a running answer, and says so.
/// A crash is not told here: the connection breaks off by itself, after what
/// the worker still had to say.
async fn revoked(lease: &Lease) -> ApiError {
    match lease.ended().await {
        Ending::Revoked(UnloadReason::Shutdown) => shutting_down(),
        Ending::Lost => ApiError::new(Code::InternalError, Refused::Lost.to_string()),
        Ending::Revoked(_) => {
            let message = format!("{} was unloaded while it answered", lease.plan().model);
            ApiError::new(Code::Overloaded, message)
        }
        ending @ Ending::Outgrew { .. } => {
            let model = &lease.plan().model;
            shortage::ended(model, &ending).unwrap_or_else(|| ended_early(model))
        }
        Ending::Crashed(_) | Ending::OutOfMemory => std::future::pending().await,
    }
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
    /// The client is to be told.
    Refused(ApiError),
}

/// The worker is gone, broke off or did not speak HTTP. The cause is for the log alone. It is told
/// only when the pool knows too, so that whoever asks again after this refusal
/// does not meet the same dead worker.
async fn crashed(request_id: &str, lease: &Lease, failure: &Failure) -> ApiError {
    let model = &lease.plan().model;
    tracing::warn!(request.id = request_id, model.id = model, cause = ?failure, "a worker broke off");
    if let Failure::Malformed(_) = failure {
        let message = format!("the engine of {model} did not answer in HTTP that can be passed on");
        return ApiError::new(Code::BadUpstreamResponse, message);
    }
    if tokio::time::timeout(SETTLING, lease.ended()).await.is_err() {
        tracing::warn!(
            model.id = model,
            "the worker lives on after it broke off an answer"
        );
    }
    let for_memory = lease
        .ending()
        .and_then(|ending| shortage::ended(model, &ending));
    for_memory.unwrap_or_else(|| ended_early(model))
}

/// An engine that fell silent is not asked again: its worker leaves after its last
/// lease.
fn give_up(lease: &Lease) {
    tracing::warn!(
        model.id = lease.plan().model,
        "an engine fell silent; its worker is given up"
    );
    lease.give_up();
}

fn ended_early(model: &str) -> ApiError {
    ApiError::new(
        Code::WorkerCrashed,
        format!("the worker of {model} ended before its answer did"),
    )
}
