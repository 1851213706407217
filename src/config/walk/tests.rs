use super::*;
fn around() -> Surroundings {
    Surroundings {
        folder: "/etc/roundhouse".into(),
        home: Some("/home/ada".into()),
        hub_cache: "/home/ada/.cache/huggingface/hub".into(),
        state: "/home/ada/.local/state/roundhouse".into(),
    }
}
#[test]
fn probe() {
    for text in [
        "memroy: 1GB\nserver: {listn: x}\nidle_unload: 3m\nengines: {}\n",
        "memory: 48\nmemory: 0B\npool: 3\n",
        "memory: 0B",
        "memory: 140%",
        "memory: 0%",
        "memory: 40 %",
        "memory: yes",
        "memory:",
        "memory: [1GB]",
        "memory: -1GB",
        "memory: 1e3GB",
        "memory: 99999999999TB",
        "pool:\n  idle_unload: 10\n  queue: 1.5\n  queue_timeout: never\n  switch_after: 5 years\n  max_models: many\n",
        "pool: {queue: 0, queue_timeout: 0s, max_models: 0, switch_after: 99999d}",
        "pool: {queue: 0x10}\n",
        "pool: {queue: 08080}",
        "pool: {queue: 1e3}",
        "pool: {queue: ~}",
        "models:\n  coder:\n  a/b: {repo: c/d, path: ~/x}\n  a/b: {}\n  'no': {repo: x}\n  ../x: {}\n",
        "models:\n  a/b:\n    keep: maybe\n    preload: yes\n    idle_unlod: 3m\n    context: 8k\n    compute: fp16\n    kv: 40\n    aliases: small\n",
        "models:\n  a/b: {aliases: [x, a/c, x, a/b]}\n  a/c: {aliases: [x, 'bad*', 3]}\n",
        "models:\n  a/b: {keep: always, idle_unload: 3m}\n  x: {path: m, revision: v1}\n  c/d: {revision: ../../x}\n",
        "allow: [a/*, '*', a/b/c, 'x y/*', no, ~, 3]\n",
        "allow: mlx-community/*\n",
        "deny: [mlx-community/*-bf16]\nmodels: {mlx-community/x-bf16: {}, y: {repo: mlx-community/z-bf16}}\n",
        "default: codr\nmodels: {a/b: {aliases: [coder]}}\n",
        "server:\n  listen: 11440\n  management: [127.0.0.1:1, localhost:3, 'unix:']\n  allowed_hosts: ['*', 'a:80', http://x]\n  allowed_origins: ['*', x.y, 'https://a/b', 'null']\n  drain: -1s\n  heartbeat_every: 0s\n  limits: {body: 0B, connections: no, nope: 1}\n",
        "server: {listen: '127.0.0.1:80', management: '127.0.0.1:80'}",
        "server: {listen: []}",
        "cache: []",
        "cache: ['~bob/x', '']",
        "keys_file: ~",
        "log: 'a=b=c'",
        "log: [x]",
        "- a",
        "hello",
        "[]",
        "3",
        "a: b: c",
        "allow: [a/b",
        "a: b\n---\nc: d",
        "&x a: b\n<<: *x\n",
        "\tmemory: 1GB",
        "memory:\u{a0}1GB",
        "\u{a0}\u{a0}memory: 1GB\nallow: []",
        "memory: 1GB\u{0}x",
        "memory: 1GB\rpool: x",
        "a: !!str b",
        "? [a]\n: b\n",
        "\u{feff}memroy: 1GB\r\npool: 3\r\n",
    ] {
        print!("        check({text:?}, &[");
        if let Err(e) = config(text, None, &around()) {
            for p in e.list {
                let w = p
                    .place
                    .map(|p| format!("{}:{} ", p.line, p.column))
                    .unwrap_or_default();
                let h = p.help.map(|h| format!(" | {h}")).unwrap_or_default();
                print!("{:?}, ", format!("{w}{}{h}", p.message));
            }
        }
        println!("]);");
    }
}
