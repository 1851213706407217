//! `model_type: deepseek_v3`: deepseek_v2 with experts that count each by itself and are
//! chosen with a correction (arXiv 2412.19437).

use super::{Source, deepseek_v2};
use crate::engine::EngineError;
use crate::engine::mlx::decoder::arguments::own;
use crate::engine::mlx::decoder::design::{Design, Shares};

/// Experts of a group by which it is judged.
const JUDGED_BY: i32 = 2;

/// The design that a configuration asks for.
pub fn design(source: &Source) -> Result<Design, EngineError> {
    let own: deepseek_v2::Own = own(source.config)?;
    match own.scoring_func.as_deref() {
        None | Some("sigmoid") => {}
        Some(other) => return Err(deepseek_v2::unsupported("scoring_func", other)),
    }
    let whole = own.norm_topk_prob.unwrap_or(true);
    let shares = Shares::Apart { whole };
    let mut design = deepseek_v2::plain(source, &own, shares, Some(JUDGED_BY))?;
    design.drafts = true;
    Ok(design)
}
