//! What a model will need of memory, from its headers and its configuration
//! alone. Pure. The room for KV caches is not decided here, only what one token
//! of one sequence takes; what was really seen replaces the guess elsewhere.

use super::kind::Kind;
use super::manifest::{Geometry, Manifest};
use crate::config::Compute;
use crate::config::kv::KvFormat;
use crate::engine::encoder::BATCH_TOKENS;
use crate::units::ByteSize;

/// A worker process without its model: code, MLX, tokenizer, HTTP, threads.
const PROCESS: u64 = 96 << 20;

/// Freed buffers that the engine lets MLX keep for its next arrays.
const BUFFERS: u64 = 128 << 20;

/// Tokens that the engine takes in at once.
const PREFILL_CHUNK: u64 = 512;

/// Longest sequence whose attention scores are counted: as for the default room
/// for caches. A longer one costs what the buffers above leave free.
const SCORED_TOKENS: u64 = 32_768;

/// A worker of the scripted engine without what its script touches.
const SCRIPTED_PROCESS: u64 = 24 << 20;

/// A process of an engine that is not ours without its model: many bring Python and a
/// large library along.
const FOREIGN_PROCESS: u64 = 256 << 20;

/// How a device holds a model and computes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    /// Whether 16-bit weights are held as they are stored, or widened to float32.
    pub widens_weights: bool,
    /// Bytes of a number in activations and KV caches.
    pub number: u64,
    /// Whether attention keeps its scores in memory, or fuses them away.
    pub keeps_scores: bool,
    /// In which form keys and values are kept.
    pub kv_format: KvFormat,
}

/// Bytes that a model needs besides the room for KV caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryNeed {
    /// Weights in the form in which the device holds them.
    pub weights: ByteSize,
    /// The process, and the arrays of the largest step.
    pub transient: ByteSize,
    /// KV cache of one token of one sequence.
    pub kv_per_token: ByteSize,
}

impl DeviceRule {
    /// The rule of the device that this build computes on: Metal on a Mac, else
    /// the CPU, which computes in float32 unless told otherwise and maps the
    /// weights as they are on disk.
    pub fn here(compute: Compute) -> Self {
        Self::of(cfg!(target_os = "macos"), compute)
    }

    /// The rule of a GPU or a CPU.
    pub fn of(gpu: bool, compute: Compute) -> Self {
        let wide = match compute {
            Compute::Auto => !gpu,
            Compute::Float32 => true,
            Compute::Float16 | Compute::Bfloat16 => false,
        };
        Self {
            widens_weights: gpu && wide,
            number: if wide { 4 } else { 2 },
            keeps_scores: !gpu,
            kv_format: KvFormat::Auto,
        }
    }

    /// The same with keys and values in this form.
    pub fn keeping(self, kv_format: KvFormat) -> Self {
        Self { kv_format, ..self }
    }
}

impl MemoryNeed {
    /// Weights and transient term.
    pub fn held(&self) -> ByteSize {
        self.weights.saturating_add(self.transient)
    }
}

/// What a model needs on a device. `context` is the longest sequence, tokens.
pub fn estimate(manifest: &Manifest, context: u32, rule: DeviceRule) -> MemoryNeed {
    let Some(geometry) = manifest.geometry.filter(|_| !manifest.scripted) else {
        return MemoryNeed {
            weights: ByteSize(manifest.weight_bytes),
            transient: ByteSize(SCRIPTED_PROCESS),
            kv_per_token: ByteSize::ZERO,
        };
    };
    // Products with experts are MLX's own, which reads numbers of one format alone.
    let widens = rule.widens_weights || geometry.experts > 0 && rule.number == 4;
    let widened = match widens {
        true => manifest.half_bytes,
        false => 0,
    };
    let unpacked = match manifest.quantization {
        Some(_) => geometry.unpacked.saturating_mul(rule.number),
        None => 0,
    };
    let context = u64::from(context);
    let (step, kv_per_token) = match manifest.kind {
        Kind::Chat => (
            step(&geometry, context, rule),
            kv_per_token(&geometry, rule),
        ),
        // It keeps nothing of a text.
        Kind::Embeddings | Kind::Rerank if manifest.is_decoder => {
            (texts(&geometry, context, rule), 0)
        }
        Kind::Embeddings | Kind::Rerank => (batch(&geometry, context, rule), 0),
    };
    MemoryNeed {
        weights: ByteSize(
            manifest
                .weight_bytes
                .saturating_add(widened)
                .saturating_add(unpacked),
        ),
        transient: ByteSize((PROCESS + BUFFERS).saturating_add(step)),
        kv_per_token: ByteSize(kv_per_token),
    }
}

/// What a model is guessed to need at an engine that is not ours, room for caches
/// included: of that nothing is known but the weights. The ledger puts right what this
/// has wrong, and the owner may.
pub fn of_engine(weights: ByteSize) -> ByteSize {
    let beside = ByteSize(weights.0 / 4 + FOREIGN_PROCESS);
    weights.saturating_add(beside)
}

/// Keys and values of every layer for one token.
fn kv_per_token(geometry: &Geometry, rule: DeviceRule) -> u64 {
    let row = rule.kv_format.bytes(geometry.head_dim, rule.number);
    [geometry.kv_heads, row, geometry.kept]
        .into_iter()
        .fold(geometry.layers, u64::saturating_mul)
        .saturating_add(geometry.convolved.saturating_mul(rule.number))
}

/// Numbers of one token in one layer of a decoder: what stands between layers (input,
/// norm, sum), the three of the feed-forward part (with experts, those of each that a token
/// takes, what each gives and its share of that), queries and the attended.
fn in_a_layer(geometry: &Geometry) -> u64 {
    let attention = geometry.heads.saturating_mul(geometry.head_dim);
    let each = 3 * geometry.expert_intermediate + 2 * geometry.hidden;
    let inner = (3 * geometry.intermediate).max(geometry.experts.saturating_mul(each));
    (3 * geometry.hidden)
        .saturating_add(inner)
        .saturating_add(attention.saturating_mul(2))
}

/// The arrays of the largest step, a chunk of a prompt through one layer; attention
/// scores and their softmax where they are kept; the logits of one position. A
/// sliding window makes nothing smaller: a cache keeps all tokens of every layer.
fn step(geometry: &Geometry, context: u64, rule: DeviceRule) -> u64 {
    let per_token = in_a_layer(geometry);
    // A fused attention knows no cap and no packed keys.
    let is_packed = rule.kv_format.bits().is_some();
    let scores = match rule.keeps_scores || geometry.caps_scores || is_packed {
        true => geometry
            .heads
            .saturating_mul(2)
            .saturating_mul(context.min(SCORED_TOKENS)),
        false => 0,
    };
    per_token
        .saturating_add(scores)
        .saturating_mul(PREFILL_CHUNK.min(context))
        .saturating_add(geometry.vocabulary)
        .saturating_mul(rule.number)
}

/// The arrays of the largest batch of texts through one layer of an encoder, as
/// above; its scores are of whole texts, with the mask that goes over them.
fn batch(geometry: &Geometry, context: u64, rule: DeviceRule) -> u64 {
    let attention = geometry.heads.saturating_mul(geometry.head_dim);
    let per_token = (3 * geometry.hidden + 3 * geometry.intermediate)
        .saturating_add(attention.saturating_mul(4))
        .saturating_add(geometry.heads.saturating_mul(3).saturating_mul(context));
    per_token
        .saturating_mul((BATCH_TOKENS as u64).max(context))
        .saturating_mul(rule.number)
}

/// The arrays of the largest batch of texts through one layer of a decoder, keys and
/// values among them, which no cache keeps. Scores are not counted but for capped
/// ones on a GPU: they are worked out a block of rows at a time.
fn texts(geometry: &Geometry, context: u64, rule: DeviceRule) -> u64 {
    let keys = geometry.kv_heads.saturating_mul(geometry.head_dim);
    let scores = match geometry.caps_scores && !rule.keeps_scores {
        true => geometry.heads.saturating_mul(2).saturating_mul(context),
        false => 0,
    };
    in_a_layer(geometry)
        .saturating_add(keys.saturating_mul(geometry.kept))
        .saturating_add(scores)
        .saturating_mul((BATCH_TOKENS as u64).max(context))
        .saturating_mul(rule.number)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The demo model: 30 layers, 9 heads of 64 with 3 of their own keys, 576 wide.
    fn demo() -> Manifest {
        Manifest {
            dir: "/snapshot".into(),
            commit: None,
            model_type: "llama".to_owned(),
            architectures: Vec::new(),
            kind: Kind::Chat,
            is_decoder: true,
            scripted: false,
            context: Some(8192),
            geometry: Some(Geometry {
                hidden: 576,
                intermediate: 1536,
                vocabulary: 49152,
                layers: 30,
                heads: 9,
                kv_heads: 3,
                head_dim: 64,
                kept: 2,
                convolved: 0,
                unpacked: 0,
                experts: 0,
                expert_intermediate: 0,
                caps_scores: false,
            }),
            weight_files: Vec::new(),
            weight_bytes: 98_000_000,
            half_bytes: 12_000_000,
            quantization: None,
            has_chat_template: true,
            modified: None,
        }
    }

    #[test]
    fn kv_is_layers_times_heads_times_size_twice() {
        let check = |gpu: bool, compute: Compute, expected: u64| {
            let need = estimate(&demo(), 8192, DeviceRule::of(gpu, compute));
            assert_eq!(need.kv_per_token, ByteSize(expected), "{gpu} {compute:?}");
        };
        // 30 · 3 · 64 · 2 numbers of four or two bytes.
        check(false, Compute::Auto, 46_080);
        check(true, Compute::Auto, 23_040);
        check(true, Compute::Float32, 46_080);
        check(false, Compute::Bfloat16, 23_040);
    }

    #[test]
    fn packed_keys_and_values_take_less_and_their_scores_are_kept() {
        let (plain, packed) = [KvFormat::Auto, KvFormat::EightBit]
            .map(|format| {
                estimate(
                    &demo(),
                    100,
                    DeviceRule::of(true, Compute::Auto).keeping(format),
                )
            })
            .into();
        // 30 · 3 · 2 rows of 64 integers of a byte and two numbers of two bytes.
        assert_eq!(packed.kv_per_token, ByteSize(180 * (64 + 4)));
        // 2 · 9 · 100 numbers for each of 100 tokens.
        assert_eq!(packed.transient.0 - plain.transient.0, 1800 * 100 * 2);
    }

    #[test]
    fn weights_are_held_as_stored_unless_a_gpu_widens_them() {
        let check = |gpu: bool, compute: Compute, expected: u64| {
            let need = estimate(&demo(), 8192, DeviceRule::of(gpu, compute));
            assert_eq!(need.weights, ByteSize(expected), "{gpu} {compute:?}");
        };
        check(false, Compute::Auto, 98_000_000);
        check(true, Compute::Auto, 98_000_000);
        check(true, Compute::Float32, 110_000_000);
    }

    #[test]
    fn the_largest_step_is_a_chunk_through_one_layer() {
        let fixed = PROCESS + BUFFERS;
        let check = |context: u32, gpu: bool, expected: u64| {
            let need = estimate(&demo(), context, DeviceRule::of(gpu, Compute::Float32));
            assert_eq!(need.transient.0 - fixed, expected, "{context} {gpu}");
        };
        // A token: 3 · 576 + 3 · 1536 + 2 · 576 = 7488 numbers; 512 of them and the logits.
        check(8192, true, (512 * 7488 + 49152) * 4);
        // With scores, 2 · 9 · 8192 more numbers for each.
        check(8192, false, (512 * (7488 + 147_456) + 49152) * 4);
        // A context below the chunk.
        check(100, false, (100 * (7488 + 1800) + 49152) * 4);
    }

    /// What a change to the demo model's geometry adds to a step of 100 tokens of a context
    /// of 100, in numbers for each token, and to the weights.
    fn check_change(gpu: bool, change: impl Fn(&mut Geometry), numbers: u64, weights: u64) {
        let rule = DeviceRule::of(gpu, Compute::Float32);
        let before = estimate(&demo(), 100, rule);
        let mut changed = demo();
        change(changed.geometry.as_mut().expect("measures"));
        let after = estimate(&changed, 100, rule);
        let more = after.transient.0 - before.transient.0;
        assert_eq!(more, numbers * 100 * 4);
        assert_eq!(after.weights.0 - before.weights.0, weights);
        assert_eq!(after.kv_per_token, before.kv_per_token);
    }

    #[test]
    fn experts_count_by_those_that_a_token_takes_and_are_widened() {
        let experts = |geometry: &mut Geometry| {
            geometry.experts = 8;
            geometry.expert_intermediate = 768;
        };
        // 8 · (3 · 768 + 2 · 576) instead of 3 · 1536.
        check_change(false, experts, 8 * (2304 + 1152) - 4608, 12_000_000);
        check_change(true, experts, 8 * (2304 + 1152) - 4608, 0);
        // Small ones: the dense part of other layers is the larger.
        let few = |geometry: &mut Geometry| {
            geometry.experts = 1;
            geometry.expert_intermediate = 10;
        };
        check_change(true, few, 0, 0);
    }

    #[test]
    fn capped_scores_are_kept_on_any_device() {
        let caps = |geometry: &mut Geometry| geometry.caps_scores = true;
        check_change(true, caps, 2 * 9 * 100, 0);
        check_change(false, caps, 0, 0);
    }

    #[test]
    fn an_encoder_keeps_nothing_and_takes_a_batch_at_once() {
        let mut encoder = demo();
        encoder.kind = Kind::Embeddings;
        encoder.is_decoder = false;
        encoder.geometry = Some(Geometry {
            hidden: 384,
            intermediate: 1536,
            vocabulary: 30_522,
            layers: 6,
            heads: 12,
            kv_heads: 12,
            head_dim: 32,
            kept: 2,
            convolved: 0,
            unpacked: 0,
            experts: 0,
            expert_intermediate: 0,
            caps_scores: false,
        });
        let need = estimate(&encoder, 256, DeviceRule::of(false, Compute::Auto));
        assert_eq!(need.kv_per_token, ByteSize::ZERO);
        // A token: 3 · 384 + 3 · 1536 + 4 · 384 numbers and 3 · 12 · 256 scores.
        let step = need.transient.0 - PROCESS - BUFFERS;
        assert_eq!(step, BATCH_TOKENS as u64 * (7296 + 9216) * 4);
    }

    #[test]
    fn a_decoder_that_makes_vectors_keeps_nothing_and_no_scores() {
        let mut decoder = demo();
        decoder.kind = Kind::Embeddings;
        let check = |decoder: &Manifest, context: u32, gpu: bool, expected: u64| {
            let need = estimate(decoder, context, DeviceRule::of(gpu, Compute::Float32));
            assert_eq!(need.kv_per_token, ByteSize::ZERO);
            let step = need.transient.0 - PROCESS - BUFFERS;
            assert_eq!(step, expected * 4, "{context} {gpu}");
        };
        // As in a step of a chat, and 2 · 3 · 64 of keys and values.
        check(&decoder, 100, false, BATCH_TOKENS as u64 * (7488 + 384));
        check(&decoder, 8192, false, 8192 * (7488 + 384));
        check(&decoder, 8192, true, 8192 * (7488 + 384));
        decoder.geometry.as_mut().expect("measures").caps_scores = true;
        check(&decoder, 2048, true, 2048 * (7488 + 384 + 2 * 9 * 2048));
        check(&decoder, 2048, false, 2048 * (7488 + 384));
    }

    #[test]
    fn hostile_measures_saturate_and_a_play_needs_what_it_touches() {
        let mut hostile = demo();
        let most = 1 << 24;
        hostile.geometry = Some(Geometry {
            hidden: most,
            intermediate: most,
            vocabulary: most,
            layers: most,
            heads: most,
            kv_heads: most,
            head_dim: most,
            kept: most,
            convolved: 0,
            unpacked: 0,
            experts: most,
            expert_intermediate: most,
            caps_scores: true,
        });
        let rule = DeviceRule::of(false, Compute::Auto);
        let need = estimate(&hostile, u32::MAX, rule);
        assert_eq!(need.kv_per_token, ByteSize(u64::MAX));
        let mut play = demo();
        play.scripted = true;
        let need = estimate(&play, 4096, rule);
        assert_eq!(need.held(), ByteSize(98_000_000 + SCRIPTED_PROCESS));
    }
}
