//! A GGUF file becomes a snapshot in a cache tree.
