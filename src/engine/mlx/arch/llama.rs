//! `model_type: llama`.
