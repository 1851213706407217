//! The recipes of `docs/recipes`, each with the true program in front of a true
//! server (W-10, H-15): the name passes, streams are not collected, the caller's
//! address arrives. Debian's packages: nginx-light, caddy, haproxy, openssh-server.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::harness::{Answer, Home, PATIENCE, Server, question};

const NAME: &str = "ai.example.internal";

fn home(more: &str) -> Home {
    let home = Home::new(&format!("server: {{ {more} }}\nmodels: {{ t/a: {{}} }}\n"));
    home.scripted("t/a", json!({"tokens": 30, "token_ms": 100}));
    home
}

fn behind_a_proxy() -> Home {
    home(&format!(
        "allowed_hosts: [{NAME}], trusted_proxies: [127.0.0.1]"
    ))
}

/// The number after the last colon.
fn port(url: &str) -> &str {
    url.rsplit(':').next().expect("a port")
}

/// A port that nobody has just now.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

fn recipe(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs/recipes")
        .join(name);
    std::fs::read_to_string(path).expect("a recipe")
}

/// Replaces words of a recipe, which have to be there.
fn changed(recipe: &str, changes: &[(&str, &str)]) -> String {
    changes.iter().fold(recipe.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "the recipe has no {from:?}");
        text.replace(from, to)
    })
}

/// Starts a program, which is killed with the value, and waits until it listens.
async fn start(package: &str, port: u16, command: &mut Command) -> Child {
    command
        .kill_on_drop(true)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let program = command.as_std().get_program().to_owned();
    let mut child = command.spawn().unwrap_or_else(|error| {
        panic!("{program:?} cannot be started ({error}); install the package {package}")
    });
    let start = Instant::now();
    while tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .is_err()
    {
        let ended = child.try_wait().expect("waited");
        assert!(ended.is_none(), "{program:?} ended: {ended:?}");
        assert!(start.elapsed() < PATIENCE, "{program:?} does not listen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    child
}

/// A folder of its own for a program, and what it should listen on.
async fn nginx(folder: &Path, upstream: &str) -> (Child, String) {
    let listens = free_port();
    let server = changed(
        &recipe("nginx.conf"),
        &[
            ("listen 443 ssl;", &format!("listen 127.0.0.1:{listens};")),
            (
                "    ssl_certificate     /etc/ssl/ai.example.internal/cert.pem;      # 2\n",
                "",
            ),
            (
                "    ssl_certificate_key /etc/ssl/ai.example.internal/key.pem;\n",
                "",
            ),
            ("127.0.0.1:11440", &format!("127.0.0.1:{upstream}")),
        ],
    );
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {kind};\n"))
        .concat();
    let file = folder.join(format!("nginx-{listens}.conf"));
    let text = format!(
        "daemon off;\nmaster_process off;\npid nginx-{listens}.pid;\nerror_log stderr;\nevents {{}}\n\
         http {{\naccess_log off;\n{temporary}{server}}}\n"
    );
    std::fs::write(&file, text).expect("written");
    let mut command = Command::new("/usr/sbin/nginx");
    command
        .arg("-p")
        .arg(folder)
        .arg("-c")
        .arg(&file)
        .args(["-e", "stderr"]);
    let child = start("nginx-light", listens, &mut command).await;
    (child, format!("http://127.0.0.1:{listens}"))
}

async fn caddy(folder: &Path, upstream: &str) -> (Child, String) {
    let listens = free_port();
    let site = changed(
        &recipe("Caddyfile"),
        &[
            (
                "ai.example.internal {",
                &format!("http://:{listens} {{\n\tbind 127.0.0.1"),
            ),
            ("127.0.0.1:11440", &format!("127.0.0.1:{upstream}")),
        ],
    );
    let file = folder.join(format!("Caddyfile-{listens}"));
    std::fs::write(
        &file,
        format!("{{\n\tadmin off\n\tauto_https off\n}}\n{site}"),
    )
    .expect("written");
    let mut command = Command::new("caddy");
    command
        .args(["run", "--adapter", "caddyfile", "--config"])
        .arg(&file)
        .env("HOME", folder)
        .env("XDG_DATA_HOME", folder)
        .env("XDG_CONFIG_HOME", folder)
        .stderr(Stdio::null());
    let child = start("caddy", listens, &mut command).await;
    (child, format!("http://127.0.0.1:{listens}"))
}

async fn haproxy(folder: &Path, upstream: &str) -> (Child, String) {
    let listens = free_port();
    let text = changed(
        &recipe("haproxy.cfg"),
        &[
            (
                "bind :443 ssl crt /etc/ssl/ai.example.internal.pem",
                &format!("bind 127.0.0.1:{listens}"),
            ),
            ("127.0.0.1:11440", &format!("127.0.0.1:{upstream}")),
        ],
    );
    let file = folder.join(format!("haproxy-{listens}.cfg"));
    std::fs::write(&file, text).expect("written");
    let mut command = Command::new("/usr/sbin/haproxy");
    command.args(["-db", "-f"]).arg(&file).stderr(Stdio::null());
    let child = start("haproxy", listens, &mut command).await;
    (child, format!("http://127.0.0.1:{listens}"))
}

async fn read(request: RequestBuilder) -> Answer {
    Answer::read(request.timeout(PATIENCE).send().await.expect("an answer")).await
}

/// A stream comes piece by piece, not in one at its end.
async fn streams(request: impl Fn() -> RequestBuilder) {
    let ask = |nonce: &str| {
        request()
            .header("content-type", "application/json")
            .body(question("t/a", nonce, true).to_string())
    };
    read(ask("warm")).await;
    let start = Instant::now();
    let mut response = ask("n").send().await.expect("an answer");
    assert_eq!(response.status(), 200);
    let first = response.chunk().await.expect("bytes").expect("a piece");
    let first_after = start.elapsed();
    assert!(first.starts_with(b"data: "), "{first:?}");
    let rest = Answer::read(response).await;
    assert_eq!(rest.events().last().map(String::as_str), Some("[DONE]"));
    println!(
        "first piece after {first_after:?}, whole after {:?}",
        start.elapsed()
    );
    assert!(first_after < Duration::from_millis(200), "{first_after:?}");
    assert!(
        start.elapsed() > Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
}

/// What holds behind every proxy for inference.
async fn serves(url: &str) {
    let http = Client::new();
    let named = |host: &'static str| http.get(format!("{url}/v1/models")).header("host", host);
    let answer = read(named(NAME)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.header("x-request-id").is_some());
    for host in ["attacker.example", "localhost.evil.com"] {
        let answer = read(named(host)).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (403, "host_not_allowed"),
            "{host}"
        );
    }
    let chat = format!("{url}/v1/chat/completions");
    streams(|| http.post(&chat).header("host", NAME)).await;
}

/// The peers in the audit, oldest first.
fn peers(home: &Home) -> Vec<String> {
    let path = home.path().join(".local/state/roundhouse/audit.jsonl");
    let text = std::fs::read_to_string(path).expect("an audit");
    let peer = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        line["peer"].as_str().expect("a peer").to_owned()
    };
    text.lines().map(peer).collect()
}

/// What management writes down about a caller behind a proxy.
async fn tells_the_peer(home: &Home, url: &str) {
    let elsewhere = "127.0.0.2".parse().expect("an address");
    let http = Client::builder()
        .local_address(Some(elsewhere))
        .build()
        .expect("a client");
    let request = http
        .get(format!("{url}/admin/status"))
        .header("host", NAME)
        .header("x-forwarded-for", "203.0.113.9");
    let answer = read(request).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (401, "invalid_api_key")
    );
    assert_eq!(peers(home).last().map(String::as_str), Some("127.0.0.2"));
}

#[tokio::test]
async fn w10_nginx_by_its_recipe() {
    let home = behind_a_proxy();
    let server = home.serve();
    let (_nginx, url) = nginx(home.path(), port(&server.inference)).await;
    serves(&url).await;
    let (_nginx, url) = nginx(home.path(), port(&server.management)).await;
    tells_the_peer(&home, &url).await;
}

#[tokio::test]
async fn w10_caddy_by_its_recipe() {
    let home = behind_a_proxy();
    let server = home.serve();
    let (_caddy, url) = caddy(home.path(), port(&server.inference)).await;
    serves(&url).await;
    let (_caddy, url) = caddy(home.path(), port(&server.management)).await;
    tells_the_peer(&home, &url).await;
}

#[tokio::test]
async fn h15_haproxy_by_its_recipe() {
    let home = behind_a_proxy();
    let server = home.serve();
    let (_haproxy, url) = haproxy(home.path(), port(&server.inference)).await;
    serves(&url).await;
    let (_haproxy, url) = haproxy(home.path(), port(&server.management)).await;
    tells_the_peer(&home, &url).await;
}

/// A key pair in this folder.
fn ssh_key(folder: &Path, name: &str) {
    let made = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(folder.join(name))
        .status();
    let made = made.unwrap_or_else(|error| {
        panic!("ssh-keygen cannot be started ({error}); install openssh-client")
    });
    assert!(made.success());
}

/// The login server of the other machine, for its owner alone.
async fn sshd(folder: &Path) -> (Child, u16) {
    let listens = free_port();
    ssh_key(folder, "host");
    ssh_key(folder, "mine");
    std::fs::copy(folder.join("mine.pub"), folder.join("authorized")).expect("copied");
    let at = folder.display();
    let text = format!(
        "Port {listens}\nListenAddress 127.0.0.1\nHostKey {at}/host\nAuthorizedKeysFile {at}/authorized\n\
         PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n\
         KbdInteractiveAuthentication no\n"
    );
    std::fs::write(folder.join("sshd.conf"), text).expect("written");
    let mut command = Command::new("/usr/sbin/sshd");
    command
        .args(["-D", "-e", "-f"])
        .arg(folder.join("sshd.conf"));
    (
        start("openssh-server", listens, &mut command).await,
        listens,
    )
}

/// The first `ssh -N -L` line of the recipe that names this target, with our addresses.
async fn tunnel(folder: &Path, sshd: u16, target: &str, ours: &str) -> (Child, String) {
    let recipe = recipe("ssh-tunnel.md");
    let wanted = format!("ssh -N -L 127.0.0.1:11440:{target} you@gpu-box");
    assert!(
        recipe.lines().any(|line| line == wanted),
        "the recipe has no {wanted:?}"
    );
    let listens = free_port();
    let user = std::process::Command::new("id")
        .arg("-un")
        .output()
        .expect("a user")
        .stdout;
    let user = String::from_utf8(user).expect("a name");
    let mut command = Command::new("ssh");
    command
        .args(["-N", "-L", &format!("127.0.0.1:{listens}:{ours}")])
        .args(["-p", &sshd.to_string(), "-F", "none", "-o", "BatchMode=yes"])
        .args([
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
        ])
        .args(["-o", "LogLevel=ERROR", "-o", "IdentitiesOnly=yes", "-i"])
        .arg(folder.join("mine"))
        .arg(format!("{}@127.0.0.1", user.trim()));
    let child = start("openssh-client", listens, &mut command).await;
    (child, format!("http://127.0.0.1:{listens}"))
}

async fn through_a_tunnel(url: &str) {
    let http = Client::new();
    assert_eq!(read(http.get(format!("{url}/v1/models"))).await.status, 200);
    let chat = format!("{url}/v1/chat/completions");
    streams(|| http.post(&chat)).await;
}

#[tokio::test]
async fn w10_an_ssh_tunnel_by_its_recipe() {
    let home = home("");
    let server: Server = home.serve();
    let (_sshd, login) = sshd(home.path()).await;
    let ours = format!("127.0.0.1:{}", port(&server.inference));
    let (_ssh, url) = tunnel(home.path(), login, "127.0.0.1:11440", &ours).await;
    through_a_tunnel(&url).await;
}

#[tokio::test]
async fn w10_an_ssh_tunnel_to_a_unix_socket_by_its_recipe() {
    let home = home("");
    let socket = home.path().join("inference.sock").display().to_string();
    let listen = format!("unix:{socket}");
    let args = ["--management", "127.0.0.1:0", "--listen", &listen];
    let _server = home.serve_as(&args, &[]);
    let (_sshd, login) = sshd(home.path()).await;
    let (_ssh, url) = tunnel(
        home.path(),
        login,
        "/run/roundhouse/inference.sock",
        &socket,
    )
    .await;
    through_a_tunnel(&url).await;
}
