//! What `quantization` in `config.json` says: which layers are packed, and how.
//!
//! The form is mlx-lm's: `group_size`, `bits` and `mode` for all layers, and for
//! some the path of the layer as a key with its own settings, or `false`. A layer
//! without such a key is packed if it has scales.

use std::ffi::CStr;

use serde_json::{Map, Value};

use crate::engine::EngineError;

/// A form that MLX packs matrices in: integers of `bits`, and for each `group_size` of a
/// row what makes numbers of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// Integers that share a scale.
    pub group_size: i32,
    /// Bits of an integer.
    pub bits: i32,
    /// What makes numbers of integers.
    pub mode: Mode,
}

/// From integers to numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// By a scale and a bias.
    #[default]
    Affine,
    /// They are numbers of four bits (E2M1) times a power of two (OCP Microscaling Formats
    /// 1.0, section 5.3).
    Mxfp4,
}

impl Mode {
    const ALL: [Self; 2] = [Self::Affine, Self::Mxfp4];

    /// MLX's name.
    pub fn name(self) -> &'static CStr {
        match self {
            Self::Affine => c"affine",
            Self::Mxfp4 => c"mxfp4",
        }
    }
}

/// Which layers are packed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Quantization {
    settings: Option<Map<String, Value>>,
}

impl Quantization {
    /// From the whole of `config.json`.
    pub fn from_config(config: &Map<String, Value>) -> Result<Self, EngineError> {
        let given = |key: &str| config.get(key).filter(|value| !value.is_null());
        let Some(value) = given("quantization").or_else(|| given("quantization_config")) else {
            return Ok(Self::default());
        };
        let Value::Object(settings) = value else {
            return Err(unsupported("expected a mapping as \"quantization\""));
        };
        // Other packers write only `quantization_config`, with their method.
        if let Some(method) = settings.get("quant_method").and_then(Value::as_str) {
            return Err(unsupported(&format!(
                "weights are packed by \"{method}\"; only MLX's own forms are supported"
            )));
        }
        Packing::read("quantization", settings)?;
        Ok(Self {
            settings: Some(settings.clone()),
        })
    }

    /// How the layer at `path` is packed, if it is.
    pub fn packing(&self, path: &str, has_scales: bool) -> Result<Option<Packing>, EngineError> {
        let Some(settings) = &self.settings else {
            return match has_scales {
                false => Ok(None),
                true => Err(unsupported(&format!(
                    "{path} is packed, but config.json has no \"quantization\""
                ))),
            };
        };
        match settings.get(path) {
            Some(Value::Bool(false)) => Ok(None),
            Some(Value::Object(own)) => {
                // What an override leaves out is as for all, but for the mode.
                let mut merged = settings.clone();
                merged.remove("mode");
                merged.extend(own.clone());
                Packing::read(path, &merged).map(Some)
            }
            _ if has_scales => Packing::read("quantization", settings).map(Some),
            _ => Ok(None),
        }
    }
}

impl Packing {
    fn read(place: &str, settings: &Map<String, Value>) -> Result<Self, EngineError> {
        let mode = settings.get("mode").map_or(Some("affine"), Value::as_str);
        let mut modes = Mode::ALL.into_iter();
        let mode = modes
            .find(|known| known.name().to_str().ok() == mode)
            .ok_or_else(|| {
                unsupported(&format!(
                    "{place}: quantisation mode {} is not supported, only \"affine\" and \
                     \"mxfp4\" are",
                    mode.unwrap_or("of no name")
                ))
            })?;
        let number = |key: &str, allowed: &[i64]| {
            let found = settings.get(key).and_then(Value::as_i64);
            found
                .filter(|n| allowed.contains(n))
                .map(|n| n as i32)
                .ok_or_else(|| {
                    let found = found.map_or("nothing".to_owned(), |n| n.to_string());
                    unsupported(&format!(
                        "{place}: expected one of {allowed:?} as \"{key}\", found {found}"
                    ))
                })
        };
        let (group_sizes, bits): (&[i64], &[i64]) = match mode {
            Mode::Affine => (&[32, 64, 128], &[2, 3, 4, 6, 8]),
            Mode::Mxfp4 => (&[32], &[4]),
        };
        Ok(Self {
            group_size: number("group_size", group_sizes)?,
            bits: number("bits", bits)?,
            mode,
        })
    }

    /// 32-bit words that hold one row of `inputs` integers.
    pub fn words(&self, path: &str, inputs: i32) -> Result<i32, EngineError> {
        if inputs % self.group_size != 0 {
            return Err(unsupported(&format!(
                "{path}: rows of {inputs} do not divide into groups of {}",
                self.group_size
            )));
        }
        Ok(inputs / 32 * self.bits)
    }
}

fn unsupported(message: &str) -> EngineError {
    EngineError::Unsupported(message.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(
        config: Value,
        path: &str,
        has_scales: bool,
        expected: Result<Option<(i32, i32)>, &str>,
    ) {
        let Value::Object(config) = config else {
            panic!("expected an object");
        };
        let found = Quantization::from_config(&config)
            .and_then(|quantization| quantization.packing(path, has_scales));
        match (found, expected) {
            (Ok(found), Ok(expected)) => {
                let found = found.map(|packing| (packing.group_size, packing.bits));
                assert_eq!(found, expected, "{path} of {config:?}");
            }
            (Err(error), Err(part)) => {
                assert!(error.to_string().contains(part), "{error}");
            }
            (found, expected) => panic!("{path}: found {found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn layers_are_packed_as_the_configuration_says() {
        let all = json!({"quantization": {
            "group_size": 64, "bits": 4, "mode": "affine",
            "lm_head": false,
            "model.layers.0.mlp.down_proj": {"group_size": 32, "bits": 8},
            "model.layers.1.mlp.down_proj": {"bits": 6},
        }});
        check(all.clone(), "model.embed_tokens", true, Ok(Some((64, 4))));
        check(all.clone(), "model.embed_tokens", false, Ok(None));
        check(all.clone(), "lm_head", true, Ok(None));
        check(
            all.clone(),
            "model.layers.0.mlp.down_proj",
            true,
            Ok(Some((32, 8))),
        );
        check(all, "model.layers.1.mlp.down_proj", true, Ok(Some((64, 6))));
        check(json!({}), "lm_head", false, Ok(None));
        check(json!({"quantization": null}), "lm_head", false, Ok(None));
        let later = json!({"quantization_config": {"group_size": 128, "bits": 2}});
        check(later, "lm_head", true, Ok(Some((128, 2))));
    }

    #[test]
    fn an_override_without_a_mode_is_affine() {
        let config = json!({"quantization": {
            "group_size": 32, "bits": 4, "mode": "mxfp4",
            "router": {"group_size": 64, "bits": 8},
            "experts": {"group_size": 32, "bits": 4, "mode": "mxfp4"},
        }});
        let quantization = Quantization::from_config(config.as_object().expect("a mapping"));
        let quantization = quantization.expect("settings");
        for (path, bits, mode) in [
            ("router", 8, Mode::Affine),
            ("experts", 4, Mode::Mxfp4),
            ("else", 4, Mode::Mxfp4),
        ] {
            let packing = quantization.packing(path, true).expect(path).expect(path);
            assert_eq!((packing.bits, packing.mode), (bits, mode), "{path}");
        }
    }

    #[test]
    fn what_cannot_be_run_is_named() {
        check(json!({}), "lm_head", true, Err("lm_head is packed"));
        for (settings, part) in [
            (
                json!({"group_size": 48, "bits": 4}),
                "\"group_size\", found 48",
            ),
            (json!({"group_size": 64, "bits": 5}), "\"bits\", found 5"),
            (json!({"bits": 4}), "found nothing"),
            (
                json!({"group_size": 16, "bits": 4, "mode": "nvfp4"}),
                "nvfp4",
            ),
            (
                json!({"group_size": 64, "bits": 4, "mode": "mxfp4"}),
                "\"group_size\", found 64",
            ),
            (json!({"quant_method": "gptq", "bits": 4}), "\"gptq\""),
            (json!([1]), "mapping"),
        ] {
            check(json!({"quantization": settings}), "x", true, Err(part));
        }
        let packing = Packing {
            group_size: 64,
            bits: 4,
            mode: Mode::Affine,
        };
        assert!(packing.words("x", 96).is_err());
        assert_eq!(packing.words("x", 128), Ok(16));
    }
}
