//! Tensor names of the llama architecture: GGUF's to Hugging Face's.
//! Source: `MODEL_TENSOR` names in llama.cpp's `gguf-py/gguf/constants.py`.

/// What a GGUF tensor is in a Hugging Face snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Its name with the ending `.weight` or `.bias`.
    pub(super) name: String,
    /// How it is treated.
    pub(super) role: Role,
}

/// How a tensor is treated on import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The token embedding or the output head: the layers that suffer most from few bits.
    Vocabulary,
    /// A matrix inside a layer.
    Matrix,
    /// A matrix or bias whose rows llama.cpp's converter has put into another order.
    Queries,
    /// As `Queries`, over the KV heads.
    Keys,
    /// Norms and biases: small, kept as float32.
    Small,
    /// Rope factors: told by `config.json` instead.
    RopeFactors,
}

/// The place of a GGUF tensor; nothing if the llama architecture has no such tensor.
pub(super) fn place(name: &str) -> Option<Place> {
    let (stem, ending) = name.rsplit_once('.')?;
    if !matches!(ending, "weight" | "bias") {
        return None;
    }
    let (stem, role) = match stem {
        "token_embd" => ("model.embed_tokens".to_owned(), Role::Vocabulary),
        "output" => ("lm_head".to_owned(), Role::Vocabulary),
        "output_norm" => ("model.norm".to_owned(), Role::Small),
        "rope_freqs" => ("rope_freqs".to_owned(), Role::RopeFactors),
        _ => {
            let (layer, part) = stem.strip_prefix("blk.")?.split_once('.')?;
            let layer: u32 = layer.parse().ok()?;
            let (part, role) = layer_part(part)?;
            (format!("model.layers.{layer}.{part}"), role)
        }
    };
    let role = match (ending, role) {
        ("bias", Role::Vocabulary | Role::Matrix) => Role::Small,
        (_, role) => role,
    };
    Some(Place {
        name: format!("{stem}.{ending}"),
        role,
    })
}

/// A part of one layer.
fn layer_part(part: &str) -> Option<(&'static str, Role)> {
    Some(match part {
        "attn_norm" => ("input_layernorm", Role::Small),
        "attn_q" => ("self_attn.q_proj", Role::Queries),
        "attn_k" => ("self_attn.k_proj", Role::Keys),
        "attn_v" => ("self_attn.v_proj", Role::Matrix),
        "attn_output" => ("self_attn.o_proj", Role::Matrix),
        "ffn_norm" => ("post_attention_layernorm", Role::Small),
        "ffn_gate" => ("mlp.gate_proj", Role::Matrix),
        "ffn_up" => ("mlp.up_proj", Role::Matrix),
        "ffn_down" => ("mlp.down_proj", Role::Matrix),
        _ => return None,
    })
}

/// Puts the rows of a query or key tensor back into the order of the checkpoint.
///
/// llama.cpp rotates neighbouring pairs of a head, Hugging Face a number with
/// the one half a head further on; its converter (`LlamaModel.permute`) therefore
/// interleaves the two halves of each head. Row `2·j + i` of a head in the file
/// is row `i·half + j` of the checkpoint.
pub(super) fn restore_rows(bytes: &[u8], heads: usize, row_bytes: usize) -> Vec<u8> {
    let rows = bytes.len() / row_bytes;
    let head_rows = rows / heads;
    let half = head_rows / 2;
    let mut out = Vec::with_capacity(bytes.len());
    for head in 0..heads {
        for row in 0..head_rows {
            let from = head * head_rows + 2 * (row % half) + row / half;
            out.extend_from_slice(&bytes[from * row_bytes..(from + 1) * row_bytes]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_architecture_and_no_others() {
        let check = |gguf: &str, expected: Option<(&str, Role)>| {
            let got = place(gguf);
            let got = got.as_ref().map(|place| (place.name.as_str(), place.role));
            assert_eq!(got, expected, "{gguf}");
        };
        let embed = ("model.embed_tokens.weight", Role::Vocabulary);
        check("token_embd.weight", Some(embed));
        check("output.weight", Some(("lm_head.weight", Role::Vocabulary)));
        let query = ("model.layers.7.self_attn.q_proj.weight", Role::Queries);
        check("blk.7.attn_q.weight", Some(query));
        let bias = ("model.layers.7.self_attn.v_proj.bias", Role::Small);
        check("blk.7.attn_v.bias", Some(bias));
        let norm = ("model.layers.0.input_layernorm.weight", Role::Small);
        check("blk.0.attn_norm.weight", Some(norm));
        check("blk.0.ffn_gate_exps.weight", None);
        check("blk.x.attn_q.weight", None);
        check("blk.-1.attn_q.weight", None);
        check("v.patch_embd.weight", None);
        check("token_embd", None);
    }

    #[test]
    fn rows_return_to_where_the_converter_took_them_from() {
        // Two heads of four rows, one byte each. The converter's reshape to
        // (heads, 2, half) with the last two axes swapped, written out by hand:
        let converted = [0, 2, 1, 3, 4, 6, 5, 7];
        assert_eq!(restore_rows(&converted, 2, 1), [0, 1, 2, 3, 4, 5, 6, 7]);
    }
}
