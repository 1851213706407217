//! The inference API: which paths there are, what each asks for, and what each
//! answers. It knows HTTP and wire JSON; it does not know how models are kept.

use crate::access::Access;
use crate::server::App;
use crate::service::Service;

pub mod body;
pub mod error;
pub mod fields;
pub mod front;
pub mod health;
pub mod intake;
pub mod leases;
pub mod models;
pub mod openai;
pub mod openapi;
pub mod table;

use front::Port;
use table::Route;

/// Every route of the inference port, with what it asks of its caller.
pub fn routes() -> Vec<Route> {
    use Access::{Inference, Open};
    vec![
        Route::new(Open, "/").head(health::head),
        Route::new(Open, "/health").get(health::health),
        Route::new(Open, "/ready").get(health::ready),
        Route::new(Inference, "/openapi.json").get(openapi::inference::description),
        Route::new(Inference, "/v1/models").get(models::list),
        // Some clients keep the slash of their base address.
        Route::new(Inference, "/v1/models/").get(models::list),
        Route::new(Inference, "/v1/models/{*id}").get(models::one),
        Route::new(Inference, "/v1/chat/completions").post(openai::chat_completions),
        Route::new(Inference, "/v1/completions").post(openai::completions),
        Route::new(Inference, "/v1/embeddings").post(openai::embeddings),
        Route::new(Inference, "/v1/rerank").post(openai::rerank),
        Route::new(Inference, "/v1/audio/speech").post(openai::speech),
        Route::new(Inference, "/v1/audio/transcriptions").post(openai::transcriptions),
        Route::new(Inference, "/v1/audio/translations").post(openai::translations),
        Route::new(Inference, "/v1/leases")
            .post(leases::hold)
            .delete(leases::let_go),
        Route::new(Inference, fields::TOKENIZE).post(openai::rest),
        Route::new(Inference, fields::DETOKENIZE).post(openai::rest),
        Route::new(Inference, fields::TEMPLATE).post(openai::rest),
        Route::new(Inference, fields::INFILL).post(openai::rest),
        Route::new(Inference, fields::REST).post(openai::rest),
    ]
}

/// The inference port.
pub fn app(service: Service) -> App {
    table::app(routes(), service, Port::Inference)
}
