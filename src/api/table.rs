//! One table per port, one row per path; a row without an access class cannot be
//! written. Here the table becomes a router in which each row checks its class
//! and everything passes the same front. What `roundhouse access` prints is read
//! from the same rows.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter};

use super::error::{ApiError, Code};
use super::front::{self, Port};
use crate::access::{Access, Door};
use crate::records::entry::Entry;
use crate::registry::Snapshot;
use crate::service::Service;

/// A row: a path, what it asks of its caller, and who answers to which method.
pub struct Route {
    /// What it asks.
    pub access: Access,
    /// The path, as axum writes patterns.
    pub path: &'static str,
    methods: Vec<Method>,
    handler: MethodRouter<Service>,
}

impl Route {
    /// A row that answers to nothing yet.
    pub fn new(access: Access, path: &'static str) -> Self {
        Self {
            access,
            path,
            methods: Vec::new(),
            handler: MethodRouter::new(),
        }
    }

    /// Answers to GET, and to HEAD without the body.
    pub fn get<H: Handler<T, Service>, T: 'static>(self, handler: H) -> Self {
        self.on(MethodFilter::GET, &[Method::GET, Method::HEAD], handler)
    }

    /// Answers to HEAD alone.
    pub fn head<H: Handler<T, Service>, T: 'static>(self, handler: H) -> Self {
        self.on(MethodFilter::HEAD, &[Method::HEAD], handler)
    }

    /// Answers to POST.
    pub fn post<H: Handler<T, Service>, T: 'static>(self, handler: H) -> Self {
        self.on(MethodFilter::POST, &[Method::POST], handler)
    }

    /// Answers to DELETE.
    pub fn delete<H: Handler<T, Service>, T: 'static>(self, handler: H) -> Self {
        self.on(MethodFilter::DELETE, &[Method::DELETE], handler)
    }

    /// The methods it answers to.
    pub fn methods(&self) -> &[Method] {
        &self.methods
    }

    fn on<H: Handler<T, Service>, T: 'static>(
        mut self,
        filter: MethodFilter,
        methods: &[Method],
        handler: H,
    ) -> Self {
        self.methods.extend_from_slice(methods);
        self.handler = self.handler.on(filter, handler);
        self
    }
}

/// The router of a table, as it stands on this port.
pub fn router(routes: Vec<Route>, service: Service, port: Port) -> Router {
    let mut router = Router::new();
    for route in routes {
        let guard = from_fn_with_state((service.clone(), route.access), check_access);
        // The guard stands before the answer to a wrong method too.
        let handler = route.handler.fallback(wrong_method).layer(guard);
        router = router.route(route.path, handler);
    }
    router
        .fallback(unknown_path)
        .layer(from_fn_with_state((service.clone(), port), front::front))
        .with_state(service)
}

/// Turns the credential into a caller, or refuses.
async fn check_access(
    State((service, access)): State<(Service, Access)>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let known = request.extensions();
    let door = known.get::<Door>().cloned();
    let (door, snapshot) = door
        .zip(known.get::<Arc<Snapshot>>().cloned())
        .ok_or_else(|| ApiError::new(Code::InternalError, "the connection is not known"))?;
    let limits = &snapshot.config.server.limits;
    let entrance = &service.entrance;
    match entrance.admit(access, request.headers(), &door, limits, SystemTime::now()) {
        Ok(caller) => {
            if let Some(entry) = request.extensions().get::<Entry>() {
                entry.caller(&caller.id);
            }
            request.extensions_mut().insert(caller);
            Ok(next.run(request).await)
        }
        Err(refusal) => {
            if access == Access::Management {
                let action = crate::admin::refused_action(&request, &refusal);
                crate::admin::record_refusal(&service, &door, &action, &refusal).await?;
            }
            Err(refusal.error)
        }
    }
}

async fn unknown_path() -> ApiError {
    ApiError::new(Code::NotFound, "there is nothing at this path")
}

async fn wrong_method() -> ApiError {
    ApiError::new(
        Code::MethodNotAllowed,
        "this path does not answer to this method",
    )
}
