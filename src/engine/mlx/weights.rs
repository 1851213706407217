//! From safetensors to named arrays.
