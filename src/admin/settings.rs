//! `GET /admin/config`: the configuration in force, with every default. Secrets
//! are not in it: of keys there is how many, and nothing here can be written back,
//! since there is no way to change the configuration but its file.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};

use crate::access::keys::{KeyClass, Keys};
use crate::config::draft::Draft;
use crate::config::engine::{Engine, OWN, ReadySign, Template};
use crate::config::upstream::{KeySource, RemoteName, Upstream};
use crate::config::{
    Alias, Amount, Budget, Config, Contention, Entry, Limits, Listen, MinResidency, Pattern, Pool,
    Server, Source,
};
use crate::service::Service;

/// The answer.
pub async fn config(State(service): State<Service>) -> Json<Value> {
    let snapshot = service.dispatch.registry.load();
    Json(json!({
        "generation": snapshot.generation,
        "config": shown(&snapshot.config),
        "keys": counted(&service.entrance.keys.load()),
    }))
}

/// How many keys there are, and nothing more.
fn counted(keys: &Keys) -> Value {
    let count = |class| keys.iter().filter(|key| key.class == class).count();
    json!({
        "inference": count(KeyClass::Inference),
        "management": count(KeyClass::Management),
    })
}

/// The configuration as it could be written, without secrets. Also for `--print-config`.
pub fn shown(config: &Config) -> Value {
    let memory = match config.memory {
        Budget::Auto => "auto".to_owned(),
        Budget::Size(size) => size.to_string(),
        Budget::Share(share) => percent(share),
    };
    let models: Map<_, _> = config
        .models
        .iter()
        .map(|model| (model.name.to_string(), entry(model)))
        .collect();
    let engines = config.engines.values();
    let engines: Map<_, _> = engines.map(|it| (it.name.clone(), engine(it))).collect();
    let upstreams = config.upstreams.values();
    let upstreams: Map<_, _> = upstreams
        .map(|it| (it.name.clone(), upstream(it)))
        .collect();
    json!({
        "memory": memory,
        "allow": patterns(&config.allow),
        "deny": patterns(&config.deny),
        "default": config.default.as_ref().map(ToString::to_string),
        "cache": config.cache,
        "engines": engines,
        "upstreams": upstreams,
        "models": models,
        "pool": pool(&config.pool),
        "server": server(&config.server),
        "keys_file": config.keys_file,
        "audit": config.audit,
        "log": config.log,
        "request_log": config.request_log,
    })
}

fn pool(pool: &Pool) -> Value {
    json!({
        "max_models": pool.max_models.map_or(json!("unlimited"), |most| json!(most)),
        "idle_unload": never_or(pool.idle_unload),
        "switch_after": duration(pool.switch_after),
        "min_residency": match pool.min_residency {
            MinResidency::Auto => json!("auto"),
            MinResidency::For(time) => json!(duration(time)),
        },
        "queue": pool.queue,
        "queue_per_caller": pool.places_per_caller(),
        "queue_timeout": duration(pool.queue_timeout),
        "contention": match pool.contention {
            Contention::Wait => "wait",
            Contention::Fail => "fail",
            Contention::Preempt => "preempt",
        },
        "autoload": pool.autoload,
        "prefetch": pool.prefetch,
        "lease_ceiling": duration(pool.lease_ceiling),
        "prompts_on_disk": pool.prompts_on_disk.map_or(json!("off"), |most| json!(most.to_string())),
        "prompts_on_disk_per_model": pool.prompts_on_disk_per_model.to_string(),
    })
}

fn server(server: &Server) -> Value {
    json!({
        "listen": listens(&server.listen),
        "management": listens(&server.management),
        "allowed_hosts": server.allowed_hosts,
        "allowed_origins": server.allowed_origins,
        "trusted_proxies": server.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(),
        // Where the private key lies, never what is in it.
        "tls": {
            "cert": server.tls.as_ref().map(|tls| &tls.cert),
            "key": server.tls.as_ref().map(|tls| &tls.key),
        },
        "socket_mode": format!("{:04o}", server.socket_mode),
        "drain": duration(server.drain),
        "heartbeat_after": duration(server.heartbeat_after),
        "heartbeat_every": duration(server.heartbeat_every),
        "heartbeat": server.heartbeat.as_str(),
        "limits": limits(&server.limits),
    })
}

fn limits(limits: &Limits) -> Value {
    json!({
        "body": limits.body.to_string(),
        "header_time": duration(limits.header_time),
        "body_idle": duration(limits.body_idle),
        "load_time": duration(limits.load_time),
        "first_token": duration(limits.first_token),
        "between_tokens": duration(limits.between_tokens),
        "write_stall": duration(limits.write_stall),
        "connections": limits.connections,
        "bodies": limits.bodies.to_string(),
        "idle": duration(limits.idle),
        "address_rate": limits.address_rate.map_or(json!("unlimited"), |most| json!(most.get())),
        "wrong_keys": limits.wrong_keys.get(),
        "values": limits.counts.values,
        "messages": limits.counts.messages,
        "images": limits.counts.images,
        "image_size": limits.counts.image_size.to_string(),
        "tools": limits.counts.tools,
        "tool_calls": limits.counts.tool_calls,
        "inputs": limits.counts.inputs,
        "stops": limits.counts.stops,
        "choices": limits.counts.choices,
        "answers": limits.counts.answers,
    })
}

/// An engine; what its variables hold may be a secret.
fn engine(engine: &Engine) -> Value {
    let texts = |texts: &[Template]| texts.iter().map(Template::to_string).collect::<Vec<_>>();
    let names = engine.env.keys();
    json!({
        "command": texts(&engine.command),
        "ready": match &engine.ready {
            ReadySign::Path(text) | ReadySign::Line(text) => text,
        },
        "kinds": engine.kinds,
        "stop": engine.stop.as_str(),
        "env": names.map(|name| (name.clone(), json!("***"))).collect::<Map<_, _>>(),
        "model": engine.model.to_string(),
    })
}

/// An upstream; where its key lies, never what it is.
fn upstream(upstream: &Upstream) -> Value {
    let (variable, file) = match &upstream.key {
        Some(KeySource::Variable(name)) => (Some(name), None),
        Some(KeySource::File(path)) => (None, Some(path)),
        None => (None, None),
    };
    json!({
        "url": upstream.url.to_string(),
        "key_env": variable,
        "key_file": file,
        "models": upstream.models.iter().map(remote_name).collect::<Vec<_>>(),
        "kinds": upstream.kinds,
        "priority": upstream.priority,
        "weight": upstream.weight,
        "roundhouse": upstream.roundhouse,
        "ca": upstream.ca,
    })
}

/// As it can be written in the file.
fn remote_name(remote: &RemoteName) -> Value {
    let name = remote.name.as_str();
    match &remote.sent_as {
        Some(sent_as) => json!({"name": name, "as": sent_as}),
        None => json!(name),
    }
}

fn entry(entry: &Entry) -> Value {
    let (own, revision, path) = match entry.own() {
        Source::Repository { id, revision } => (Some(id.to_string()), revision.clone(), None),
        Source::Path(path) => (None, None, Some(path.display().to_string())),
    };
    // As it is written: with an adapter nothing is said of the weights but `base`.
    let (repo, path, adapter) = match &entry.adapter {
        None => (own, path, None),
        Some(_) => (None, None, own.or(path)),
    };
    let amount = |amount: Option<Amount>| {
        amount.map(|amount| match amount {
            Amount::Size(size) => size.to_string(),
            Amount::Share(_) => percent(amount.share()),
        })
    };
    json!({
        "repo": repo,
        "revision": revision,
        "path": path,
        "base": entry.adapter.as_ref().map(|adapted| adapted.base.as_str()),
        "adapter": adapter,
        "engine": entry.load.engine.as_ref().map_or(OWN[0], |engine| &engine.name),
        "file": entry.load.file,
        "aliases": entry.aliases.iter().map(alias).collect::<Vec<_>>(),
        "context": entry.load.context,
        "parallel": entry.load.parallel,
        "kv": amount(entry.load.kv),
        "kv_format": entry.load.kv_format.as_str(),
        "compute": entry.load.compute.as_str(),
        "draft": entry.load.draft.as_ref().map(Draft::as_str),
        "memory": amount(entry.load.memory),
        "trust_remote_code": entry.load.trust_remote_code,
        "keep": entry.keep.then_some("always"),
        "preload": entry.preload,
        "warmup": entry.warmup,
        "warm_prompts": entry.warm_prompts,
        "idle_unload": entry.idle_unload.map(never_or),
        "request": {
            "defaults": entry.request.defaults,
            "limits": entry.request.limits,
            "set": entry.request.set,
            "strip": entry.request.strip,
            "system_prefix": entry.request.system_prefix,
            "prompt_cache": entry.request.prompt_cache.as_str(),
        },
        "variants": entry.variants,
        "tags": entry.tags,
        "never_with": entry.never_with.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "fallback": entry.fallback.as_ref().map(ToString::to_string),
        "spill_after": entry.spill_after.map(duration),
    })
}

/// As it can be written in the file.
fn alias(alias: &Alias) -> Value {
    let name = alias.name.as_str();
    match alias.background {
        true => json!({"name": name, "background": true}),
        false => json!(name),
    }
}

fn patterns(patterns: &[Pattern]) -> Vec<&str> {
    patterns.iter().map(Pattern::as_str).collect()
}

fn listens(listens: &[Listen]) -> Vec<String> {
    listens.iter().map(ToString::to_string).collect()
}

fn percent(share: f64) -> String {
    format!("{}%", share * 100.0)
}

/// A duration as it can be written in the file.
fn duration(time: Duration) -> String {
    match time.as_millis() {
        milliseconds if milliseconds % 1000 != 0 => format!("{milliseconds}ms"),
        milliseconds => format!("{}s", milliseconds / 1000),
    }
}

fn never_or(time: Option<Duration>) -> String {
    time.map_or_else(|| "never".to_owned(), duration)
}
