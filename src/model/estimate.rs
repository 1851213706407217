//! What a model will need of memory.
