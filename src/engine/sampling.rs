//! From logits to a token. Pure: a row of logits in, a token out; the only
//! state is the tokens that penalties look back on and the random numbers.
//!
//! Order and formulas are those of mlx-lm (`mlx_lm/sample_utils.py`, 0.32):
//! logit bias, repetition penalty, presence and frequency penalty change the
//! logits; top-p, min-p and top-k then choose, **at temperature 1**, which
//! tokens remain; temperature only shapes the draw among those. One rule is
//! OpenAI's: presence and frequency penalties count all tokens that were
//! generated, none of the prompt (mlx-lm counts the last 20 of both).
//!
//! Log-probabilities are the log-softmax of the network's own logits, before
//! bias, penalties, a grammar and temperature. mlx-lm reports them before temperature and
//! filters too, but after bias and penalties. They are the same unless a bias or
//! a penalty is set; where one is, what the model thinks is the useful answer, it
//! is what OpenAI returns, and it lets nobody read logits through a bias.

mod filter;
mod math;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};

use rand::{Rng, SeedableRng, TryRng, rngs::SysRng, rngs::Xoshiro256PlusPlus};

use crate::engine::guide::Allowed;

/// OpenAI's API reference: the value that stands for "very unlikely", since JSON
/// has no minus infinity.
pub const LOWEST_LOGPROB: f32 = -9999.0;

/// How tokens are chosen. The default is OpenAI's: temperature 1, no filter, no
/// penalty.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the log-probabilities before the draw; 0 takes the most likely token.
    pub temperature: f32,
    /// Keeps the smallest set of tokens with at least this probability; 1 keeps
    /// all, and so does 0, as in mlx-lm.
    pub top_p: f32,
    /// Keeps this many of the most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keeps tokens at least this likely compared with the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of recent tokens (CTRL,
    /// arXiv 1909.05858); 1 changes nothing, and so does 0, as in mlx-lm.
    pub repetition_penalty: f32,
    /// How many of the last tokens, prompt and generated, the repetition penalty
    /// looks back on; 0 means all, as a Python slice does in mlx-lm.
    pub repetition_context: usize,
    /// Subtracted once from the logit of each token that has been generated.
    pub presence_penalty: f32,
    /// Subtracted from a token's logit for each time that it has been generated.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens. Tokens outside the vocabulary are left out.
    pub logit_bias: Vec<(u32, f32)>,
    /// Makes the draws repeatable: the same seed and the same logits give the same
    /// tokens, on every platform and whatever else runs. Without it they differ.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            repetition_context: 20,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}

/// A chosen token.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// The token.
    pub token: u32,
    /// Its log-probability, if it was asked for; never below [`LOWEST_LOGPROB`].
    pub logprob: Option<f32>,
    /// The most likely tokens with their log-probabilities, most likely first,
    /// lower ids first where they are equal.
    pub top: Vec<(u32, f32)>,
}

/// Chooses the tokens of one sequence.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    /// Rand promises that this generator's values never change: xoshiro256++ 1.0,
    /// seeded by SplitMix64, as its authors describe it (prng.di.unimi.it).
    random: Xoshiro256PlusPlus,
    recent: VecDeque<u32>,
    generated: HashMap<u32, u32>,
    /// The row as the network gave it; kept, since a new one each time costs more than
    /// filling it.
    raw: Vec<f32>,
}

impl Sampler {
    /// A sampler for one sequence.
    pub fn new(sampling: Sampling) -> Self {
        // Without the system's randomness (never seen) the draws stay valid, only
        // repeatable.
        let seed = sampling
            .seed
            .or_else(|| SysRng.try_next_u64().ok())
            .unwrap_or_default();
        Self {
            sampling,
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            recent: VecDeque::new(),
            generated: HashMap::new(),
            raw: Vec::new(),
        }
    }

    /// Tells the tokens of the prompt: the repetition penalty counts them, as in mlx-lm.
    pub fn observe_prompt(&mut self, tokens: &[u32]) {
        if self.penalises_repetition() {
            for token in tokens {
                self.remember(*token);
            }
        }
    }

    /// Chooses the next token. `logits` is one row, as long as the vocabulary; its
    /// content is used up. Only a token that is `allowed` is chosen; log-probabilities
    /// are the network's own all the same. `top_logprobs` (0..=20) asks for that many of the most
    /// likely tokens. A logit that is no number counts as impossible.
    ///
    /// # Panics
    /// Never; of an empty row the answer is token 0.
    pub fn sample(
        &mut self,
        logits: &mut [f32],
        allowed: Option<&Allowed>,
        top_logprobs: usize,
        want_logprob: bool,
    ) -> Sampled {
        // Choosing uses the row up, and bias, penalties and a grammar are no part of what
        // is told.
        let tells = want_logprob || top_logprobs > 0;
        if tells {
            self.raw.clear();
            self.raw.extend_from_slice(logits);
        }
        self.adjust(logits);
        if let Some(allowed) = allowed {
            allowed.apply(logits);
        }
        let token = self.choose(logits);
        self.observe_generated(token);
        if tells {
            return told(token, &self.raw, top_logprobs);
        }
        Sampled {
            token,
            logprob: None,
            top: Vec::new(),
        }
    }

    /// Bias and penalties, in mlx-lm's order.
    fn adjust(&self, logits: &mut [f32]) {
        for (token, bias) in &self.sampling.logit_bias {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit += bias;
            }
        }
        if self.penalises_repetition() {
            self.penalise_repetition(logits);
        }
        let (presence, frequency) = (
            self.sampling.presence_penalty,
            self.sampling.frequency_penalty,
        );
        if presence != 0.0 || frequency != 0.0 {
            for (token, count) in &self.generated {
                if let Some(logit) = logits.get_mut(*token as usize) {
                    *logit -= presence;
                    *logit -= frequency * *count as f32;
                }
            }
        }
    }

    /// Each token that occurs is changed once, however often it occurs.
    fn penalise_repetition(&self, logits: &mut [f32]) {
        let penalty = self.sampling.repetition_penalty;
        let mut tokens: Vec<u32> = self.recent.iter().copied().collect();
        tokens.sort_unstable();
        tokens.dedup();
        for token in tokens {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = if *logit < 0.0 {
                    *logit * penalty
                } else {
                    *logit / penalty
                };
            }
        }
    }

    fn choose(&mut self, logits: &mut [f32]) -> u32 {
        let sampling = &self.sampling;
        let (best, highest) = math::argmax(logits);
        if sampling.temperature == 0.0 || !highest.is_finite() {
            return best;
        }
        let inverse = 1.0 / sampling.temperature;
        let kept = filter::kept(
            logits,
            highest,
            sampling.top_p,
            sampling.min_p,
            sampling.top_k,
        );
        // One draw per token, also where it decides nothing: a seeded sequence then
        // consumes its random numbers at the same pace whatever the logits are.
        let draw = uniform(self.random.next_u64());
        let found = match kept {
            None => math::draw(logits, highest, inverse, draw).map(|at| at as u32),
            Some(tokens) => {
                let mut row: Vec<f32> = tokens.iter().map(|t| logits[*t as usize]).collect();
                math::draw(&mut row, highest, inverse, draw).map(|at| tokens[at])
            }
        };
        found.unwrap_or(best)
    }

    fn observe_generated(&mut self, token: u32) {
        if self.penalises_repetition() {
            self.remember(token);
        }
        if self.sampling.presence_penalty != 0.0 || self.sampling.frequency_penalty != 0.0 {
            *self.generated.entry(token).or_default() += 1;
        }
    }

    fn remember(&mut self, token: u32) {
        let context = self.sampling.repetition_context;
        if context != 0 && self.recent.len() == context {
            self.recent.pop_front();
        }
        self.recent.push_back(token);
    }

    fn penalises_repetition(&self) -> bool {
        let penalty = self.sampling.repetition_penalty;
        penalty != 1.0 && penalty > 0.0
    }
}

/// A chosen token with its log-probability and those of the most likely ones.
fn told(token: u32, raw: &[f32], top_logprobs: usize) -> Sampled {
    let normaliser = math::log_sum_exp(raw);
    let logprob = |logit: f32| {
        let value = logit - normaliser;
        // Written so that what is no number becomes the lowest.
        if value > LOWEST_LOGPROB {
            value
        } else {
            LOWEST_LOGPROB
        }
    };
    Sampled {
        token,
        logprob: Some(
            raw.get(token as usize)
                .map_or(LOWEST_LOGPROB, |l| logprob(*l)),
        ),
        top: filter::most_likely(raw, top_logprobs, f32::NEG_INFINITY)
            .into_iter()
            .map(|token| (token, logprob(raw[token as usize])))
            .collect(),
    }
}

/// 53 random bits as a number in 0..1.
fn uniform(bits: u64) -> f64 {
    (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}
