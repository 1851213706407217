//! The FFI edge: what MLX lacks on a CPU.
