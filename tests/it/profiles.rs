//! The profiles of `docs/profiles` (D-08): each starts as it is shipped and is then
//! attacked: without and with wrong keys, under foreign names, by foreign pages,
//! with what is too large and with what is too slow.

use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::{Client, Method};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::harness::{Answer, Home, PATIENCE, Server, question};

/// A model that every profile allows.
const MODEL: &str = "mlx-community/scripted";

/// How much later than its time a slow head may be cut off.
const SLACK: Duration = Duration::from_secs(5);

struct Profile {
    name: &'static str,
    /// The address that it listens on, with a free port.
    listen: &'static str,
    /// Whether inference asks for a key.
    keyed: bool,
    /// A Host that it accepts beside its own.
    host: Option<&'static str>,
    /// An Origin that it accepts.
    origin: Option<&'static str>,
    /// Its `server.limits`.
    body: usize,
    header_time: Duration,
}

const PERSONAL: Profile = Profile {
    name: "personal",
    listen: "127.0.0.1:0",
    keyed: false,
    host: None,
    origin: None,
    body: 32_000_000,
    header_time: Duration::from_secs(10),
};

const TEAM: Profile = Profile {
    name: "team",
    listen: "0.0.0.0:0",
    keyed: true,
    host: Some("models.example.internal"),
    origin: None,
    body: 8_000_000,
    header_time: Duration::from_secs(5),
};

const BEHIND_PROXY: Profile = Profile {
    name: "behind-proxy",
    listen: "127.0.0.1:0",
    keyed: true,
    host: Some("ai.example.com"),
    origin: Some("https://chat.example.com"),
    body: 8_000_000,
    header_time: Duration::from_secs(5),
};

/// A server of a profile, and the keys to it.
struct Target {
    _home: Home,
    server: Server,
    inference: String,
    key: String,
    management_key: String,
}

impl Profile {
    fn text(&self) -> String {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let file = root.join(format!("docs/profiles/{}.yaml", self.name));
        std::fs::read_to_string(file).expect("a profile")
    }

    fn home(&self) -> Home {
        let home = Home::new(&self.text());
        home.scripted(MODEL, json!({"tokens": 2}));
        home
    }

    fn start(&self) -> Target {
        let home = self.home();
        let made = |args: &[&str]| {
            let (code, key, error) = home.run(args);
            assert_eq!(code, 0, "{error}");
            key.trim().to_owned()
        };
        let key = match self.keyed {
            true => made(&["keys", "new", "--name", "ann"]),
            false => String::new(),
        };
        let management_key = made(&["keys", "new", "--management", "--name", "admin"]);
        let server = home.serve_as(
            &["--listen", self.listen, "--management", "127.0.0.1:0"],
            &[],
        );
        let inference = server.inference.replace("0.0.0.0", "127.0.0.1");
        Target {
            _home: home,
            server,
            inference,
            key,
            management_key,
        }
    }
}

impl Target {
    /// A question to the model with some headers.
    async fn chat(&self, headers: &[(&str, &str)]) -> Answer {
        let body = question(MODEL, "n", false).to_string();
        let url = format!("{}/v1/chat/completions", self.inference);
        self.send(Method::POST, &url, headers, body).await
    }

    async fn status(&self, headers: &[(&str, &str)]) -> Answer {
        let url = format!("{}/admin/status", self.server.management);
        self.send(Method::GET, &url, headers, String::new()).await
    }

    async fn send(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Answer {
        let mut request = Client::new()
            .request(method, url)
            .timeout(PATIENCE)
            .header("content-type", "application/json")
            .body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::read(request.send().await.expect("an answer")).await
    }

    fn refused(&self, answer: &Answer, status: u16, code: &str) {
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{answer:?}"
        );
    }
}

/// Everything, against one profile.
async fn attack(profile: &Profile) {
    let target = profile.start();
    keys(profile, &target).await;
    names_and_pages(profile, &target).await;
    tokio::join!(too_large(profile, &target), too_slow(profile, &target));
    let answer = target
        .chat(&[("x-api-key", target.key.as_str())][..usize::from(profile.keyed)])
        .await;
    assert_eq!(answer.status, 200, "it serves on: {answer:?}");
}

/// Group A: who gets in, and where to.
async fn keys(profile: &Profile, target: &Target) {
    let bearer = format!("Bearer {}", target.key);
    let own = [("authorization", bearer.as_str())];
    if profile.keyed {
        let missing = target.chat(&[]).await;
        target.refused(&missing, 401, "invalid_api_key");
        let wrong = target.chat(&[("x-api-key", "rh-inference-guess")]).await;
        target.refused(&wrong, 401, "invalid_api_key");
        assert_eq!(missing.text, wrong.text);
        assert_eq!(target.chat(&own).await.status, 200);
        target.refused(&target.status(&own).await, 403, "wrong_key_class");
    } else {
        assert_eq!(target.chat(&[]).await.status, 200);
    }
    target.refused(&target.status(&[]).await, 401, "invalid_api_key");
    let admin = [("x-api-key", target.management_key.as_str())];
    assert_eq!(target.status(&admin).await.status, 200);
    if profile.keyed {
        target.refused(&target.chat(&admin).await, 403, "wrong_key_class");
    }
    assert!(!target.server.log().contains(&target.management_key));
}

/// Group W: other names and other pages, with a valid key.
async fn names_and_pages(profile: &Profile, target: &Target) {
    let key = ("x-api-key", target.key.as_str());
    let admin = ("x-api-key", target.management_key.as_str());
    for host in [
        "attacker.example",
        "localhost.attacker.example",
        "2130706433",
    ] {
        target.refused(
            &target.chat(&[key, ("host", host)]).await,
            403,
            "host_not_allowed",
        );
        target.refused(
            &target.status(&[admin, ("host", host)]).await,
            403,
            "host_not_allowed",
        );
    }
    for origin in ["https://attacker.example", "null", "http://localhost:3000"] {
        let answer = target.chat(&[key, ("origin", origin)]).await;
        target.refused(&answer, 403, "origin_not_allowed");
        let allows = answer
            .headers
            .keys()
            .any(|name| name.as_str().starts_with("access-control"));
        assert!(!allows, "{answer:?}");
    }
    let own = &[key][..usize::from(profile.keyed)];
    for (name, value) in [("host", profile.host), ("origin", profile.origin)] {
        if let Some(value) = value {
            let headers: Vec<_> = own.iter().copied().chain([(name, value)]).collect();
            let answer = target.chat(&headers).await;
            assert_eq!(answer.status, 200, "{name}: {answer:?}");
        }
    }
}

/// Group L: a body over the limit is refused by its announced length alone.
async fn too_large(profile: &Profile, target: &Target) {
    let mut connection = dial(target).await;
    let key = match profile.keyed {
        true => format!("x-api-key: {}\r\n", target.key),
        false => String::new(),
    };
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n{key}\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        profile.body + 1
    );
    connection.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = vec![0; 2000];
    let read = tokio::time::timeout(PATIENCE, connection.read(&mut answer)).await;
    let length = read.expect("an answer in time").expect("an answer");
    let text = String::from_utf8_lossy(&answer[..length]).into_owned();
    assert!(text.starts_with("HTTP/1.1 413"), "{text}");
}

/// Group L: a head that does not end is cut off, and others are served meanwhile.
async fn too_slow(profile: &Profile, target: &Target) {
    let mut connection = dial(target).await;
    let start = Instant::now();
    let (mut reader, mut writer) = connection.split();
    let trickle = async {
        writer
            .write_all(b"GET /v1/models HTTP/1.1\r\nx: ")
            .await
            .expect("sent");
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            if writer.write_all(b"a").await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let end = async {
        let mut rest = Vec::new();
        // A reset is an end too.
        let _ = reader.read_to_end(&mut rest).await;
    };
    let cut = async {
        tokio::select! { () = end => {}, () = trickle => {} }
        start.elapsed()
    };
    let took = tokio::time::timeout(profile.header_time + SLACK, cut).await;
    assert!(took.is_ok(), "still open after {:?}", start.elapsed());
}

async fn dial(target: &Target) -> TcpStream {
    let address = target.inference.trim_start_matches("http://");
    TcpStream::connect(address).await.expect("connected")
}

#[tokio::test]
async fn d08_the_profile_of_one_person_starts_and_stands() {
    attack(&PERSONAL).await;
}

#[tokio::test]
async fn d08_the_profile_of_a_team_starts_and_stands() {
    attack(&TEAM).await;
}

#[tokio::test]
async fn d08_the_profile_behind_a_proxy_starts_and_stands() {
    attack(&BEHIND_PROXY).await;
}

#[test]
fn d08_the_profile_of_a_team_does_not_start_without_a_key() {
    let home = TEAM.home();
    let args = [
        "serve",
        "--listen",
        "0.0.0.0:0",
        "--management",
        "127.0.0.1:0",
    ];
    let (code, out, error) = home.run(&args);
    assert_eq!((code, out.as_str()), (78, ""), "{error}");
    assert!(error.contains("roundhouse keys new"), "{error}");
}

#[test]
fn d08_every_profile_is_attacked_and_listens_as_it_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/profiles");
    let mut shipped: Vec<_> = std::fs::read_dir(root)
        .expect("profiles")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    shipped.sort();
    let mut attacked = [&PERSONAL, &TEAM, &BEHIND_PROXY].map(|profile| {
        let address = profile.listen.trim_end_matches('0').to_owned() + "11440";
        assert!(
            profile.text().contains(&format!("listen: {address}\n")),
            "{address}"
        );
        format!("{}.yaml", profile.name)
    });
    attacked.sort();
    assert_eq!(shipped, attacked);
}
