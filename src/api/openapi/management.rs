//! What the management port does, operation by operation.

use axum::Json;
use serde_json::Value;

use super::{Answer, Operation, document, schemas};

/// `GET /openapi.json`
pub async fn description() -> Json<Value> {
    let (title, schemas) = ("Roundhouse, management", schemas::management());
    Json(document(
        title,
        &crate::admin::routes(),
        OPERATIONS,
        schemas,
    ))
}

/// Every method of every path of the port.
pub const OPERATIONS: &[Operation] = &[
    Operation {
        method: "GET",
        path: "/openapi.json",
        summary: "This description.",
        takes: None,
        answers: &[(200, Answer::Json("Description"))],
        generates: false,
        refusals: &[],
    },
    Operation {
        method: "GET",
        path: "/admin/status",
        summary: "The service at one moment.",
        takes: None,
        answers: &[(200, Answer::Json("Status"))],
        generates: false,
        refusals: &[],
    },
    Operation {
        method: "GET",
        path: "/admin/models",
        summary: "The models alone.",
        takes: None,
        answers: &[(200, Answer::Json("Models"))],
        generates: false,
        refusals: &[],
    },
    Operation {
        method: "GET",
        path: "/admin/config",
        summary: "The configuration in force, without secrets.",
        takes: None,
        answers: &[(200, Answer::Json("Settings"))],
        generates: false,
        refusals: &[],
    },
    Operation {
        method: "GET",
        path: "/metrics",
        summary: "Counters and gauges of the router and its models.",
        takes: None,
        answers: &[(200, Answer::Text("application/openmetrics-text"))],
        generates: false,
        refusals: &[],
    },
    Operation {
        method: "POST",
        path: "/admin/reload",
        summary: "Reads the configuration again.",
        takes: None,
        answers: &[(200, Answer::Json("Reloaded"))],
        generates: false,
        refusals: &[],
    },
    Operation {
        method: "POST",
        path: "/admin/models/load",
        summary: "Brings a model up.",
        takes: Some("LoadRequest"),
        answers: &[(200, Answer::Json("Done"))],
        generates: false,
        refusals: &[404, 504],
    },
    Operation {
        method: "POST",
        path: "/admin/models/unload",
        summary: "Takes a model out of memory.",
        takes: Some("UnloadRequest"),
        answers: &[(200, Answer::Json("Done"))],
        generates: false,
        refusals: &[404, 409],
    },
    Operation {
        method: "POST",
        path: "/admin/models/release",
        summary: "Takes every idle model out of memory.",
        takes: None,
        answers: &[(200, Answer::Json("Released"))],
        generates: false,
        refusals: &[],
    },
    Operation {
        method: "POST",
        path: "/admin/leases",
        summary: "Holds a model for a while; it is loaded if it is not up.",
        takes: Some("LeaseRequest"),
        answers: &[(200, Answer::Json("Lease"))],
        generates: false,
        refusals: &[404, 409, 504],
    },
    Operation {
        method: "DELETE",
        path: "/admin/leases",
        summary: "Gives a residency lease back.",
        takes: Some("LeaseId"),
        answers: &[(200, Answer::Json("Done"))],
        generates: false,
        refusals: &[404],
    },
    Operation {
        method: "GET",
        path: "/admin/keys",
        summary: "The keys, without what opens anything.",
        takes: None,
        answers: &[(200, Answer::Json("KeyList"))],
        generates: false,
        refusals: &[],
    },
    Operation {
        method: "POST",
        path: "/admin/keys",
        summary: "Makes a key; its text is in this answer alone.",
        takes: Some("KeyRequest"),
        answers: &[(200, Answer::Json("Key"))],
        generates: false,
        refusals: &[409],
    },
    Operation {
        method: "DELETE",
        path: "/admin/keys/{id}",
        summary: "Revokes a key, by its id or its name.",
        takes: None,
        answers: &[(200, Answer::Json("Revoked"))],
        generates: false,
        refusals: &[404, 409],
    },
];
