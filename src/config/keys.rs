//! Every key of `models.yaml` in one table: what it takes, its default, when a
//! change of it works. Suggestions, `docs/CONFIG.md`, the JSON Schema and the tests
//! that hold the reader to them come from here.

pub mod kind;

use Class::{Live, NextLoad, Restart};
use Kind::{
    Address, Any, Duration, Field, FieldLimits, Fields, File, Filter, Folder, Host, List, Mapping,
    Mode, Name, Network, Number, Origin, Pattern, Percentage, RemoteName, Repository, Revision,
    Size, SpecialName, Switch, Tag, Text, Tokens, Url, Variables, Variants, Word,
};
use Otherwise::{Absent, Value, Words};
use kind::Kind;

/// When a change takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// At once, with the reload.
    Live,
    /// With the next load of that model.
    NextLoad,
    /// When the server starts again.
    Restart,
}

impl Class {
    /// The word in the documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Live => "live",
            NextLoad => "next load",
            Restart => "restart",
        }
    }
}

/// What holds while a key is not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// What could be written instead, with the same effect.
    Value(&'static str),
    /// Something that depends on the machine or on other keys, in words.
    Words(&'static str),
    /// Nothing.
    Absent,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// From the top, with dots; `NAME` stands for the name of an entry.
    pub path: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What holds without it.
    pub default: Otherwise,
    /// When a change takes effect.
    pub class: Class,
    /// What it is for.
    pub about: &'static str,
}

/// Stands in a path for the name of an entry.
pub const NAME: &str = "NAME";

const fn key(
    path: &'static str,
    kind: Kind,
    default: Otherwise,
    class: Class,
    about: &'static str,
) -> Key {
    Key {
        path,
        kind,
        default,
        class,
        about,
    }
}

/// The table, in the order of the documentation.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("memory", Any(&[Size, Percentage("the machine's memory"), Word("auto")]), Value("auto"), Live,
        "budget for everything loaded: weights, caches and what is being loaded stay below it together"),
    key("allow", List(&Pattern), Value("[]"), Live,
        "cached ids that may be served with default settings; `*` stands for anything but `/`"),
    key("deny", List(&Pattern), Value("[]"), Live,
        "ids that may not be served, whatever `allow` says"),
    key("default", Name, Absent, Live,
        "what a request without `model` gets: an entry, an alias, or an id that `allow` permits"),
    key("cache", List(&Folder), Words("`HF_HUB_CACHE`, else `HF_HOME/hub`, else `~/.cache/huggingface/hub`"), Live,
        "hub caches, searched in this order"),
    key("models.NAME", Mapping, Absent, Live,
        "an entry: the key is the served name and, without `repo`, `path` or `base` with `adapter`, the repository id; entries with equal load settings share one load"),
    key("models.NAME.repo", Repository, Words("the entry's name"), NextLoad,
        "the cached repository the weights come from"),
    key("models.NAME.revision", Revision, Value("main"), NextLoad,
        "which snapshot of the repository; of the adapter's, where there is one"),
    key("models.NAME.path", Folder, Absent, NextLoad,
        "a folder with weights outside the cache, instead of `repo`"),
    key("models.NAME.base", Name, Absent, NextLoad,
        "the entry, or the cached repository, beside whose weights `adapter` stands; the two share one load, with the load settings of the base, so that going from one to the other loads nothing but the adapter"),
    key("models.NAME.adapter", Any(&[Repository, Folder]), Absent, NextLoad,
        "a low-rank adapter (LoRA) as mlx-lm or PEFT writes it: a cached repository, or a folder that begins with `/`, `~/` or `./`"),
    key("models.NAME.aliases", List(&Any(&[Name, SpecialName])), Value("[]"), Live,
        "other names for the same model; in one with a `*`, that stands for anything but `/`, and of several that match a name nothing else has, the one with the most other characters counts; a request by `{name: NAME, background: true}` may be answered by any permitted model that is up or coming up"),
    key("models.NAME.engine", Name, Value("mlx"), NextLoad,
        "what runs it: the embedded engine, or one of `engines`"),
    key("models.NAME.file", File, Words("the only one that could be meant"), NextLoad,
        "which file of the snapshot an engine that takes `{file}` gets, such as one of several GGUF files"),
    key("models.NAME.context", Tokens, Words("the checkpoint's own"), NextLoad,
        "longest sequence, prompt and answer together"),
    key("models.NAME.parallel", Number, Value("8"), NextLoad,
        "most sequences worked on at once; a quarter more requests are at hand, others wait in the queue"),
    key("models.NAME.kv", Any(&[Size, Percentage("the budget")]), Words("one sequence of the context or 32k tokens, whichever is less, at most a quarter of the budget"), NextLoad,
        "room for KV caches, shared by the sequences"),
    key("models.NAME.kv_format", Any(&[Word("auto"), Word("8bit"), Word("4bit")]), Value("auto"), NextLoad,
        "form of KV caches: numbers of the format of activations, or packed into integers as mlx-lm does it, which takes a quarter to an eighth of float32 and changes answers a little"),
    key("models.NAME.compute", Any(&[Word("auto"), Word("float32"), Word("float16"), Word("bfloat16")]), Value("auto"), NextLoad,
        "number format of activations; `auto` is float32 on a CPU and the checkpoint's own elsewhere"),
    key("models.NAME.draft", Any(&[Word("prompt"), Name]), Absent, NextLoad,
        "who guesses next tokens, of which those count that the model would have chosen itself, so that answers are the same and come sooner: `prompt` looks them up in the text so far, a name is that of a smaller model with the same tokenizer, an entry or a cached repository, which is loaded with this one"),
    key("models.NAME.memory", Any(&[Size, Percentage("the budget")]), Words("estimated from the snapshot"), NextLoad,
        "what to reserve for the model, caches included, instead of the estimate; what is seen may raise it, never lower it"),
    key("models.NAME.trust_remote_code", Switch, Value("false"), NextLoad,
        "serve a snapshot whose `config.json` asks for code that comes with the model; the code is never run here, so the engine has to have the architecture itself"),
    key("models.NAME.keep", Word("always"), Absent, Live,
        "loaded at start and never unloaded to make room"),
    key("models.NAME.preload", Switch, Value("false"), Live,
        "loaded at start"),
    key("models.NAME.warmup", Switch, Value("false"), Live,
        "whether the engine makes one token before a loaded model is ready, so that the first answer does not wait for what engines put off; entries that share a load share this"),
    key("models.NAME.warm_prompts", List(&Text), Value("[]"), Live,
        "system prompts that the embedded engine reads before a loaded chat model is ready; a chat that begins with one of them goes on from there, whoever sends it, unless `request.prompt_cache` is `off`; entries that share a load share these"),
    key("models.NAME.idle_unload", Any(&[Duration, Word("never")]), Words("`pool.idle_unload`"), Live,
        "unloaded when unused for so long"),
    key("models.NAME.request.defaults", Fields, Value("{}"), Live,
        "what holds where a request does not say, such as `temperature` or `max_tokens`, which here means `max_completion_tokens` as well"),
    key("models.NAME.request.limits", FieldLimits, Value("{}"), Live,
        "the most that numbers of a request may be; what is over it is lowered and told in `x-roundhouse-limited`, and a request without `max_tokens` gets that one"),
    key("models.NAME.request.set", Fields, Value("{}"), Live,
        "what holds whatever a request or a variant says"),
    key("models.NAME.request.strip", List(&Field), Value("[]"), Live,
        "fields that are taken out of a request first; of an upload, parts"),
    key("models.NAME.request.system_prefix", Text, Absent, Live,
        "what stands before the system prompt of a chat, or is it if there is none"),
    key("models.NAME.request.prompt_cache", Any(&[Word("private"), Word("shared"), Word("off")]), Value("private"), Live,
        "who goes on from prompts that the embedded engine has read before: `private` is each caller from their own, `shared` everybody who may use the model from everybody's, which lets them find out what others have asked; `off` keeps none"),
    key("models.NAME.variants", Variants, Value("{}"), Live,
        "`NAME:VARIANT` is the same load, with these values where a request does not say; they count before `request.defaults`"),
    key("models.NAME.tags", List(&Tag), Value("[]"), Live,
        "to filter lists by: `GET /v1/models?tag=`, `GET /admin/models?tag=`, `roundhouse models --tag TAG`"),
    key("models.NAME.never_with", List(&Name), Value("[]"), Live,
        "entries that are never in memory at the same time as this one, nor this one beside them, whatever room there is: what waits for one has the others go first, as if memory lacked; of two that are both there when this is written, one goes after its last answer"),
    key("models.NAME.fallback", Name, Absent, Live,
        "a name of an upstream that answers, once, where this machine fails before its first byte; the answer says so in `x-roundhouse-fallback`. Without it no prompt of this entry leaves the machine"),
    key("models.NAME.spill_after", Duration, Absent, Live,
        "a request that would wait longer than this for the model goes to the name of `fallback` at once, if that can be asked, and else waits on; the answer says `x-roundhouse-route: spill`"),
    key("engines.NAME", Mapping, Absent, NextLoad,
        "an engine that is not ours: any program that speaks OpenAI's HTTP on a port or a socket of this machine; entries name it with `engine`"),
    key("engines.NAME.command", List(&Text), Absent, NextLoad,
        "the program and its arguments, read by no shell; `{port}` or `{socket}` (one of them has to be there), `{path}` (the snapshot folder), `{file}` (the one weights file) and `{model}` (the model's name) are filled in inside an argument, and `{{port}}` is the text `{port}`"),
    key("engines.NAME.ready", Text, Value("/health"), NextLoad,
        "how it says that it can be asked: a path that is answered with 2xx, or a text in a line that it writes; for as long as `server.limits.load_time` allows"),
    key("engines.NAME.kinds", List(&Any(&[Word("chat"), Word("completions"), Word("embeddings"), Word("rerank"), Word("audio")])), Value("[\"chat\", \"completions\"]"), NextLoad,
        "what it may be asked; anything else is refused (400)"),
    key("engines.NAME.stop", Any(&[Word("SIGTERM"), Word("SIGINT"), Word("SIGQUIT"), Word("SIGHUP"), Word("SIGKILL")]), Value("SIGTERM"), NextLoad,
        "the signal that asks it to end; whatever is left of it after 5 seconds is killed"),
    key("engines.NAME.env", Variables, Value("{}"), NextLoad,
        "variables of its environment besides the few that every worker gets; the same places are filled in"),
    key("engines.NAME.model", Text, Value("\"{model}\""), NextLoad,
        "what it calls the model: stands in the place of `model` in what it is asked"),
    key("upstreams.NAME", Mapping, Absent, Live,
        "a service elsewhere that speaks OpenAI's HTTP, with a key of its own; requests by its names leave this machine, and nothing of the caller goes along but their body"),
    key("upstreams.NAME.url", Url, Absent, Live,
        "what clients call its base URL: `https`, or `http` for a port of this machine; no listener of this server, no link-local address"),
    key("upstreams.NAME.key_env", Text, Absent, Live,
        "the variable of the server's environment that holds the key for it"),
    key("upstreams.NAME.key_file", File, Absent, Live,
        "the file that holds the key for it, which only its owner may read; a new one is taken up by itself"),
    key("upstreams.NAME.models", List(&Any(&[Name, RemoteName])), Absent, Live,
        "the names that it answers, exact or with a `*`, in one table with the aliases; it is asked by the same name, or by `as`"),
    key("upstreams.NAME.kinds", List(&Any(&[Word("chat"), Word("completions"), Word("embeddings"), Word("rerank"), Word("audio")])), Value("[\"chat\", \"completions\", \"embeddings\"]"), Live,
        "what it may be asked; anything else is refused (400)"),
    key("upstreams.NAME.priority", Number, Value("0"), Live,
        "of several upstreams with the same name, those with the least number are asked, and others only while none of these can be"),
    key("upstreams.NAME.weight", Number, Value("1"), Live,
        "its share of the requests among those with the same priority; one that is less busy for its share goes first"),
    key("upstreams.NAME.roundhouse", Switch, Value("false"), Live,
        "whether it is a server like this one: it is asked which models are up there, and of several with the same priority one goes first where the model is up already"),
    key("upstreams.NAME.ca", File, Words("the system's"), Live,
        "certificates in PEM to one of which its own has to lead"),
    key("pool.max_models", Any(&[Number, Word("unlimited")]), Value("unlimited"), Live,
        "most models loaded at once"),
    key("pool.idle_unload", Any(&[Duration, Word("never")]), Value("15m"), Live,
        "a model unused for so long is unloaded"),
    key("pool.switch_after", Duration, Value("30s"), Live,
        "when the oldest waiting request has waited so long, its model is next as soon as running answers end"),
    key("pool.min_residency", Any(&[Word("auto"), Duration]), Value("auto"), Live,
        "how long an idle model is kept although requests wait for its room, at most until `switch_after`: since it was loaded, or (`auto`) for a moment after its last use while somebody is away who may come back: a fifth of what swapping there and back takes, and nobody waits for that longer than one and a half times as long"),
    key("pool.queue", Number, Value("64"), Live,
        "most requests that wait for one model"),
    key("pool.queue_per_caller", Number, Words("seven eighths of `pool.queue`"), Live,
        "most requests of one caller (a key; without one a session or an address) among them, so that others find a place"),
    key("pool.queue_timeout", Duration, Value("10m"), Live,
        "longest wait for a model"),
    key("pool.contention", Any(&[Word("wait"), Word("fail"), Word("preempt")]), Value("wait"), Live,
        "a request that only busy models could make room for waits until they are free (from `switch_after` on they are drained), is refused at once (503), or takes their place after `switch_after`, and whoever used them gets an error"),
    key("pool.autoload", Switch, Value("true"), Live,
        "whether a request loads a model that is not loaded; otherwise it is refused (409), as it is with `?autoload=false`"),
    key("pool.prefetch", Switch, Value("true"), Live,
        "whether the weights of the model that will probably be loaded next, by the order of the loads before, are read from the disk ahead of that, into memory that is free and not promised to any model"),
    key("pool.lease_ceiling", Duration, Value("1h"), Live,
        "longest residency lease: so long may somebody hold a model however long others wait for its room"),
    key("pool.prompts_on_disk", Any(&[Size, Word("off")]), Value("8GB"), Restart,
        "most bytes of prompts that the embedded engine has read, written to the state folder when a model goes, so that they need not be read again when it is back; what was used longest ago gives way; `off` writes none and removes what is there"),
    key("pool.prompts_on_disk_per_model", Size, Value("4GB"), Restart,
        "how much of that one model may have"),
    key("server.listen", Any(&[Address, List(&Address)]), Value("127.0.0.1:11440"), Restart,
        "where inference is served: `IP:PORT`, or `unix:PATH`"),
    key("server.management", Any(&[Address, List(&Address)]), Value("127.0.0.1:11441"), Restart,
        "where management is served; an empty list: on the control socket alone"),
    key("server.allowed_hosts", List(&Host), Value("[]"), Live,
        "values of `Host` that are accepted besides `localhost` and this machine's own addresses; any port"),
    key("server.allowed_origins", List(&Origin), Value("[]"), Live,
        "web pages that may use the server, such as `https://chat.example.com`"),
    key("server.trusted_proxies", List(&Network), Value("[]"), Live,
        "proxies whose `X-Forwarded-For` says who asks; nobody else's counts"),
    key("server.tls.cert", File, Absent, Live,
        "certificate chain in PEM; with it every TCP listener speaks TLS, and a renewed file is taken up by itself"),
    key("server.tls.key", File, Absent, Live,
        "its private key in PEM, which only its owner may read"),
    key("server.socket_mode", Mode, Value("0600"), Restart,
        "who may use the Unix sockets of `listen` and `management`"),
    key("server.drain", Duration, Value("10s"), Live,
        "how long running answers may take to end when the server stops"),
    key("server.heartbeat_after", Duration, Value("3s"), Live,
        "a stream that has no first byte by then begins with a comment"),
    key("server.heartbeat_every", Duration, Value("10s"), Live,
        "distance of such comments while nothing else is sent"),
    key("server.heartbeat", Any(&[Word("comment"), Word("empty_delta"), Word("off")]), Value("comment"), Live,
        "what they are: comments, which clients pass over; events without text; or nothing, and the headers wait for the first event"),
    key("server.limits.body", Size, Value("32MB"), Live,
        "largest body of a request"),
    key("server.limits.bodies", Size, Value("512MB"), Live,
        "most bytes that the bodies of all running requests take together"),
    key("server.limits.header_time", Duration, Value("10s"), Live,
        "longest time for the head of a request"),
    key("server.limits.body_idle", Duration, Value("30s"), Live,
        "longest time in which no byte of a request's body arrives"),
    key("server.limits.idle", Duration, Value("2m"), Live,
        "longest time in which a connection asks nothing"),
    key("server.limits.load_time", Duration, Value("10m"), Live,
        "longest time in which the load of a model comes no further"),
    key("server.limits.first_token", Duration, Value("10m"), Live,
        "longest time to an engine's first byte once it has the request"),
    key("server.limits.between_tokens", Duration, Value("2m"), Live,
        "longest silence of an engine after that"),
    key("server.limits.write_stall", Duration, Value("60s"), Live,
        "longest time in which a client takes no byte of an answer that is ready"),
    key("server.limits.connections", Number, Value("16384"), Live,
        "most connections to one listener"),
    key("server.limits.values", Number, Value("1000000"), Live,
        "most JSON values in a body, however they are nested"),
    key("server.limits.messages", Number, Value("4096"), Live,
        "most messages of a request"),
    key("server.limits.images", Number, Value("64"), Live,
        "most images and other parts that are no text, over all messages"),
    key("server.limits.image_size", Size, Value("20MB"), Live,
        "largest of them, decoded"),
    key("server.limits.tools", Number, Value("1024"), Live,
        "most tools of a request"),
    key("server.limits.tool_calls", Number, Value("4096"), Live,
        "most earlier calls of tools, over all messages"),
    key("server.limits.inputs", Number, Value("2048"), Live,
        "most texts of a request for embeddings, and documents of one for ranking"),
    key("server.limits.stops", Number, Value("16"), Live,
        "most stop strings"),
    key("server.limits.choices", Number, Value("8"), Live,
        "most answers to one prompt, `n`"),
    key("server.limits.answers", Number, Value("64"), Live,
        "most answers of a request: prompts times `n`"),
    key("server.limits.address_rate", Any(&[Number, Word("unlimited")]), Value("100000"), Live,
        "most requests without a key from one address in a minute"),
    key("server.limits.wrong_keys", Number, Value("100"), Live,
        "most requests with a missing or wrong key from one address in a minute that are answered as such; a right key always passes"),
    key("keys_file", File, Words("`keys.json` in the state folder"), Restart,
        "hashes of the keys that open the ports"),
    key("audit", File, Words("`audit.jsonl` in the state folder"), Restart,
        "one line for each management action"),
    key("log", Filter, Value("info"), Live,
        "what is logged: a level, or `target=level` separated by commas"),
    key("request_log", Any(&[Word("true"), Word("false"), File]), Value("false"), Live,
        "one line for each request, without its content; `true` is `requests.jsonl` in the state folder"),
];

/// The names that may stand directly under a path; the top is `""`.
pub fn children(path: &str) -> Vec<&'static str> {
    let mut names: Vec<&str> = KEYS
        .iter()
        .filter_map(|key| match path {
            "" => Some(key.path),
            _ => key.path.strip_prefix(path)?.strip_prefix('.'),
        })
        .filter_map(|rest| rest.split('.').next())
        .collect();
    names.dedup();
    names
}

/// The full paths of the keys with this last part: where a misplaced key belongs.
pub fn elsewhere(name: &str) -> Vec<&'static str> {
    KEYS.iter()
        .map(|key| key.path)
        .filter(|path| path.rsplit('.').next() == Some(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_and_their_keys_are_found() {
        assert!(children("").starts_with(&["memory", "allow", "deny"]));
        assert_eq!(children("").iter().filter(|k| **k == "server").count(), 1);
        assert_eq!(children("models"), [NAME]);
        assert_eq!(children("pool").len(), 13);
        assert!(children("server").contains(&"limits"));
        assert_eq!(children("server.limits").len(), 22);
        assert_eq!(
            elsewhere("idle_unload"),
            ["models.NAME.idle_unload", "pool.idle_unload"]
        );
    }
}
