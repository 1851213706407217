//! The index of the Hugging Face cache.
