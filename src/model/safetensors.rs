//! Headers of safetensors files, checked.
