//! From `rope_scaling` to frequencies: pure arithmetic, no arrays.
//!
//! Sources of the formulas: linear, Chen et al. (arXiv 2306.15595); dynamic,
//! the "NTK-aware" base of Peng et al. (arXiv 2309.00071, section 3.1) as Hugging
//! Face transformers names it; yarn, the same paper, sections 3.2 and 3.4; llama3,
//! the reference code of Llama 3.1; longrope, which Phi 3 calls su, Ding et al. (arXiv
//! 2402.13753) with the magnitude of Phi 3's reference code. Constants and names of keys as in transformers
//! (`modeling_rope_utils`) and mlx-lm (`rope_utils`).

use std::f64::consts::PI;

use serde_json::{Map, Value};

/// How fast each pair turns, and how much longer the turned vector gets.
#[derive(Clone, Debug, PartialEq)]
pub struct Frequencies {
    /// Radians for each position, one for each pair.
    pub inverse: Vec<f32>,
    /// Factor on the turned numbers, of queries and keys alike.
    pub magnitude: f32,
}

/// What a checkpoint says about its rotation.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaling {
    /// `rope_theta`
    pub base: f64,
    /// `rope_scaling` or `rope_parameters`, as typed.
    pub settings: Map<String, Value>,
    /// `max_position_embeddings`: positions the checkpoint was made for.
    pub positions: u32,
    /// Positions that are going to be used.
    pub context: u32,
}

impl Scaling {
    /// The frequencies for heads of which `dimensions` numbers turn; a message
    /// that names the key if the settings are incomplete or unknown.
    pub fn frequencies(&self, dimensions: i32) -> Result<Frequencies, String> {
        let plain = |base: f64| -> Vec<f64> {
            (0..dimensions / 2)
                .map(|pair| base.powf(-2.0 * f64::from(pair) / f64::from(dimensions)))
                .collect()
        };
        let inverse = match self.kind() {
            "default" => plain(self.base),
            "linear" => {
                let factor = self.required("factor")?;
                plain(self.base).iter().map(|f| f / factor).collect()
            }
            "dynamic" => plain(self.dynamic_base(f64::from(dimensions))?),
            "llama3" => self.llama3(&plain(self.base))?,
            "yarn" => return self.yarn(&plain(self.base)),
            "longrope" | "su" => return self.longrope(&plain(self.base)),
            other => {
                return Err(format!(
                    "rope_scaling of type \"{other}\" is not supported; supported are default, \
                     linear, dynamic, llama3, yarn and longrope"
                ));
            }
        };
        Ok(narrow(&inverse, 1.0))
    }

    /// Old checkpoints say `type`, newer ones `rope_type`, some both.
    fn kind(&self) -> &str {
        ["rope_type", "type"]
            .iter()
            .find_map(|key| self.settings.get(*key)?.as_str())
            .unwrap_or("default")
    }

    /// The base grows with the length. Reference code grows it while a sequence
    /// grows, so that older keys keep another turn than newer ones and a prompt
    /// gives other logits in one piece than in two. Here the length is that of
    /// the context, once: within the positions of the checkpoint it changes nothing.
    fn dynamic_base(&self, dimensions: f64) -> Result<f64, String> {
        let factor = self.required("factor")?;
        let stretch = f64::from(self.context.max(self.positions)) / f64::from(self.positions);
        let growth = factor * stretch - (factor - 1.0);
        Ok(self.base * growth.powf(dimensions / (dimensions - 2.0)))
    }

    /// Long waves are stretched by the factor, short ones stay, between them
    /// the share goes from one to the other.
    fn llama3(&self, plain: &[f64]) -> Result<Vec<f64>, String> {
        let factor = self.required("factor")?;
        let low = self.number("low_freq_factor").unwrap_or(1.0);
        let high = self.number("high_freq_factor").unwrap_or(4.0);
        let original = self
            .number("original_max_position_embeddings")
            .unwrap_or(8192.0);
        let scaled = plain.iter().map(|frequency| {
            let length = 2.0 * PI / frequency;
            if length > original / low {
                frequency / factor
            } else if length < original / high {
                *frequency
            } else {
                let share = (original / length - low) / (high - low);
                (1.0 - share) * frequency / factor + share * frequency
            }
        });
        Ok(scaled.collect())
    }

    fn yarn(&self, plain: &[f64]) -> Result<Frequencies, String> {
        let factor = self.required("factor")?;
        let original = self
            .number("original_max_position_embeddings")
            .unwrap_or(f64::from(self.positions));
        let pairs = plain.len() as f64;
        // The pair that makes so many turns within the original positions.
        let pair_of = |turns: f64| pairs * (original / (turns * 2.0 * PI)).ln() / self.base.ln();
        let mut low = pair_of(self.number("beta_fast").unwrap_or(32.0));
        let mut high = pair_of(self.number("beta_slow").unwrap_or(1.0));
        if self.settings.get("truncate").and_then(Value::as_bool) != Some(false) {
            (low, high) = (low.floor(), high.ceil());
        }
        low = low.max(0.0);
        high = high.min(2.0 * pairs - 1.0);
        if low == high {
            high += 0.001;
        }
        let inverse: Vec<f64> = plain
            .iter()
            .enumerate()
            .map(|(pair, frequency)| {
                let stretched = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
                frequency * (1.0 - stretched) + frequency / factor * stretched
            })
            .collect();
        Ok(narrow(&inverse, self.yarn_magnitude(factor)))
    }

    fn yarn_magnitude(&self, factor: f64) -> f64 {
        if let Some(given) = self.number("attention_factor") {
            return given;
        }
        let magnitude = |weight: f64| {
            if factor <= 1.0 {
                1.0
            } else {
                0.1 * weight * factor.ln() + 1.0
            }
        };
        let above = self.number("mscale").unwrap_or(1.0);
        let below = self.number("mscale_all_dim").unwrap_or(0.0);
        magnitude(above) / magnitude(below)
    }

    /// Each pair is slowed down by a number of its own, of which there are two lists:
    /// one for sequences within the original positions, one for longer ones. Reference
    /// code changes the list while a sequence grows; here, as with the dynamic base,
    /// the context decides. (mlx-lm always takes the long list.)
    fn longrope(&self, plain: &[f64]) -> Result<Frequencies, String> {
        let original = self.required("original_max_position_embeddings")?;
        let list = match f64::from(self.context) > original {
            true => "long_factor",
            false => "short_factor",
        };
        let factors = self.settings.get(list).and_then(Value::as_array);
        let factors: Option<Vec<f64>> = factors
            .filter(|factors| factors.len() == plain.len())
            .and_then(|factors| factors.iter().map(Value::as_f64).collect())
            .filter(|factors: &Vec<f64>| factors.iter().all(|factor| *factor > 0.0));
        let factors = factors.ok_or_else(|| {
            format!(
                "rope_scaling of type \"{}\" needs {} positive numbers as \"{list}\"",
                self.kind(),
                plain.len()
            )
        })?;
        let stretch = f64::from(self.positions) / original;
        let magnitude = self
            .number("attention_factor")
            .unwrap_or_else(|| match stretch > 1.0 {
                true => (1.0 + stretch.ln() / original.ln()).sqrt(),
                false => 1.0,
            });
        let slowed = plain.iter().zip(&factors).map(|(f, factor)| f / factor);
        Ok(narrow(&slowed.collect::<Vec<f64>>(), magnitude))
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.settings.get(key)?.as_f64()
    }

    fn required(&self, key: &str) -> Result<f64, String> {
        self.number(key).filter(|n| *n > 0.0).ok_or_else(|| {
            format!(
                "rope_scaling of type \"{}\" needs a positive number as \"{key}\"",
                self.kind()
            )
        })
    }
}

fn narrow(inverse: &[f64], magnitude: f64) -> Frequencies {
    Frequencies {
        inverse: inverse.iter().map(|f| *f as f32).collect(),
        magnitude: magnitude as f32,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scaling(settings: Value, context: u32) -> Scaling {
        let Value::Object(settings) = settings else {
            panic!("expected an object");
        };
        Scaling {
            base: 10_000.0,
            settings,
            positions: 2048,
            context,
        }
    }

    /// Frequencies of the first, the middle and the last of 32 pairs, and the magnitude.
    fn check(settings: Value, context: u32, expected: [f64; 3], magnitude: f32) {
        let found = scaling(settings.clone(), context).frequencies(64).unwrap();
        for (pair, expected) in [0, 16, 31].into_iter().zip(expected) {
            let ratio = f64::from(found.inverse[pair]) / expected;
            assert!(
                (ratio - 1.0).abs() < 1e-5,
                "{settings} pair {pair}: {found:?}"
            );
        }
        assert!((found.magnitude - magnitude).abs() < 1e-6, "{settings}");
    }

    #[test]
    fn frequencies_follow_their_formulas() {
        let last = 10_000f64.powf(-62.0 / 64.0);
        check(json!({}), 2048, [1.0, 0.01, last], 1.0);
        check(
            json!({"rope_type": "default"}),
            9999,
            [1.0, 0.01, last],
            1.0,
        );
        check(
            json!({"type": "linear", "rope_type": "linear", "factor": 4.0}),
            2048,
            [0.25, 0.0025, last / 4.0],
            1.0,
        );
        // Within the positions of the checkpoint nothing changes.
        check(
            json!({"type": "dynamic", "factor": 2}),
            2048,
            [1.0, 0.01, last],
            1.0,
        );
        // Twice the positions with factor 2: the base times 3^(64/62).
        let base = 10_000.0 * 3f64.powf(64.0 / 62.0);
        check(
            json!({"type": "dynamic", "factor": 2.0}),
            4096,
            [1.0, base.powf(-0.5), base.powf(-62.0 / 64.0)],
            1.0,
        );
        // Pair 16 has a wave of 628 positions, between 2048 / 4 and 2048.
        let share = (2048.0 * 0.01 / (2.0 * PI) - 1.0) / 3.0;
        check(
            json!({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 2048}),
            2048,
            [1.0, 0.01 * (share + (1.0 - share) / 8.0), last / 8.0],
            1.0,
        );
        // Ramp from pair 8 to pair 21 (2048 / (32 · 2π) and 2048 / 2π turns).
        let stretched = 8.0 / 13.0;
        check(
            json!({"type": "yarn", "factor": 4.0}),
            2048,
            [
                1.0,
                0.01 * (1.0 - stretched) + 0.0025 * stretched,
                last / 4.0,
            ],
            0.138_629_44 + 1.0,
        );
    }

    /// A list for each length of context, and the magnitude of both.
    #[test]
    fn the_context_chooses_the_list_of_a_long_rotation() {
        let settings = json!({
            "type": "longrope", "original_max_position_embeddings": 512,
            "short_factor": vec![1.0; 32], "long_factor": vec![4.0; 32],
        });
        let last = 10_000f64.powf(-62.0 / 64.0);
        // A fourfold stretch: √(1 + ln 4 / ln 512) = √(1 + 2 / 9).
        let magnitude = (11f32 / 9.0).sqrt();
        check(settings.clone(), 512, [1.0, 0.01, last], magnitude);
        let slowed = [0.25, 0.0025, last / 4.0];
        check(settings, 513, slowed, magnitude);
    }

    #[test]
    fn settings_that_cannot_be_followed_are_named() {
        for (settings, part) in [
            (json!({"type": "mrope"}), "\"mrope\" is not supported"),
            (
                json!({"type": "su"}),
                "\"original_max_position_embeddings\"",
            ),
            (
                json!({"type": "su", "original_max_position_embeddings": 64,
                    "long_factor": [1.0, 2.0]}),
                "needs 32 positive numbers as \"long_factor\"",
            ),
            (json!({"type": "linear"}), "\"factor\""),
            (json!({"type": "yarn", "factor": 0}), "\"factor\""),
        ] {
            let message = scaling(settings, 2048).frequencies(64).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }
}
