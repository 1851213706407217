//! Times a matrix product of MLX: shows that MLX is linked and by which BLAS.
//!
//! `cargo run --release --example product [SIZE]` prints milliseconds and
//! billions of operations a second. On Linux `LD_DEBUG=bindings` shows which
//! library `cblas_sgemm` comes from.

use std::time::Instant;

use mlx_rs::{Array, Device, DeviceType, ops, random};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let size: i32 = std::env::args()
        .nth(1)
        .map_or(Ok(1024), |text| text.parse())?;
    Device::set_default(&Device::new(DeviceType::Cpu, 0));
    let normal = |key| random::normal::<f32>(&[size, size], None, None, &random::key(key)?);
    let (left, right) = (normal(1)?, normal(2)?);
    mlx_rs::transforms::eval([&left, &right])?;
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let start = Instant::now();
        let product: Array = ops::matmul(&left, &right)?;
        product.eval()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    let operations = 2.0 * f64::from(size).powi(3);
    println!(
        "{size}: {:.2} ms, {:.1} GFLOP/s",
        best * 1e3,
        operations / best / 1e9
    );
    Ok(())
}
