//! The MLX network: the only place that says `mlx_rs`. It knows weights,
//! layers and devices; it knows no text, no requests and no HTTP.

pub mod arch;
pub mod kv;
pub mod layers;
#[cfg(target_os = "linux")]
pub mod native;
pub mod rope;
pub mod weights;
