//! One file per architecture, named as checkpoints name it.

pub mod llama;
