//! One table per port, one row per path; a row without an access class cannot be
//! written. Here the table becomes a router in which each row checks its class
//! and everything passes the same front.

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::MethodRouter;

use super::error::{ApiError, Code};
use super::front::{self, Port};
use crate::access::{Access, Door, authorise};
use crate::service::Service;

/// A row: a path, what it asks of its caller, and who answers.
pub struct Route {
    /// What it asks.
    pub access: Access,
    /// The path, as axum writes patterns.
    pub path: &'static str,
    handler: MethodRouter<Service>,
}

impl Route {
    /// A row.
    pub fn new(access: Access, path: &'static str, handler: MethodRouter<Service>) -> Self {
        Self {
            access,
            path,
            handler,
        }
    }
}

/// The router of a table, as it stands on this port.
pub fn router(routes: Vec<Route>, service: Service, port: Port) -> Router {
    let mut router = Router::new();
    for route in routes {
        let guard = from_fn_with_state((service.clone(), route.access), check_access);
        router = router.route(route.path, route.handler.layer(guard));
    }
    router
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state((service.clone(), port), front::front))
        .with_state(service)
}

/// Turns the credential into a caller, or refuses.
async fn check_access(
    State((service, access)): State<(Service, Access)>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let keys = service.keys.load_full();
    let door = request
        .extensions()
        .get::<Door>()
        .cloned()
        .ok_or_else(|| ApiError::new(Code::InternalError, "the connection is not known"))?;
    match authorise(access, request.headers(), &door, &keys) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            Ok(next.run(request).await)
        }
        Err(error) => {
            if access == Access::Management {
                crate::admin::record_refusal(
                    &service,
                    &door,
                    request.method(),
                    request.uri(),
                    &error,
                )?;
            }
            Err(error)
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
