//! The error contract: one type for every refusal a client can see, and its
//! JSON. What happened is told by the enums beside the code that raises them;
//! this is only how it is told.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

/// Longest `retry-after`, as clients honour it.
const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(120);

/// A refusal in the words of the API.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    /// Which line of the contract this is.
    pub code: Code,
    /// What a person reads. Nothing internal: no paths, addresses or causes.
    pub message: String,
    /// The field of the request that is at fault.
    pub param: Option<String>,
    /// When trying again may help.
    pub retry_after: Option<Duration>,
}

/// The codes of the error contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each variant is the code it is named after")]
pub enum Code {
    InvalidJson,
    InvalidModelId,
    InvalidValue,
    BadRequest,
    ContextLengthExceeded,
    InvalidApiKey,
    HostNotAllowed,
    OriginNotAllowed,
    WrongKeyClass,
    InsufficientScope,
    ModelNotFound,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    RequestTooLarge,
    UriTooLong,
    UnsupportedMediaType,
    HeadersTooLarge,
    Conflict,
    RateLimitExceeded,
    QueueFull,
    InternalError,
    WorkerCrashed,
    BadUpstreamResponse,
    InsufficientMemory,
    LoadFailed,
    ShuttingDown,
    Overloaded,
    QueueTimeout,
    LoadTimeout,
    FirstTokenTimeout,
    UpstreamTimeout,
}

impl Code {
    /// The word on the wire, the HTTP status and the error's `type`.
    pub fn facts(self) -> (&'static str, StatusCode, &'static str) {
        use Code::*;
        let invalid = "invalid_request_error";
        let server = "server_error";
        match self {
            InvalidJson => ("invalid_json", StatusCode::BAD_REQUEST, invalid),
            InvalidModelId => ("invalid_model_id", StatusCode::BAD_REQUEST, invalid),
            InvalidValue => ("invalid_value", StatusCode::BAD_REQUEST, invalid),
            BadRequest => ("bad_request", StatusCode::BAD_REQUEST, invalid),
            ContextLengthExceeded => ("context_length_exceeded", StatusCode::BAD_REQUEST, invalid),
            InvalidApiKey => (
                "invalid_api_key",
                StatusCode::UNAUTHORIZED,
                "authentication_error",
            ),
            HostNotAllowed => (
                "host_not_allowed",
                StatusCode::FORBIDDEN,
                "permission_error",
            ),
            OriginNotAllowed => (
                "origin_not_allowed",
                StatusCode::FORBIDDEN,
                "permission_error",
            ),
            WrongKeyClass => ("wrong_key_class", StatusCode::FORBIDDEN, "permission_error"),
            InsufficientScope => (
                "insufficient_scope",
                StatusCode::FORBIDDEN,
                "permission_error",
            ),
            ModelNotFound => ("model_not_found", StatusCode::NOT_FOUND, invalid),
            NotFound => ("not_found", StatusCode::NOT_FOUND, invalid),
            MethodNotAllowed => (
                "method_not_allowed",
                StatusCode::METHOD_NOT_ALLOWED,
                invalid,
            ),
            RequestTimeout => ("request_timeout", StatusCode::REQUEST_TIMEOUT, invalid),
            RequestTooLarge => ("request_too_large", StatusCode::PAYLOAD_TOO_LARGE, invalid),
            UriTooLong => ("uri_too_long", StatusCode::URI_TOO_LONG, invalid),
            UnsupportedMediaType => (
                "unsupported_media_type",
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                invalid,
            ),
            HeadersTooLarge => (
                "headers_too_large",
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                invalid,
            ),
            Conflict => ("conflict", StatusCode::CONFLICT, invalid),
            RateLimitExceeded => (
                "rate_limit_exceeded",
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limit_error",
            ),
            QueueFull => (
                "queue_full",
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limit_error",
            ),
            InternalError => ("internal_error", StatusCode::INTERNAL_SERVER_ERROR, server),
            WorkerCrashed => ("worker_crashed", StatusCode::BAD_GATEWAY, server),
            BadUpstreamResponse => ("bad_upstream_response", StatusCode::BAD_GATEWAY, server),
            InsufficientMemory => (
                "insufficient_memory",
                StatusCode::SERVICE_UNAVAILABLE,
                server,
            ),
            LoadFailed => ("load_failed", StatusCode::SERVICE_UNAVAILABLE, server),
            ShuttingDown => ("shutting_down", StatusCode::SERVICE_UNAVAILABLE, server),
            Overloaded => ("overloaded", StatusCode::SERVICE_UNAVAILABLE, server),
            QueueTimeout => ("queue_timeout", StatusCode::SERVICE_UNAVAILABLE, server),
            LoadTimeout => ("load_timeout", StatusCode::GATEWAY_TIMEOUT, server),
            FirstTokenTimeout => ("first_token_timeout", StatusCode::GATEWAY_TIMEOUT, server),
            UpstreamTimeout => ("upstream_timeout", StatusCode::GATEWAY_TIMEOUT, server),
        }
    }

    /// Whether trying the same request again cannot help by itself, although clients
    /// repeat requests after such a status.
    fn is_final(self) -> bool {
        matches!(
            self,
            Code::InsufficientMemory | Code::LoadFailed | Code::Conflict
        )
    }

    /// The wait to advise when nothing better is known, for refusals that pass.
    fn usual_retry(self) -> Option<Duration> {
        match self {
            Code::RateLimitExceeded | Code::QueueFull | Code::QueueTimeout | Code::Overloaded => {
                Some(Duration::from_secs(5))
            }
            Code::ShuttingDown => Some(Duration::from_secs(10)),
            Code::WorkerCrashed | Code::LoadTimeout | Code::FirstTokenTimeout => {
                Some(Duration::from_secs(1))
            }
            _ => None,
        }
    }
}

impl ApiError {
    /// A refusal with a message.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            param: None,
            retry_after: code.usual_retry(),
        }
    }

    /// Names the field of the request that is at fault.
    pub fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Says when trying again may help.
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// `{"error":{"message","type","param","code"}}`.
    pub fn body(&self) -> serde_json::Value {
        let (code, _, kind) = self.code.facts();
        json!({"error": {
            "message": self.message,
            "type": kind,
            "param": self.param,
            "code": code,
        }})
    }

    /// The refusal as an event of a stream that has begun. No `[DONE]` may follow it.
    pub fn event(&self) -> String {
        format!("data: {}\n\n", self.body())
    }

    /// The refusal as a whole response. The request id is added by the server's layers.
    pub fn into_response(self) -> Response<Body> {
        let (_, status, _) = self.code.facts();
        let mut response = Response::new(Body::from(self.body().to_string()));
        *response.status_mut() = status;
        // For the records; extensions never reach the wire.
        response.extensions_mut().insert(self.code);
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.code.is_final() {
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        } else if let Some(wait) = self.retry_after {
            let seconds = wait.min(RETRY_AFTER_LIMIT).as_secs().max(1);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl axum::response::IntoResponse for ApiError {
    fn into_response(self) -> Response<Body> {
        ApiError::into_response(self)
    }
}
