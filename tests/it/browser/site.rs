//! The attacker's side: a web site on another loopback port with the attacking
//! pages, an open server that shows which tricks leave the browser, and a proxy
//! behind which a name moves from one address to another.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::chromium::Chromium;

/// The tricks that reach a server which lets everything in. Two more, workers and
/// service workers from a foreign address, the browser refuses by itself.
pub const TRICKS: &[&str] = &[
    "fetch-text",
    "fetch-json",
    "fetch-form",
    "fetch-no-cors-text",
    "fetch-no-cors-json",
    "fetch-no-cors-untyped",
    "fetch-x-api-key",
    "fetch-bearer",
    "fetch-credentials",
    "fetch-keepalive",
    "fetch-no-referrer",
    "fetch-method-override",
    "fetch-put",
    "fetch-delete",
    "fetch-get",
    "fetch-get-no-cors",
    "fetch-head",
    "xhr",
    "beacon-text",
    "beacon-form",
    "beacon-json",
    "form-urlencoded",
    "form-text",
    "form-multipart",
    "form-get",
    "img",
    "script",
    "module",
    "stylesheet",
    "prefetch",
    "iframe",
    "object",
    "video",
    "ping",
    "event-source",
    "web-socket",
    "own-service-worker",
    "sandboxed",
];

/// The pages, and what is filled in.
const ATTACK: &str = include_str!("../../browser/attack.html");
const REBOUND: &str = include_str!("../../browser/rebound.html");
const WORKER: &str = include_str!("../../browser/worker.js");
const PLAN: &str = "/*PLAN*/ null";

/// The attacker's servers; they end with the value.
pub struct Site {
    /// The origin of its pages.
    pub origin: String,
    /// The open server.
    pub victim: String,
    pages: Pages,
    reports: tokio::sync::Mutex<mpsc::UnboundedReceiver<Value>>,
    tasks: Mutex<JoinSet<()>>,
}

/// What the servers share.
#[derive(Clone)]
struct Pages {
    page: Arc<Mutex<String>>,
    report: mpsc::UnboundedSender<Value>,
    arrived: Arc<Mutex<BTreeSet<String>>>,
}

/// A page under a name that moves.
pub struct Rebound {
    /// What the browser opens.
    pub url: String,
    /// The proxy it goes through.
    pub proxy: String,
}

impl Site {
    /// Opens the servers on free ports.
    pub async fn open() -> Self {
        let (report, reports) = mpsc::unbounded_channel();
        let pages = Pages {
            page: Arc::default(),
            report,
            arrived: Arc::default(),
        };
        let site = Router::new()
            .route("/", get(page))
            .route("/worker.js", get(worker))
            .route("/report", post(report_of))
            .with_state(pages.clone());
        let victim = Router::new().fallback(victim).with_state(pages.clone());
        let mut tasks = JoinSet::new();
        let origin = serve(site, &mut tasks).await;
        let victim = serve(victim, &mut tasks).await;
        Self {
            origin,
            victim,
            pages,
            reports: tokio::sync::Mutex::new(reports),
            tasks: Mutex::new(tasks),
        }
    }

    /// Lays out the attacking page; answers its address.
    pub fn attack(&self, plan: &Value) -> String {
        self.put(ATTACK, plan);
        format!("{}/", self.origin)
    }

    /// Lays out the page whose name moves to `target` once it has been fetched.
    pub async fn rebound(&self, target: &str, calls: &Value, key: &str) -> Rebound {
        let report = format!("{}/report", self.origin);
        self.put(
            REBOUND,
            &json!({"calls": calls, "key": key, "report": report}),
        );
        let address = target
            .strip_prefix("http://")
            .expect("an address")
            .to_owned();
        let port = address.rsplit(':').next().expect("a port").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let proxy = format!("http://{}", listener.local_addr().expect("an address"));
        let page = self.pages.page.clone();
        let moving = async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(moved(stream, address.clone(), page.clone()));
            }
        };
        self.tasks.lock().expect("tasks").spawn(moving);
        Rebound {
            url: format!("http://attacker.example:{port}/page"),
            proxy,
        }
    }

    /// What the page tells in the end.
    pub async fn report(&self, browser: &Chromium, patience: Duration) -> Value {
        let mut reports = self.reports.lock().await;
        match tokio::time::timeout(patience, reports.recv()).await {
            Ok(report) => report.expect("the site is open"),
            Err(_) => panic!(
                "the page never reported; arrived: {:?}\n{}",
                self.arrived(),
                browser.log()
            ),
        }
    }

    /// The tricks that have reached the open server.
    pub fn arrived(&self) -> BTreeSet<String> {
        self.pages.arrived.lock().expect("set").clone()
    }

    fn put(&self, page: &str, plan: &Value) {
        assert!(page.contains(PLAN), "there is no place for the plan");
        let plan = plan.to_string().replace('<', "\\u003c");
        *self.pages.page.lock().expect("page") = page.replace(PLAN, &plan);
    }
}

async fn serve(app: Router, tasks: &mut JoinSet<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let origin = format!("http://{}", listener.local_addr().expect("an address"));
    tasks.spawn(async move {
        axum::serve(listener, app).await.expect("served");
    });
    origin
}

async fn page(State(pages): State<Pages>) -> Html<String> {
    Html(pages.page.lock().expect("page").clone())
}

async fn worker() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/javascript")], WORKER)
}

async fn report_of(State(pages): State<Pages>, body: String) {
    let report = serde_json::from_str(&body).expect("JSON");
    // The test may have its report already.
    let _ = pages.report.send(report);
}

/// Lets every page do and read everything, and notes which trick it was.
async fn victim(State(pages): State<Pages>, request: Request) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let trick = query
        .split('&')
        .find_map(|part| part.strip_prefix("trick="))
        // A form that is sent by GET has the query replaced by its fields.
        .unwrap_or("form-get");
    if request.method() != Method::OPTIONS {
        pages.arrived.lock().expect("set").insert(trick.to_owned());
    }
    let mut response = "secret".into_response();
    allow_everything(request.headers(), response.headers_mut());
    response
}

fn allow_everything(asked: &HeaderMap, given: &mut HeaderMap) {
    let value = |name: &HeaderName, otherwise: &'static str| {
        let asked = asked.get(name).cloned();
        asked.unwrap_or(HeaderValue::from_static(otherwise))
    };
    let origin = value(&header::ORIGIN, "*");
    given.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    let headers = value(&header::ACCESS_CONTROL_REQUEST_HEADERS, "*");
    given.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, headers);
    let methods = value(&header::ACCESS_CONTROL_REQUEST_METHOD, "GET");
    given.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    let yes = HeaderValue::from_static("true");
    given.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
}

/// One connection through the proxy: `/page` is the attacker's, everything else
/// goes to the target with the Host that the browser gave it.
async fn moved(mut browser: TcpStream, target: String, page: Arc<Mutex<String>>) {
    let Some((head, rest)) = head(&mut browser).await else {
        return;
    };
    let line = head.lines().next().unwrap_or_default();
    let url = line.split(' ').nth(1).unwrap_or_default();
    let path = url.splitn(4, '/').nth(3).unwrap_or_default();
    if path == "page" {
        let page = page.lock().expect("page").clone();
        let length = page.len();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{page}"
        );
        let _ = browser.write_all(answer.as_bytes()).await;
        return;
    }
    let Ok(mut server) = TcpStream::connect(&target).await else {
        return;
    };
    // The path alone, as a browser that dials the server itself would write it.
    let kept = head.lines().skip(1).filter(|line| {
        let name = line.split(':').next().unwrap_or_default();
        !name.eq_ignore_ascii_case("proxy-connection") && !name.eq_ignore_ascii_case("connection")
    });
    let method = line.split(' ').next().unwrap_or_default();
    let mut forwarded = format!("{method} /{path} HTTP/1.1\r\nconnection: close\r\n");
    for line in kept.take_while(|line| !line.is_empty()) {
        forwarded += &format!("{line}\r\n");
    }
    forwarded += "\r\n";
    let sent = async {
        server.write_all(forwarded.as_bytes()).await?;
        server.write_all(&rest).await?;
        tokio::io::copy_bidirectional(&mut browser, &mut server).await
    };
    // Either side may leave first.
    let _ = sent.await;
}

/// The head of a request, and what of its body came with it.
async fn head(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Some((String::from_utf8(bytes).ok()?, rest));
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}
