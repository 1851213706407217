//! Where the binary looks for MLX when it starts.
//!
//! On Linux the set-up provides MLX as shared libraries and says where through
//! the `rpath` key of `.cargo/mlx.toml`, which cargo hands on because `mlx-sys`
//! declares `links = "mlx"`. Elsewhere nothing is to do.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=DEP_MLX_RPATH");
    let Ok(folders) = env::var("DEP_MLX_RPATH") else {
        return;
    };
    for folder in folders.split(':') {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{folder}");
    }
    // This library must be loaded even by a program that calls nothing in it:
    // its BLAS stands in front of the slow one that MLX brings.
    println!("cargo::rustc-link-arg=-Wl,--no-as-needed,-lroundhouse_native,--as-needed");
}
