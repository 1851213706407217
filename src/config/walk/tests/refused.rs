//! What is refused, where, and in which words.

use super::read;
use crate::config::walk::MOST_PROBLEMS;

/// The problems of a text, one line each: `line:column message | help`, the help
/// where the case is about it (the gallery has all of them).
pub(super) fn check(text: &str, expected: &[&str]) {
    let found = match read(text) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.list,
    };
    let found: Vec<String> = found
        .into_iter()
        .enumerate()
        .map(|(index, problem)| {
            let place = problem
                .place
                .map(|at| format!("{}:{} ", at.line, at.column));
            let is_asked = expected.get(index).is_some_and(|line| line.contains(" | "));
            let help = problem.help.filter(|_| is_asked);
            let help = help.map(|help| format!(" | {help}"));
            let (place, help) = (place.unwrap_or_default(), help.unwrap_or_default());
            format!("{place}{}{help}", problem.message)
        })
        .collect();
    assert_eq!(found, expected, "{text}");
}

#[test]
fn c03_every_problem_is_told_at_once() {
    check(
        "memroy: 1GB\nserver: {listn: x}\nidle_unload: 3m\nreplicas: {}\n",
        &[
            r#"1:1 unknown key "memroy" | did you mean "memory""#,
            r#"2:10 unknown key "listn" in server | did you mean "listen""#,
            r#"2:17 server.listen: expected an address such as 127.0.0.1:11440, [::1]:11440 or unix:PATH, found "x""#,
            r#"3:1 unknown key "idle_unload" | it belongs at models.NAME.idle_unload or pool.idle_unload"#,
            r#"4:1 unknown key "replicas" | expected one of memory, allow, deny, default, cache, models, engines, upstreams, pool, server, keys_file, audit, log, request_log"#,
        ],
    );
    check(
        "memory: 48\nmemory: 0B\npool: 3\n",
        &[
            r#"1:9 memory: expected a size such as 48GB, a percentage or auto, found "48" without a unit"#,
            r#"2:1 "memory" is there twice: at line 1 and at line 2 | keep one of them"#,
            r#"2:9 memory: expected more than nothing, found "0B""#,
            r#"3:7 pool: expected keys with values, found "3" | its keys are max_models, idle_unload, switch_after, min_residency, queue, queue_per_caller, queue_timeout, contention, autoload, prefetch, lease_ceiling, prompts_on_disk, prompts_on_disk_per_model"#,
        ],
    );
}

#[test]
fn sizes_durations_and_numbers_are_exact() {
    check(
        "memory: 0B",
        &[r#"1:9 memory: expected more than nothing, found "0B""#],
    );
    check(
        "memory: 140%",
        &[r#"1:9 memory: expected a percentage above 0% and up to 100%, found "140%""#],
    );
    check(
        "memory: 0%",
        &[r#"1:9 memory: expected a percentage above 0% and up to 100%, found "0%""#],
    );
    check(
        "memory: 40 %",
        &[r#"1:9 memory: expected a size such as 48GB, a percentage or auto, found "40 %""#],
    );
    check(
        "memory: yes",
        &[r#"1:9 memory: expected a size such as 48GB, a percentage or auto, found "yes""#],
    );
    check(
        "memory:",
        &["1:1 memory: expected a size such as 48GB, a percentage or auto, found nothing"],
    );
    check(
        "memory: [1GB]",
        &["1:9 memory: expected a size such as 48GB, a percentage or auto, found a list"],
    );
    check(
        "memory: -1GB",
        &[r#"1:9 memory: expected a size such as 48GB, a percentage or auto, found "-1GB""#],
    );
    check(
        "memory: 1e3GB",
        &[r#"1:9 memory: expected a size such as 48GB, a percentage or auto, found "1e3GB""#],
    );
    check(
        "memory: 99999999999TB",
        &[
            r#"1:9 memory: expected a size such as 48GB, a percentage or auto, found "99999999999TB", which is too large"#,
        ],
    );
    check(
        "pool:\n  idle_unload: 10\n  queue: 1.5\n  queue_timeout: never\n  switch_after: 5 years\n  max_models: many\n",
        &[
            r#"2:16 pool.idle_unload: expected a duration such as 15m, or never, found "10" without a unit"#,
            r#"3:10 pool.queue: expected a whole number from 1 to 1000000, found "1.5""#,
            r#"4:18 pool.queue_timeout: expected a duration such as 90s, found "never""#,
            r#"5:17 pool.switch_after: expected a duration such as 90s, found "5 years""#,
            r#"6:15 pool.max_models: expected a whole number or unlimited, found "many""#,
        ],
    );
    check(
        "pool: {queue: 0, queue_timeout: 0s, max_models: 0, switch_after: 99999d}",
        &[
            r#"1:15 pool.queue: expected a whole number from 1 to 1000000, found "0""#,
            r#"1:33 pool.queue_timeout: expected more than nothing, found "0s""#,
            r#"1:49 pool.max_models: expected a whole number from 1 to 1000000, found "0""#,
            r#"1:66 pool.switch_after: expected at most 3650d, found "99999d""#,
        ],
    );
    check(
        "pool: {queue: 0x10}\n",
        &[r#"1:15 pool.queue: expected a whole number from 1 to 1000000, found "0x10""#],
    );
    check(
        "pool: {queue: 08080}",
        &[r#"1:15 pool.queue: expected a whole number from 1 to 1000000, found "08080""#],
    );
    check(
        "pool: {queue: 1e3}",
        &[r#"1:15 pool.queue: expected a whole number from 1 to 1000000, found "1e3""#],
    );
    check(
        "pool: {queue: ~}",
        &["1:15 pool.queue: expected a whole number from 1 to 1000000, found nothing"],
    );
}

#[test]
fn a_draft_is_another_model_of_the_embedded_engine() {
    check(
        "deny: ['b/*']\nmodels:\n  a/m: {draft: prompt}\n  x: {repo: a/m, draft: y}\n  y: {repo: a/n, draft: gone}\n  z: {repo: a/m, draft: a/m}\n  w: {repo: a/m, draft: b/no}\n  v: {repo: a/m, draft: [x]}\n",
        &[
            "5:25 models.y.draft: \"gone\" is no entry, no alias and no repository id",
            "6:25 models.z.draft: \"a/m\" is the model itself | name a smaller model with the same tokenizer, or write prompt",
            "7:25 models.w.draft: \"b/no\" is matched by deny",
            "8:25 models.v.draft: expected a name, found a list",
        ],
    );
}

#[test]
fn names_lead_to_one_model_each() {
    check(
        "models:\n  coder:\n  a/b: {repo: c/d, path: ~/x}\n  a/b: {}\n  'no': {repo: x}\n  ../x: {}\n",
        &[
            "2:3 models.coder: the name is no repository id and there is no repo or path | add repo: org/name or path: FOLDER",
            "3:20 models.a/b: expected repo or path, found both | remove one of them",
            r#"4:3 "models.a/b" is there twice: at line 3 and at line 4 | keep one of them"#,
            r#"5:16 models.no.repo: expected a repository id of the form org/repo, found "x""#,
            r#"6:3 models."../x": a model name cannot have an empty part or one that begins with a dot"#,
        ],
    );
    check(
        "models:\n  a/b:\n    keep: maybe\n    preload: yes\n    idle_unlod: 3m\n    context: 8k\n    compute: fp16\n    kv: 40\n    aliases: small\n",
        &[
            r#"3:11 models.a/b.keep: expected always, found "maybe""#,
            r#"4:14 models.a/b.preload: expected true or false, found "yes""#,
            r#"5:5 unknown key "idle_unlod" in models.a/b | did you mean "idle_unload""#,
            r#"6:14 models.a/b.context: expected a whole number from 1 to 100000000, found "8k""#,
            r#"7:14 models.a/b.compute: expected auto, float32, float16 or bfloat16, found "fp16""#,
            r#"8:9 models.a/b.kv: expected a size such as 512MB or a percentage, found "40" without a unit"#,
            r#"9:14 models.a/b.aliases: expected a list of names, found "small" | write ["small"]"#,
        ],
    );
    check(
        "models:\n  a/b: {aliases: [x, a/c, x, a/b]}\n  a/c: {aliases: [x, 'bad *', 3]}\n",
        &[
            r#"2:22 models.a/b.aliases: "a/c" is already an entry: at line 3 and at line 2 | a name leads to one model only"#,
            r#"2:27 models.a/b.aliases: "x" is already an alias: at columns 19 and 27 of line 2 | a name leads to one model only"#,
            r#"2:30 models.a/b.aliases: "a/b" is already an entry: at columns 3 and 30 of line 2 | a name leads to one model only"#,
            r#"3:19 models.a/c.aliases: "x" is already an alias: at line 2 and at line 3 | a name leads to one model only"#,
            r#"3:22 models.a/c.aliases[1]: expected a pattern of letters, digits and . _ : / - *, found "bad *""#,
        ],
    );
    check(
        "models:\n  a/b: {aliases: ['x*', 'gpt-4*', 'claude-*-4']}\n  a/c: {aliases: ['x*', 'gpt-*o', 'claude-opus-*', 'gpt-5*', '*/*o']}\n",
        &[
            r#"3:19 models.a/c.aliases: "x*" is already an alias: at line 2 and at line 3 | a name leads to one model only"#,
            r#"3:25 models.a/c.aliases: "gpt-4*" and "gpt-*o" say equally much of a name that both match: at line 2 and at line 3 | make one of them longer, or write such names as aliases of their own"#,
            r#"3:52 models.a/c.aliases: "gpt-*o" and "gpt-5*" say equally much of a name that both match: at columns 25 and 52 of line 3 | make one of them longer, or write such names as aliases of their own"#,
        ],
    );
    check(
        "models:\n  a/b: {keep: always, idle_unload: 3m}\n  x: {path: m, revision: v1}\n  c/d: {revision: ../../x}\n",
        &[
            "2:23 models.a/b: keep: always is never unloaded, found idle_unload as well | remove one of them",
            "3:16 models.x: a folder has no revisions, found path and revision | remove one of them",
            r#"4:19 models.c/d.revision: expected a branch, tag or commit of letters, digits and . _ / -, found "../../x""#,
        ],
    );
    check(
        "allow: [a/*, '*', a/b/c, 'x y/*', no, ~, 3]\n",
        &[
            r#"1:14 allow[1]: expected a pattern with one /, such as mlx-community/*, found "*"; * never stands for /"#,
            r#"1:19 allow[2]: expected a pattern with one /, such as mlx-community/*, found "a/b/c"; * never stands for /"#,
            r#"1:26 allow[3]: expected a pattern of letters, digits and . _ : / - *, found "x y/*""#,
            r#"1:35 allow[4]: expected a pattern with one /, such as mlx-community/*, found "no"; * never stands for /"#,
            "1:39 allow[5]: expected a pattern, found nothing",
            r#"1:42 allow[6]: expected a pattern with one /, such as mlx-community/*, found "3"; * never stands for /"#,
        ],
    );
    check(
        "allow: mlx-community/*\n",
        &[
            r#"1:8 allow: expected a list of patterns, found "mlx-community/*" | write ["mlx-community/*"]"#,
        ],
    );
    check(
        "deny: [mlx-community/*-bf16]\nmodels: {mlx-community/x-bf16: {}, y: {repo: mlx-community/z-bf16}}\n",
        &[
            r#"2:10 models.mlx-community/x-bf16: matched by deny: "mlx-community/*-bf16" | remove the entry or the pattern"#,
            r#"2:36 models.y: matched by deny: "mlx-community/*-bf16" | remove the entry or the pattern"#,
        ],
    );
    check(
        "default: codr\nmodels: {a/b: {aliases: [coder]}}\n",
        &[
            r#"1:10 default: "codr" is no entry, no alias and no id that allow permits | did you mean "coder""#,
        ],
    );
    check("allow: [a/b", &["1:8 not valid YAML: this [ is not closed"]);
}

#[test]
fn addresses_hosts_and_paths_are_checked() {
    check(
        "server:\n  listen: 11440\n  management: [127.0.0.1:1, localhost:3, 'unix:']\n  allowed_hosts: ['*', 'a:80', http://x]\n  allowed_origins: ['*', x.y, 'https://a/b', 'null']\n  drain: -1s\n  heartbeat_every: 0s\n  limits: {body: 0B, connections: no, nope: 1}\n",
        &[
            r#"2:11 server.listen: expected an address such as 127.0.0.1:11440, [::1]:11440 or unix:PATH, found "11440""#,
            r#"3:29 server.management[1]: expected an address such as 127.0.0.1:11440, [::1]:11440 or unix:PATH, found "localhost:3""#,
            r#"3:42 server.management[2]: expected an address such as 127.0.0.1:11440, [::1]:11440 or unix:PATH, found "unix:""#,
            r#"4:19 server.allowed_hosts[0]: expected a host without a port, such as ai.example.internal, found "*""#,
            r#"4:24 server.allowed_hosts[1]: expected a host without a port, such as ai.example.internal, found "a:80""#,
            r#"4:32 server.allowed_hosts[2]: expected a host without a port, such as ai.example.internal, found "http://x""#,
            r#"5:21 server.allowed_origins[0]: expected an origin such as https://chat.example.com, found "*""#,
            r#"5:26 server.allowed_origins[1]: expected an origin such as https://chat.example.com, found "x.y""#,
            r#"5:31 server.allowed_origins[2]: expected an origin such as https://chat.example.com, found "https://a/b""#,
            r#"5:46 server.allowed_origins[3]: expected an origin such as https://chat.example.com, found "null""#,
            r#"6:10 server.drain: expected a duration such as 90s, found "-1s""#,
            r#"7:20 server.heartbeat_every: expected more than nothing, found "0s""#,
            r#"8:18 server.limits.body: expected more than nothing, found "0B""#,
            r#"8:35 server.limits.connections: expected a whole number from 1 to 1000000, found "no""#,
            &format!(
                r#"8:39 unknown key "nope" in server.limits | expected one of {}"#,
                crate::config::keys::children("server.limits").join(", ")
            ),
        ],
    );
    check(
        "server: {trusted_proxies: ['*', 10.0.0.0/33], socket_mode: 660, tls: {cert: a.pem}}",
        &[
            r#"1:28 server.trusted_proxies[0]: expected an address such as 10.0.0.1 or a network such as 10.0.0.0/8, found "*""#,
            r#"1:33 server.trusted_proxies[1]: expected an address such as 10.0.0.1 or a network such as 10.0.0.0/8, found "10.0.0.0/33""#,
            r#"1:60 server.socket_mode: expected a mode such as 0600 or 0660, found "660""#,
            "1:70 server.tls: expected cert and key, found no key",
        ],
    );
    check(
        "server: {listen: '127.0.0.1:80', management: '127.0.0.1:80'}",
        &[
            r#"1:46 server.management: expected different addresses, found "127.0.0.1:80" twice: at columns 18 and 46 of line 1"#,
        ],
    );
    check(
        "server: {listen: []}",
        &["1:18 server.listen: expected at least one address, found an empty list"],
    );
    check(
        "cache: []",
        &["1:8 cache: expected at least one folder, found an empty list"],
    );
    check(
        "cache: ['~bob/x', '']",
        &[
            r#"1:9 cache[0]: expected a path that begins with /, ~/ or a name, found "~bob/x""#,
            r#"1:19 cache[1]: expected a path, found """#,
        ],
    );
    check(
        "keys_file: ~",
        &["1:12 keys_file: expected a path, found nothing"],
    );
    check(
        "log: 'a=b=c'",
        &[r#"1:6 log: expected a level such as info, or target=level, found "a=b=c""#],
    );
    check(
        "log: [x]",
        &["1:6 log: expected a level such as info, or target=level, found a list"],
    );
}

#[test]
fn a_file_is_keys_with_values() {
    check("- a", &["1:1 expected keys with values, found a list"]);
    check(
        "hello",
        &[r#"1:1 expected keys with values, found "hello""#],
    );
    check(
        "[]",
        &["1:1 expected keys with values, found an empty list"],
    );
    check("3", &[r#"1:1 expected keys with values, found "3""#]);
    check(
        "a: b: c",
        &[
            r#"1:5 not valid YAML: a value cannot have ": " in it without quotes | put quotes around the value"#,
        ],
    );
}

#[test]
fn c04_c07_text_that_is_more_than_plain_yaml_is_refused() {
    check(
        "a: b\n---\nc: d",
        &[
            r#"1:1 unknown key "a" | expected one of memory, allow, deny, default, cache, models, engines, upstreams, pool, server, keys_file, audit, log, request_log"#,
            "2:1 expected one document, found a second one",
        ],
    );
    check(
        "&x a: b\n<<: *x\n",
        &[
            "1:1 anchors are not supported; expected the value alone",
            r#"1:1 unknown key "a" | expected one of memory, allow, deny, default, cache, models, engines, upstreams, pool, server, keys_file, audit, log, request_log"#,
            "2:1 merge keys are not supported; expected the keys themselves",
            "2:5 aliases are not supported; expected the value itself",
        ],
    );
    check("\tmemory: 1GB", &[]);
    check(
        "memory:\u{a0}1GB",
        &[r#"1:1 expected keys with values, found "memory:\u{a0}1GB""#],
    );
    check(
        "\u{a0}\u{a0}memory: 1GB\nallow: []",
        &[
            r#"1:1 unknown key "\u{a0}\u{a0}memory" | there is a blank in it that is no plain one, such as a non-breaking blank; write plain ones"#,
        ],
    );
    check(
        "memory: 1GB\u{0}x",
        &[r#"1:12 expected text, found the control character '\0'"#],
    );
    check(
        "memory: 1GB\rpool: x",
        &[r#"1:12 expected text, found the control character '\r'"#],
    );
    check(
        "a: !!str b",
        &[
            r#"1:1 unknown key "a" | expected one of memory, allow, deny, default, cache, models, engines, upstreams, pool, server, keys_file, audit, log, request_log"#,
            r#"1:4 tags are not supported; expected the value alone, found "!!str""#,
        ],
    );
    check(
        "? [a]\n: b\n",
        &["1:3 expected a key, found a list, a mapping or an alias"],
    );
    check(
        "\u{feff}memroy: 1GB\r\npool: 3\r\n",
        &[
            r#"1:1 unknown key "memroy" | did you mean "memory""#,
            r#"2:7 pool: expected keys with values, found "3""#,
        ],
    );
}

#[test]
fn a_long_list_of_problems_ends_with_a_number() {
    let text: String = (0..150).map(|n| format!("key{n}: 1\n")).collect();
    let problems = read(&text).expect_err("unknown keys");
    assert_eq!(problems.list.len(), MOST_PROBLEMS + 1);
    assert!(problems.to_string().contains("and 50 more problems"));
}

#[test]
fn engines_that_could_not_be_started_are_refused() {
    check(
        "engines:\n  a: { command: [x, \"{prot}\", \"{port}\"] }\n  b: { command: [x] }\n  c: { command: [x, \"{port}\", \"{socket}\"] }\n\
         \x20 d: {}\n  mlx: { command: [x, \"{port}\"] }\n  e: { command: [] }\n  f: { command: x }\n",
        &[
            r#"2:21 engines.a.command[1]: {prot} stands for nothing here; known are {port}, {socket}, {path}, {file}, {model} | did you mean {port}"#,
            r#"3:3 engines.b: expected {port} or {socket} in the command, found neither"#,
            r#"4:3 engines.c: expected {port} or {socket} in the command, found both"#,
            r#"5:3 engines.d: expected command, found none"#,
            r#"6:3 engines."mlx": an engine of this name comes with the program"#,
            r#"7:17 engines.e.command: expected a list of a program and its arguments, found an empty list"#,
            r#"8:17 engines.f.command: expected a list of a program and its arguments, found "x""#,
        ],
    );
    check(
        "engines:\n  a: { command: [x, \"{port}\"], kinds: [chat, embedding], stop: TERM, ready: /a b, env: { a-b: c }, model: \"{port}\" }\n",
        &[
            r#"2:46 engines.a.kinds[1]: expected chat, completions, embeddings, rerank or audio, found "embedding" | did you mean "embeddings""#,
            r#"2:64 engines.a.stop: expected SIGTERM, SIGINT, SIGQUIT, SIGHUP or SIGKILL, found "TERM""#,
            r#"2:77 engines.a.ready: expected a path such as /health, or part of a line, found "/a b""#,
            r#"2:90 engines.a.env: expected a variable of letters, digits and _, found "a-b""#,
        ],
    );
}

#[test]
fn upstreams_that_lead_nowhere_or_say_a_secret_are_refused() {
    check(
        "upstreams:\n  a: {}\n  b: { url: \"http://api.example.com/v1\", models: [] }\n  c: { url: \"https://169.254.169.254/v1\", models: x }\n\
         \x20 d: { url: \"http://localhost:11440/v1\", models: [d], key_env: sk-canary-123 }\n\
         \x20 e: { url: \"https://me:canary@a.example/v1\", models: [{ as: x }, { name: e, sa: x }], key_env: A, key_file: b }\n\
         \x20 f: { url: \"https://a.example/v1\", models: [f], api_key: canary, kinds: [talk] }\n",
        &[
            r#"2:3 upstreams.a: expected url, found none"#,
            r#"2:3 upstreams.a: expected models, found none"#,
            r#"3:13 upstreams.b.url: expected https: without it, keys and prompts would cross the network in clear text, found "http://api.example.com/v1""#,
            r#"3:50 upstreams.b.models: expected at least one name, found an empty list"#,
            r#"4:13 upstreams.c.url: expected the address of a service, found a link-local one"#,
            r#"4:51 upstreams.c.models: expected a list of names, found "x""#,
            r#"5:13 upstreams.d.url: http://localhost:11440/v1 is server.listen of this server itself"#,
            r#"5:64 upstreams.d.key_env: expected the name of a variable, of letters, digits and _"#,
            r#"6:13 upstreams.e.url: expected a URL without a user; a key stands in key_env or key_file"#,
            r#"6:56 upstreams.e.models[0]: expected name, found none"#,
            r#"6:78 unknown key "sa" in upstreams.e.models[1]"#,
            r#"6:100 upstreams.e: expected key_env or key_file, found both"#,
            r#"7:50 unknown key "api_key" in upstreams.f"#,
            r#"7:75 upstreams.f.kinds[0]: expected chat, completions, embeddings, rerank or audio, found "talk""#,
        ],
    );
}

#[test]
fn a_name_is_an_entrys_or_one_upstreams() {
    check(
        "models: { t/a: { aliases: [small, 'gpt-*'], fallback: small }, t/b: { fallback: big, spill_after: 0s }, t/c: { fallback: bgi }, t/d: { fallback: far-x }, t/e: { spill_after: 2s } }\n\
         upstreams:\n  a: { url: \"https://a.example/v1\", models: [small, t/b, 'gpt-*', big, 'far-*'] }\n\
         \x20 b: { url: \"https://b.example/v1\", models: [big, '*-far', denied/x] }\n  c: { url: \"https://c.example/v1\", models: [twice, twice], weight: 0, priority: -1, roundhouse: maybe }\ndeny: ['denied/*']\n",
        &[
            r#"1:122 models.t/c.fallback: expected a name of an upstream, found "bgi", which no upstream has"#,
            r#"1:162 models.t/e.spill_after: expected fallback beside it"#,
            r#"3:46 upstreams.a.models: "small" is already an alias: at line 1 and at line 3"#,
            r#"3:53 upstreams.a.models: "t/b" is already an entry: at line 1 and at line 3"#,
            r#"3:58 upstreams.a.models: "gpt-*" is already an alias: at line 1 and at line 3"#,
            r#"4:51 upstreams.b.models: "gpt-*" and "*-far" say equally much of a name that both match: at line 1 and at line 4"#,
            r#"4:51 upstreams.b.models: "far-*" and "*-far" say equally much of a name that both match: at line 3 and at line 4"#,
            r#"4:60 upstreams.b.models: "denied/x" is matched by deny: "denied/*""#,
            r#"5:53 upstreams.c.models: "twice" is already an alias: at columns 46 and 53 of line 5"#,
            r#"5:69 upstreams.c.weight: expected a whole number from 1 to 1000, found "0""#,
            r#"5:82 upstreams.c.priority: expected a whole number from 0 to 100, found "-1""#,
            r#"5:98 upstreams.c.roundhouse: expected true or false, found "maybe""#,
        ],
    );
}

#[test]
fn entries_say_only_what_their_engine_has_a_use_for() {
    check(
        "engines: { a: { command: [x, \"{port}\"] }, f: { command: [x, \"{port}\", \"{file}\"] } }\nmodels:\n  m/1: { engine: aa }\n  m/2: { engine: a, compute: float32, file: x }\n\
         \x20 m/3: { file: x }\n  m/4: { engine: f, file: ../x }\n  m/5: { engine: a, warmup: true }\n",
        &[
            r#"3:18 models.m/1.engine: engines has no "aa" | did you mean "a""#,
            r#"4:21 models.m/2: compute is for the embedded engine"#,
            r#"4:39 models.m/2: engines.a takes no {file}"#,
            r#"5:10 models.m/3: file is for engines that take {file}, and this entry has none"#,
            r#"6:27 models.m/4.file: expected a file of the snapshot, as a path inside of it, found "../x""#,
            r#"7:21 models.m/5: warmup is for the embedded engine"#,
        ],
    );
}

#[test]
fn e181_an_adapter_has_a_base_and_nothing_of_its_loads() {
    check(
        "models: {a/b: {}, x: {base: a/b}, y: {adapter: a/c}}",
        &[
            "1:19 models.x: expected base and adapter, found one of the two | base names an entry or a repository, adapter what stands beside it",
            "1:35 models.y: expected base and adapter, found one of the two",
        ],
    );
    check(
        "models:\n  small: {repo: a/b}\n  x: {base: smal, adapter: a/c}\n  y: {base: z, adapter: a/c}\n  z: {base: small, adapter: a/c}",
        &[
            r#"3:7 models.x: its base smal is no entry | did you mean "small""#,
            "4:7 models.y: its base z is no entry",
        ],
    );
    check(
        "models:\n  a/b: {}\n  y: {base: a/b, adapter: a/c}\n  z: {base: y, adapter: a/c, context: 10, kv: 1GB}",
        &[
            "4:7 models.z: its base y has a base of its own | one adapter stands beside a model; name the model itself",
            "4:30 models.z: context is that of its base y | write it at models.y, or remove it",
            "4:43 models.z: kv is that of its base y",
        ],
    );
    check(
        "models: {x: {base: a/b, adapter: ../up, revision: v1}, y: {base: a/b, adapter: up}, z: {base: a/b, adapter: a/c, repo: a/d}}",
        &[
            "1:41 models.x: a folder has no revisions, found revision and a folder as adapter",
            r#"1:80 models.y.adapter: expected a repository id of the form org/repo, found "up""#,
            "1:114 models.z: repo is that of its base a/b",
        ],
    );
    check(
        "engines: {e: {command: [e, '{port}']}}\nmodels:\n  a/b: {engine: e}\n  x: {base: a/b, adapter: a/c}",
        &[
            "4:18 models.x: adapters are for the embedded engine, and a/b has engine e | another engine is given its adapters in its command",
        ],
    );
    check(
        "deny: ['a/*']\nmodels:\n  x: {base: b/b, adapter: a/c}",
        &[r#"3:3 models.x: matched by deny: "a/*""#],
    );
}
