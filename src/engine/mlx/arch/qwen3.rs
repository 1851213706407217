//! `model_type: qwen3`: norms on each head of queries and keys (arXiv 2505.09388).

use super::{Architecture, Checkpoint, decoder, qwen2};
use crate::engine::EngineError;
use crate::engine::mlx::decoder::design::QueryKeyNorm;

/// Takes a checkpoint's weights into a network.
pub fn load(checkpoint: Checkpoint) -> Result<Box<dyn Architecture>, EngineError> {
    let args = checkpoint.arguments()?.with_base(1_000_000.0);
    let mut design = qwen2::plain(&checkpoint, &args)?;
    design.query_key_norm = QueryKeyNorm::Head;
    decoder(checkpoint, design)
}
