//! Models as data on disk: how they are named, where the Hugging Face cache
//! keeps them, whether a snapshot is complete, what it needs of memory, and how
//! a GGUF file becomes a snapshot. Nothing here loads weights or knows HTTP.

pub mod adapter;
pub mod cache;
pub mod estimate;
pub mod gguf;
pub mod hub;
pub mod id;
pub mod import;
mod json;
pub mod kind;
pub mod manifest;
pub mod quantise;
pub mod safetensors;
pub mod sentence;
pub mod vocabulary;
