//! Low-rank adapters (LoRA, arXiv 2106.09685) as they lie in a folder: which pair of
//! matrices stands beside which layer, and what it counts. From the configuration and the
//! header alone; the numbers are for the engine to read, and no folder is looked through.
//!
//! Two forms are known. mlx-lm's (`mlx_lm/tuner`, MIT): `LAYER.lora_a` `[inputs, rank]` and
//! `LAYER.lora_b` `[rank, outputs]`, the factor is `lora_parameters.scale`. PEFT's
//! (`peft/tuners/lora`, Apache 2.0): `base_model.model.LAYER.lora_A.weight`
//! `[rank, inputs]` and `….lora_B.weight` `[outputs, rank]`, the factor is
//! `lora_alpha / r`, or over the root of `r` (arXiv 2312.03732).

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::json;
use super::safetensors::{Dtype, Header, TensorInfo};

/// The configuration of an adapter, in both forms.
pub const CONFIG: &str = "adapter_config.json";

/// Largest configuration, bytes.
const LARGEST_CONFIG: u64 = 1 << 20;

/// Largest rank. Published ones have up to 256.
const LARGEST_RANK: u64 = 4096;

/// What stands before the names of layers in PEFT's files.
const PEFT_PREFIX: &str = "base_model.model.";

/// Who wrote an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// mlx-lm.
    MlxLm,
    /// PEFT.
    Peft,
}

/// An adapter: a pair of matrices for each layer that it changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// Who wrote it.
    pub form: Form,
    /// The pairs, in the order of their layers' names.
    pub pairs: Vec<Pair>,
}

/// What stands beside a layer: what goes into it, times the first matrix, times the
/// second, times the factor, is added to what comes out.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The layer, as checkpoints call it: `model.layers.0.self_attn.q_proj`.
    pub layer: String,
    /// The names of the two matrices in the file.
    pub names: [String; 2],
    /// Numbers between the two.
    pub rank: u64,
    /// Numbers that go into the layer.
    pub inputs: u64,
    /// Numbers that come out of it.
    pub outputs: u64,
    /// The factor.
    pub factor: f32,
}

/// Why a folder is not taken for an adapter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file} {problem}")]
pub struct AdapterError {
    /// The file of the adapter.
    pub file: &'static str,
    /// A phrase that goes after its name.
    pub problem: String,
}

impl Form {
    /// All of them, that of the same engine first.
    pub const ALL: [Self; 2] = [Self::MlxLm, Self::Peft];

    /// The file with the numbers.
    pub fn weights(self) -> &'static str {
        match self {
            Self::MlxLm => "adapters.safetensors",
            Self::Peft => "adapter_model.safetensors",
        }
    }

    /// That of an adapter, by which files there are.
    pub fn of(has: impl Fn(&str) -> bool) -> Option<Self> {
        Self::ALL.into_iter().find(|form| has(form.weights()))
    }

    /// The layer of a matrix, and whether it is the second of its pair.
    fn place(self, name: &str) -> Option<(&str, bool)> {
        let (name, ends) = match self {
            Self::MlxLm => (name, [".lora_a", ".lora_b"]),
            Self::Peft => (
                name.strip_prefix(PEFT_PREFIX)?,
                [".lora_A.weight", ".lora_B.weight"],
            ),
        };
        let of = |second: bool| Some((name.strip_suffix(ends[usize::from(second)])?, second));
        of(false).or_else(|| of(true))
    }
}

impl Adapter {
    /// Reads the configuration and the header of the numbers.
    ///
    /// # Errors
    /// It is no adapter, or one of a kind that is not supported.
    pub fn read(config: &Path, weights: &Path, form: Form) -> Result<Self, AdapterError> {
        let in_config = |problem| AdapterError {
            file: CONFIG,
            problem,
        };
        let text = json::read_file(config, LARGEST_CONFIG).map_err(in_config)?;
        let said = json::parse(&text).map_err(in_config)?;
        let factor = match said.as_object() {
            Some(said) => factor(said, form).map_err(in_config)?,
            None => return Err(in_config("is no JSON object".to_owned())),
        };
        let in_weights = |problem| AdapterError {
            file: form.weights(),
            problem,
        };
        let header = Header::open(weights).map_err(|error| in_weights(error.to_string()))?;
        let pairs = pairs(&header.tensors, form, factor).map_err(in_weights)?;
        Ok(Self { form, pairs })
    }

    /// The same of a folder whose files are known to be its own.
    ///
    /// # Errors
    /// As above.
    pub fn open(dir: &Path) -> Result<Self, AdapterError> {
        let form = Form::of(|name| dir.join(name).exists()).unwrap_or(Form::MlxLm);
        Self::read(&dir.join(CONFIG), &dir.join(form.weights()), form)
    }

    /// Bytes of its numbers as they are held: in float32, whatever they are stored in.
    pub fn bytes_held(&self) -> u64 {
        let numbers = self.pairs.iter().map(|pair| {
            let sides = pair.inputs.saturating_add(pair.outputs);
            pair.rank.saturating_mul(sides)
        });
        numbers.fold(0, u64::saturating_add).saturating_mul(4)
    }
}

/// The factor that a configuration gives, if the adapter is of a kind that is known.
fn factor(said: &Map<String, Value>, form: Form) -> Result<f32, String> {
    let factor = match form {
        Form::MlxLm => factor_of_mlx_lm(said)?,
        Form::Peft => factor_of_peft(said)?,
    };
    // Narrower than what the file says, as the engine's numbers are.
    let factor = factor as f32;
    match factor.is_finite() {
        true => Ok(factor),
        false => Err("gives a factor that is no number".to_owned()),
    }
}

fn factor_of_mlx_lm(said: &Map<String, Value>) -> Result<f64, String> {
    let kind = match said.get("fine_tune_type") {
        None => "lora",
        Some(kind) => kind.as_str().unwrap_or("no text"),
    };
    if kind != "lora" {
        return Err(format!(
            "has the fine_tune_type {kind:?}; only \"lora\" is supported"
        ));
    }
    let scale = said.get("lora_parameters").and_then(|it| it.get("scale"));
    scale
        .and_then(Value::as_f64)
        .ok_or_else(|| "has no number as lora_parameters.scale".to_owned())
}

fn factor_of_peft(said: &Map<String, Value>) -> Result<f64, String> {
    let kind = said.get("peft_type").and_then(Value::as_str);
    if kind != Some("LORA") {
        let kind = kind.unwrap_or("nothing");
        return Err(format!(
            "has the peft_type {kind:?}; only \"LORA\" is supported"
        ));
    }
    // Each of these makes something else of the same matrices, or needs more than them.
    const BEYOND: [&str; 9] = [
        "use_dora",
        "use_qalora",
        "fan_in_fan_out",
        "modules_to_save",
        "rank_pattern",
        "alpha_pattern",
        "layer_replication",
        "trainable_token_indices",
        "target_parameters",
    ];
    let is_set = |key: &&str| match said.get(*key) {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Object(map)) => !map.is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(_) => true,
    };
    if let Some(key) = BEYOND.iter().find(|key| is_set(key)) {
        return Err(format!("asks for {key}, which is not supported"));
    }
    if !matches!(said.get("bias"), None | Some(Value::Null)) && said["bias"] != "none" {
        return Err("asks for biases, which are not supported".to_owned());
    }
    let number = |key: &str| {
        let found = said.get(key).and_then(Value::as_f64);
        found.ok_or_else(|| format!("has no number as {key}"))
    };
    let (alpha, rank) = (number("lora_alpha")?, number("r")?);
    match said.get("use_rslora") {
        Some(Value::Bool(true)) => Ok(alpha / rank.sqrt()),
        _ => Ok(alpha / rank),
    }
}

/// The pairs that the tensors of a file make. All of them have to belong to one.
fn pairs(tensors: &[TensorInfo], form: Form, factor: f32) -> Result<Vec<Pair>, String> {
    let mut found: BTreeMap<&str, [Option<&TensorInfo>; 2]> = BTreeMap::new();
    for tensor in tensors {
        let Some((layer, second)) = form.place(&tensor.name) else {
            return Err(format!(
                "has a tensor {:?}, which is no matrix of a low-rank pair",
                tensor.name
            ));
        };
        if !matches!(tensor.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16) {
            return Err(format!(
                "has a tensor {:?} in a number format that is not supported",
                tensor.name
            ));
        }
        found.entry(layer).or_default()[usize::from(second)] = Some(tensor);
    }
    if found.is_empty() {
        return Err("has no matrices".to_owned());
    }
    let pair = |(layer, found): (&str, [Option<&TensorInfo>; 2])| {
        let [Some(first), Some(second)] = found else {
            return Err(format!("has one matrix of two for {layer}"));
        };
        let (first_shape, second_shape) = (turned(first, form)?, turned(second, form)?);
        let ([rank, inputs], [outputs, again]) = (first_shape, second_shape);
        if rank != again || rank == 0 || rank > LARGEST_RANK {
            return Err(format!(
                "has matrices of the ranks {rank} and {again} for {layer}"
            ));
        }
        Ok(Pair {
            layer: layer.to_owned(),
            names: [first.name.clone(), second.name.clone()],
            rank,
            inputs,
            outputs,
            factor,
        })
    };
    found.into_iter().map(pair).collect()
}

/// The shape of a matrix as PEFT has it, `[outputs, inputs]`.
fn turned(tensor: &TensorInfo, form: Form) -> Result<[u64; 2], String> {
    match (tensor.shape.as_slice(), form) {
        ([outputs, inputs], Form::Peft) | ([inputs, outputs], Form::MlxLm) => {
            Ok([*outputs, *inputs])
        }
        (shape, _) => Err(format!(
            "has a tensor {:?} of {} dimensions; matrices of experts are not supported",
            tensor.name,
            shape.len()
        )),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;
    use crate::model::safetensors::header_for;

    /// Writes an adapter whose matrices have these names and shapes, all numbers zero.
    pub fn write(dir: &Path, form: Form, config: &Value, matrices: &[(&str, [u64; 2])]) {
        fs::write(dir.join(CONFIG), config.to_string()).expect("written");
        let named = matrices
            .iter()
            .map(|(name, shape)| (*name, Dtype::F32, shape.as_slice()));
        let mut bytes = header_for(named);
        let numbers: u64 = matrices.iter().map(|(_, shape)| shape[0] * shape[1]).sum();
        bytes.extend(vec![0; numbers as usize * 4]);
        fs::write(dir.join(form.weights()), bytes).expect("written");
    }

    fn check(form: Form, config: Value, matrices: &[(&str, [u64; 2])]) -> Result<Adapter, String> {
        let dir = tempfile::tempdir().expect("a folder");
        write(dir.path(), form, &config, matrices);
        let weights = dir.path().join(form.weights());
        let read = Adapter::read(&dir.path().join(CONFIG), &weights, form);
        read.map_err(|error| error.to_string())
    }

    const MLX_LM: [(&str, [u64; 2]); 2] = [
        ("model.layers.0.mlp.up_proj.lora_a", [64, 4]),
        ("model.layers.0.mlp.up_proj.lora_b", [4, 128]),
    ];
    const PEFT: [(&str, [u64; 2]); 2] = [
        (
            "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight",
            [4, 64],
        ),
        (
            "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight",
            [128, 4],
        ),
    ];

    #[test]
    fn both_forms_say_the_same() {
        let of_mlx_lm = json!({
            "fine_tune_type": "lora", "num_layers": 4,
            "lora_parameters": {"rank": 4, "scale": 2.5, "dropout": 0.0},
        });
        let of_mlx_lm = check(Form::MlxLm, of_mlx_lm, &MLX_LM).expect("an adapter");
        let of_peft = json!({
            "peft_type": "LORA", "r": 4, "lora_alpha": 10, "bias": "none",
            "modules_to_save": null, "rank_pattern": {}, "use_dora": false,
        });
        let of_peft = check(Form::Peft, of_peft, &PEFT).expect("an adapter");
        for adapter in [&of_mlx_lm, &of_peft] {
            let [pair] = adapter.pairs.as_slice() else {
                panic!("{adapter:?}");
            };
            assert_eq!(pair.layer, "model.layers.0.mlp.up_proj");
            let shape = [pair.rank, pair.inputs, pair.outputs];
            assert_eq!((shape, pair.factor), ([4, 64, 128], 2.5));
            assert_eq!(adapter.bytes_held(), 4 * (4 * 64 + 4 * 128));
        }
        let by_root = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 10, "use_rslora": true});
        let by_root = check(Form::Peft, by_root, &PEFT).expect("an adapter");
        assert_eq!(by_root.pairs[0].factor, 5.0);
    }

    #[test]
    fn what_is_no_adapter_of_ours_says_why() {
        let refused = |form, config, matrices: &[_], part: &str| {
            let error = check(form, config, matrices).expect_err(part);
            assert!(error.contains(part), "{error}");
        };
        let good = || json!({"lora_parameters": {"scale": 1.0}});
        refused(
            Form::MlxLm,
            json!({"fine_tune_type": "dora"}),
            &MLX_LM,
            "\"dora\"",
        );
        refused(
            Form::MlxLm,
            json!({"fine_tune_type": "full"}),
            &MLX_LM,
            "\"full\"",
        );
        refused(
            Form::MlxLm,
            json!({"lora_parameters": {"alpha": 16}}),
            &MLX_LM,
            "scale",
        );
        refused(Form::MlxLm, good(), &MLX_LM[..1], "one matrix of two");
        refused(Form::MlxLm, good(), &[], "no matrices");
        let extra = [MLX_LM[0], MLX_LM[1], ("lm_head.weight", [2, 2])];
        refused(Form::MlxLm, good(), &extra, "\"lm_head.weight\"");
        let ranks = [MLX_LM[0], (MLX_LM[1].0, [8, 128])];
        refused(Form::MlxLm, good(), &ranks, "ranks 4 and 8");
        let peft = |key: &str, value: Value| {
            let mut config = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8});
            config[key] = value;
            config
        };
        refused(Form::Peft, json!({"peft_type": "LOHA"}), &PEFT, "\"LOHA\"");
        refused(Form::Peft, peft("use_dora", json!(true)), &PEFT, "use_dora");
        let saved = peft("modules_to_save", json!(["lm_head"]));
        refused(Form::Peft, saved, &PEFT, "modules_to_save");
        refused(Form::Peft, peft("bias", json!("all")), &PEFT, "biases");
        refused(Form::Peft, peft("r", json!(0)), &PEFT, "no number");
    }
}
