//! What the inference port does, operation by operation.

use axum::Json;
use axum::extract::State;
use serde_json::Value;

use super::{Answer, Operation, document, schemas};
use crate::api::fields::{DETOKENIZE, INFILL, REST, TEMPLATE, TOKENIZE};
use crate::service::Service;

/// `GET /openapi.json`
pub async fn description(State(service): State<Service>) -> Json<Value> {
    let snapshot = service.dispatch.registry.load();
    let schemas = schemas::inference(&snapshot.config.server.limits.counts);
    let title = "Roundhouse, inference";
    Json(document(title, &crate::api::routes(), OPERATIONS, schemas))
}

/// Refusals of a model, of the terms of waiting for it, and of an engine.
const OF_A_MODEL: &[u16] = &[404, 409, 502, 504];

/// The same of a body with a file.
const OF_AN_UPLOAD: &[u16] = &[404, 409, 413, 415, 502, 504];

/// Every method of every path of the port.
pub const OPERATIONS: &[Operation] = &[
    Operation {
        method: "HEAD",
        path: "/",
        summary: "Whether there is anybody.",
        takes: None,
        answers: &[(200, Answer::Empty)],
        generates: false,
        refusals: &[],
    },
    Operation {
        method: "GET",
        path: "/health",
        summary: "Whether the process lives; degraded when the last reload failed.",
        takes: None,
        answers: &[(200, Answer::Json("Health"))],
        generates: false,
        refusals: &[],
    },
    Operation {
        method: "GET",
        path: "/ready",
        summary: "Whether what is loaded at start is there.",
        takes: None,
        answers: &[(200, Answer::Json("Health")), (503, Answer::Json("Health"))],
        generates: false,
        refusals: &[],
    },
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
        path: "/v1/models",
        summary: "What may be asked for.",
        takes: None,
        answers: &[(200, Answer::Json("ModelList"))],
        generates: false,
        refusals: &[],
    },
    Operation {
        method: "GET",
        path: "/v1/models/",
        summary: "What may be asked for.",
        takes: None,
        answers: &[(200, Answer::Json("ModelList"))],
        generates: false,
        refusals: &[],
    },
    Operation {
        method: "GET",
        path: "/v1/models/{*id}",
        summary: "One model; the slash of its id may stand as it is.",
        takes: None,
        answers: &[(200, Answer::Json("Model"))],
        generates: false,
        refusals: &[404],
    },
    Operation {
        method: "POST",
        path: "/v1/chat/completions",
        summary: "An answer to messages, or its stream.",
        takes: Some("ChatRequest"),
        answers: &[(200, Answer::Json("ChatCompletion"))],
        generates: true,
        refusals: OF_A_MODEL,
    },
    Operation {
        method: "POST",
        path: "/v1/completions",
        summary: "What follows a prompt, or its stream.",
        takes: Some("CompletionRequest"),
        answers: &[(200, Answer::Json("Completion"))],
        generates: true,
        refusals: OF_A_MODEL,
    },
    Operation {
        method: "POST",
        path: "/v1/embeddings",
        summary: "A vector of each text.",
        takes: Some("EmbeddingRequest"),
        answers: &[(200, Answer::Json("Embeddings"))],
        generates: false,
        refusals: OF_A_MODEL,
    },
    Operation {
        method: "POST",
        path: "/v1/rerank",
        summary: "How well documents fit a query.",
        takes: Some("RerankRequest"),
        answers: &[(200, Answer::Json("Ranks"))],
        generates: false,
        refusals: OF_A_MODEL,
    },
    Operation {
        method: "POST",
        path: "/v1/audio/speech",
        summary: "Text as sound; engines of that kind alone.",
        takes: Some("SpeechRequest"),
        answers: &[(200, Answer::Text("audio/*"))],
        generates: false,
        refusals: OF_A_MODEL,
    },
    Operation {
        method: "POST",
        path: "/v1/audio/transcriptions",
        summary: "Sound as text, from multipart/form-data whose part model stands before the file; engines of that kind alone.",
        takes: None,
        answers: &[(200, Answer::Text("*/*"))],
        generates: false,
        refusals: OF_AN_UPLOAD,
    },
    Operation {
        method: "POST",
        path: "/v1/audio/translations",
        summary: "Sound as text in English, like transcriptions.",
        takes: None,
        answers: &[(200, Answer::Text("*/*"))],
        generates: false,
        refusals: OF_AN_UPLOAD,
    },
    Operation {
        method: "POST",
        path: "/v1/leases",
        summary: "Holds a model for a while; it is loaded if it is not up.",
        takes: Some("LeaseRequest"),
        answers: &[(200, Answer::Json("Lease"))],
        generates: false,
        refusals: &[404, 409, 504],
    },
    Operation {
        method: "DELETE",
        path: "/v1/leases",
        summary: "Gives a residency lease back.",
        takes: Some("LeaseId"),
        answers: &[(200, Answer::Json("Done"))],
        generates: false,
        refusals: &[404],
    },
    Operation {
        method: "POST",
        path: TOKENIZE,
        summary: "The tokens of a text or of messages, by the embedded engine or as another one answers it.",
        takes: Some("OtherRequest"),
        answers: &[(200, Answer::Text("*/*"))],
        generates: false,
        refusals: OF_A_MODEL,
    },
    Operation {
        method: "POST",
        path: DETOKENIZE,
        summary: "The text of tokens, likewise.",
        takes: Some("OtherRequest"),
        answers: &[(200, Answer::Text("*/*"))],
        generates: false,
        refusals: OF_A_MODEL,
    },
    Operation {
        method: "POST",
        path: TEMPLATE,
        summary: "The prompt that messages come to, likewise.",
        takes: Some("OtherRequest"),
        answers: &[(200, Answer::Text("*/*"))],
        generates: false,
        refusals: OF_A_MODEL,
    },
    Operation {
        method: "POST",
        path: INFILL,
        summary: "What stands between two texts, as an engine of the file or an upstream answers it.",
        takes: Some("OtherRequest"),
        answers: &[(200, Answer::Text("*/*"))],
        generates: true,
        refusals: OF_A_MODEL,
    },
    Operation {
        method: "POST",
        path: REST,
        summary: "Any other path, with a body of JSON or multipart/form-data that names a model: as an engine of the file or an upstream answers it.",
        takes: Some("OtherRequest"),
        answers: &[(200, Answer::Text("*/*"))],
        generates: true,
        refusals: OF_A_MODEL,
    },
];
