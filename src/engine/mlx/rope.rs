//! Rotary position embeddings and their scalings.
