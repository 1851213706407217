//! One table per port, one row per path; a row without an access class cannot be
//! written. Here the table becomes what a listener serves: everything passes the
//! same front, and each row checks its class before anything else of it runs. What
//! `roundhouse access` prints is read from the same rows.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::handler::Handler;
use axum::http::{HeaderValue, Method, header};
use axum::response::Response;
use axum::routing::any;
use http_body::Body as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;

use super::error::{ApiError, Code};
use super::front::{self, Port};
use crate::access::{Access, Door};
use crate::records::entry::Entry;
use crate::registry::Snapshot;
use crate::server::{Answering, App};
use crate::service::Service;

/// A row: a path, what it asks of its caller, and who answers to which method.
pub struct Route {
    /// What it asks.
    pub access: Access,
    /// The path, as axum writes patterns.
    pub path: &'static str,
    methods: Vec<Method>,
    handlers: Vec<(Method, Arc<Answer>)>,
}

/// A handler of whatever type.
type Answer = dyn Fn(Request, Service) -> Answering + Send + Sync;

/// A function that axum takes for a handler.
pub trait Answers<T>: Handler<T, Service, Future = Answering> {}

impl<T, H: Handler<T, Service, Future = Answering>> Answers<T> for H {}

impl Route {
    /// A row that answers to nothing yet.
    pub fn new(access: Access, path: &'static str) -> Self {
        Self {
            access,
            path,
            methods: Vec::new(),
            handlers: Vec::new(),
        }
    }

    /// Answers to GET, and to HEAD without the body.
    pub fn get<H: Answers<T>, T: 'static>(self, handler: H) -> Self {
        self.on(&[Method::GET, Method::HEAD], handler)
    }

    /// Answers to HEAD alone.
    pub fn head<H: Answers<T>, T: 'static>(self, handler: H) -> Self {
        self.on(&[Method::HEAD], handler)
    }

    /// Answers to POST.
    pub fn post<H: Answers<T>, T: 'static>(self, handler: H) -> Self {
        self.on(&[Method::POST], handler)
    }

    /// Answers to DELETE.
    pub fn delete<H: Answers<T>, T: 'static>(self, handler: H) -> Self {
        self.on(&[Method::DELETE], handler)
    }

    /// The methods it answers to.
    pub fn methods(&self) -> &[Method] {
        &self.methods
    }

    fn on<H: Answers<T>, T: 'static>(mut self, methods: &[Method], handler: H) -> Self {
        let answer: Arc<Answer> = match self.is_pattern() {
            false => Arc::new(move |request, service| handler.clone().call(request, service)),
            true => {
                // What stands in the place of a pattern is known to axum's router alone.
                let router = Router::new().route(self.path, any(handler));
                Arc::new(move |request, service| {
                    let router: Router = router.clone().with_state(service);
                    let answered = TowerToHyperService::new(router).call(request);
                    Box::pin(async move {
                        let Ok::<_, Infallible>(response) = answered.await;
                        response
                    })
                })
            }
        };
        self.methods.extend_from_slice(methods);
        let each = methods
            .iter()
            .map(|method| (method.clone(), answer.clone()));
        self.handlers.extend(each);
        self
    }

    fn is_pattern(&self) -> bool {
        self.path.contains('{')
    }

    /// Whether it is for what no other row is for.
    fn is_rest(&self) -> bool {
        self.path.ends_with("{*rest}")
    }

    /// Whether a path is one of those that the row's pattern means. There are three
    /// kinds: `{id}` at the end is one segment, `{*id}` one or more, `{*rest}` the same of
    /// nothing but what every reader takes for the same path.
    fn is_meant_by(&self, path: &str) -> bool {
        let Some((head, name)) = self.path.split_once('{') else {
            return self.path == path;
        };
        let rest = path.strip_prefix(head).unwrap_or_default();
        match name {
            "*rest}" => rest.split('/').all(is_plain),
            name => !rest.is_empty() && (name.starts_with('*') || !rest.contains('/')),
        }
    }

    /// Who answers to this method.
    fn handler(&self, method: &Method) -> Option<&Answer> {
        let mut handlers = self.handlers.iter();
        let (_, answer) = handlers.find(|(answered, _)| answered == method)?;
        Some(&**answer)
    }
}

/// Whether a segment of a path is one that nobody decodes or takes out.
fn is_plain(segment: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    !segment.bytes().all(|byte| byte == b'.') && segment.bytes().all(fits)
}

/// The rows of a port, found by path.
struct Table {
    /// Those without a pattern.
    plain: HashMap<&'static str, Route>,
    patterns: Vec<Route>,
}

impl Table {
    fn new(routes: Vec<Route>) -> Self {
        let (patterns, plain): (Vec<_>, Vec<_>) = routes.into_iter().partition(Route::is_pattern);
        Self {
            plain: plain.into_iter().map(|route| (route.path, route)).collect(),
            patterns,
        }
    }

    fn find(&self, path: &str) -> Option<&Route> {
        let patterns = || self.patterns.iter().find(|route| route.is_meant_by(path));
        self.plain.get(path).or_else(patterns)
    }
}

/// The rows as they stand on this port: one function from a request to its answer.
pub fn app(routes: Vec<Route>, service: Service, port: Port) -> App {
    let table = Arc::new(Table::new(routes));
    Arc::new(move |request| {
        let (table, service) = (table.clone(), service.clone());
        Box::pin(async move { answer(&table, &service, port, request).await })
    })
}

async fn answer(table: &Table, service: &Service, port: Port, request: Request) -> Response {
    let row = table.find(request.uri().path());
    let is_head = request.method() == Method::HEAD;
    let handled = async |request| match row {
        Some(row) => handle(row, service, request).await,
        None => unknown_path().into_response(),
    };
    let path = row.map(|row| row.path);
    let mut response = front::front(service, port, path, request, handled).await;
    if is_head {
        let length = response.body().size_hint().exact();
        if let Some(length) =
            length.filter(|_| !response.headers().contains_key(header::CONTENT_LENGTH))
        {
            response
                .headers_mut()
                .insert(header::CONTENT_LENGTH, length.into());
        }
        *response.body_mut() = Body::empty();
    }
    response
}

/// The class is checked before the answer to a wrong method too.
async fn handle(row: &Route, service: &Service, request: Request) -> Response {
    let request = match check_access(service, row, request).await {
        Ok(request) => request,
        Err(refusal) => return refusal.into_response(),
    };
    match row.handler(request.method()) {
        Some(answer) => answer(request, service.clone()).await,
        // Which paths there are behind it is known to engines alone.
        None if row.is_rest() => unknown_path().into_response(),
        None => {
            let mut response = wrong_method().into_response();
            let methods: Vec<_> = row.methods.iter().map(Method::as_str).collect();
            if let Ok(allowed) = HeaderValue::from_str(&methods.join(",")) {
                response.headers_mut().insert(header::ALLOW, allowed);
            }
            response
        }
    }
}

/// Turns the credential into a caller, or refuses.
async fn check_access(
    service: &Service,
    row: &Route,
    mut request: Request,
) -> Result<Request, ApiError> {
    let known = request.extensions();
    let (door, snapshot) = known
        .get::<Door>()
        .zip(known.get::<Arc<Snapshot>>())
        .ok_or_else(|| ApiError::new(Code::InternalError, "the connection is not known"))?;
    let limits = &snapshot.config.server.limits;
    let (entrance, access) = (&service.entrance, row.access);
    match entrance.admit(access, request.headers(), door, limits, SystemTime::now()) {
        Ok(caller) => {
            if let Some(entry) = known.get::<Entry>() {
                entry.caller(&caller.id);
            }
            request.extensions_mut().insert(caller);
            Ok(request)
        }
        Err(refusal) => {
            if access == Access::Management {
                let action = crate::admin::refused_action(row.path, &request, &refusal);
                crate::admin::record_refusal(service, door, &action, &refusal).await?;
            }
            Err(refusal.error)
        }
    }
}

fn unknown_path() -> ApiError {
    ApiError::new(Code::NotFound, "there is nothing at this path")
}

fn wrong_method() -> ApiError {
    ApiError::new(
        Code::MethodNotAllowed,
        "this path does not answer to this method",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_finds_its_row() {
        let rows = [
            "/",
            "/v1/models",
            "/v1/models/",
            "/v1/models/{*id}",
            "/keys/{id}",
            "/v1/{*rest}",
        ];
        let table = Table::new(rows.map(|path| Route::new(Access::Open, path)).into());
        let check = |path: &str, expected: Option<&str>| {
            assert_eq!(table.find(path).map(|row| row.path), expected, "{path}");
        };
        check("/", Some("/"));
        check("", None);
        check("/v1", None);
        check("/v1/", None);
        check("/v1/audio/Voices_2.x~", Some("/v1/{*rest}"));
        for path in [
            "/v1/a/",
            "/v1//a",
            "/v1/a/../b",
            "/v1/./a",
            "/v1/%61",
            "/v1/a;b",
            "/v2/a",
        ] {
            check(path, None);
        }
        check("/v1/models", Some("/v1/models"));
        check("/v1/models/", Some("/v1/models/"));
        check("/v1/models/a/b%20c", Some("/v1/models/{*id}"));
        check("/keys/k1", Some("/keys/{id}"));
        check("/keys/", None);
        check("/keys/k1/", None);
        check("/keys/k1/more", None);
        check("/KEYS/k1", None);
        check("//v1/models", None);
    }
}
