//! `model_type: qwen3`: norms on each head of queries and keys (arXiv 2505.09388).

use super::{Source, qwen2};
use crate::engine::EngineError;
use crate::engine::mlx::decoder::design::{Design, QueryKeyNorm};

/// The design that a configuration asks for.
pub fn design(source: &Source) -> Result<Design, EngineError> {
    let args = source.arguments()?.with_base(1_000_000.0);
    let mut design = qwen2::plain(source, &args)?;
    design.query_key_norm = QueryKeyNorm::Head;
    Ok(design)
}
