//! Reading GGUF files.
