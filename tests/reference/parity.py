"""Writes small models of every architecture, and what mlx-lm makes of them.

    parity.py FOLDER

needs PyPI's `mlx-lm` and `mlx[cpu]`, as `make engines` installs them; the parity test of
src/engine/mlx/tests/parity.rs runs it. Each case becomes FOLDER/N: an ordinary
snapshot, and `reference.json` with the case's name, a prompt, the vectors below the head
and the log-probabilities after each of its tokens, and the 64 tokens that follow when the
best is always taken. Some cases have their keys and values packed, as `kv_bits` says.

Weights are seeded and never trained, so an answer may hinge on two logits that are all
but equal, where float32 decides by the order of sums. Of some prompts the first is
taken whose answer has no such place (`CLEAR`) and does not stand still (`DISTINCT`).
"""

import json
import sys
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from make_logits import numbers
from mlx.utils import tree_flatten
from mlx_lm import __version__
from mlx_lm.models.cache import KVCache, make_prompt_cache
from mlx_lm.utils import _get_classes, load_model, quantize_model, save_config

VOCABULARY = 199
LENGTH = 60
STEPS = 64
CLEAR = 2e-3
DISTINCT = 6
PROMPTS = 40

# Where a number lies between two integers, packing rounds it by the order of sums. One such
# integer more or less moves a logit by as much, so that packed cases need clearer answers.
CLEAR_PACKED = {8: 4e-3, 4: 2e-2}
GROUP = 32

BASE = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}

EXPERTS = {
    "model_type": "qwen3_moe",
    "head_dim": 32,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 64,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [1],
    "norm_topk_prob": True,
}

GEMMA3 = {
    "model_type": "gemma3_text",
    "hidden_size": 96,  # Its root is no number of bfloat16.
    "head_dim": 32,
    "query_pre_attn_scalar": 24,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
    "sliding_window": 12,
    "sliding_window_pattern": 3,
}

DEEPSEEK = {
    "model_type": "deepseek_v2",
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
    "kv_lora_rank": 64,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 24,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.7,
    "rope_scaling": {
        "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64,
        "mscale": 0.7, "mscale_all_dim": 0.9, "beta_fast": 32, "beta_slow": 1,
    },
}

LFM2 = {
    "model_type": "lfm2",
    "norm_eps": 1e-5,
    "conv_bias": False,
    "conv_L_cache": 3,
    "block_dim": 64,
    "block_multiple_of": 32,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": True,
    "block_ff_dim": 160,
    "layer_types": ["conv", "full_attention", "conv"],
}

# The name of each case and its changes to the configuration. Between them the cases of an
# architecture reach all that its file says.
DENSE = {
    "llama": {"model_type": "llama"},
    "llama, biases, untied": {
        "model_type": "llama", "attention_bias": True, "mlp_bias": True,
        "head_dim": 24, "tie_word_embeddings": False,
    },
    "mistral, windows": {
        "model_type": "mistral", "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "qwen2": {"model_type": "qwen2", "sliding_window": 8, "use_sliding_window": False},
    "qwen3": {"model_type": "qwen3", "head_dim": 32, "tie_word_embeddings": False},
    "qwen3_moe, as published": EXPERTS,
    "qwen3_moe, shares as they are": EXPERTS | {
        "norm_topk_prob": False, "decoder_sparse_step": 2, "mlp_only_layers": [],
    },
    "gemma2": {
        "model_type": "gemma2", "head_dim": 32, "query_pre_attn_scalar": 20,
        "attn_logit_softcapping": 1.5, "final_logit_softcapping": 6.0,
    },
    "gemma3_text": GEMMA3,
    "gemma3_text, one head": GEMMA3 | {
        "num_key_value_heads": 1, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
    "phi3": {"model_type": "phi3", "tie_word_embeddings": False, "partial_rotary_factor": 0.75},
    "phi3, long": {
        "model_type": "phi3", "original_max_position_embeddings": 128,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0 + i / 9 for i in range(8)],
            "long_factor": [1.0 + i / 2 for i in range(8)],
        },
    },
    "smollm3": {"model_type": "smollm3", "no_rope_layers": [1, 0, 1]},
    "smollm3, by interval": {"model_type": "smollm3", "no_rope_layer_interval": 3},
    "granite": {
        "model_type": "granite", "embedding_multiplier": 1.5, "attention_multiplier": 0.4,
        "residual_multiplier": 0.8, "logits_scaling": 0.5, "attention_bias": True,
        "mlp_bias": False,
    },
    "olmo2": {"model_type": "olmo2", "tie_word_embeddings": False},
    "gpt_oss": {
        "model_type": "gpt_oss", "head_dim": 32, "num_local_experts": 6,
        "num_experts_per_tok": 2, "sliding_window": 12, "tie_word_embeddings": False,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_scaling": {
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64,
        },
    },
    "glm4": {
        "model_type": "glm4", "head_dim": 32, "partial_rotary_factor": 0.5,
        "attention_bias": True, "tie_word_embeddings": False,
    },
    "lfm2": LFM2,
    "lfm2, biases": LFM2 | {
        "conv_bias": True, "conv_L_cache": 5, "block_auto_adjust_ff_dim": False,
        "layer_types": None, "full_attn_idxs": [0, 2],
    },
    "deepseek_v2": DEEPSEEK | {"q_lora_rank": None, "topk_method": "greedy"},
    "deepseek_v2, groups": DEEPSEEK | {
        "q_lora_rank": 48, "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2,
        "moe_layer_freq": 2, "attention_bias": True,
    },
    "deepseek_v3": DEEPSEEK | {
        "model_type": "deepseek_v3", "q_lora_rank": 48, "n_group": 4, "topk_group": 2,
    },
    "deepseek_v3, shares as they are": DEEPSEEK | {
        "model_type": "deepseek_v3", "q_lora_rank": None, "norm_topk_prob": False,
        "n_shared_experts": None, "rope_scaling": None,
    },
}


# Cases whose caches mlx-lm packs, with the bits.
PACKED_KEYS = {
    "llama, keys and values of 8 bits": ({"model_type": "llama", "head_dim": 32}, 8),
    "qwen3, keys and values of 4 bits": ({"model_type": "qwen3", "head_dim": 32}, 4),
    "lfm2, keys and values of 8 bits": (
        LFM2 | {"num_attention_heads": 2, "num_key_value_heads": 1}, 8,
    ),
    "deepseek_v3, short vectors of 8 bits": (
        # A choice of experts may hinge on the last bit.
        DENSE["deepseek_v3"] | {"kv_lora_rank": 48, "n_routed_experts": None}, 8,
    ),
}


class ShortVectors(KVCache):
    """mlx-lm's network cannot read packed short vectors, so it gets what is left of them
    after packing, with what turns of their keys behind them."""

    def __init__(self, bits):
        super().__init__()
        self.form = {"group_size": 64, "bits": bits}  # All of a row.

    def update_and_fetch(self, vectors, turned):
        row = mx.quantize(mx.concatenate([vectors, turned], axis=-1), **self.form)
        row = mx.dequantize(*row, **self.form)
        return super().update_and_fetch(*mx.split(row, [vectors.shape[-1]], axis=-1))


def packed(layer, model_type, bits):
    """The cache of a layer with keys and values of so many bits."""
    if model_type == "deepseek_v3":
        return ShortVectors(bits)
    if not isinstance(layer, KVCache):
        return layer  # A convolution's is never packed.
    return layer.to_quantized(group_size=GROUP, bits=bits)


def some_wider(path, _):
    """Two layers with settings of their own, and one left dense."""
    if path.endswith("layers.0.mlp.down_proj"):
        return {"group_size": 32, "bits": 8}
    if path.endswith(("layers.1.self_attn.q_proj", "layers.1.self_attn.qkv_proj")):
        return False
    return True


# Group size, bits, configuration, exceptions; nothing means those of mlx-lm's own. "mxfp4"
# has its own bits.
PACKED = {
    "llama, mxfp4": (32, "mxfp4", DENSE["llama"], some_wider),
    "gpt_oss, mxfp4": (32, "mxfp4", DENSE["gpt_oss"], None),
    "deepseek_v3, mxfp4": (32, "mxfp4", DENSE["deepseek_v3"], None),
    "llama, 4 bits with exceptions": (64, 4, DENSE["llama"], some_wider),
    "qwen3, 4 bits with exceptions": (64, 4, DENSE["qwen3"], some_wider),
    "qwen3_moe, 4 bits": (64, 4, EXPERTS, None),
    "gpt_oss, 4 bits": (64, 4, DENSE["gpt_oss"], None),
    "gemma3_text, 8 bits": (32, 8, GEMMA3, None),
    "lfm2, 4 bits": (32, 4, LFM2, None),
    "deepseek_v2, 4 bits": (32, 4, DENSE["deepseek_v2"], None),
    "deepseek_v3, 4 bits": (32, 4, DENSE["deepseek_v3"], None),
    "phi3, 4 bits with exceptions": (32, 4, DENSE["phi3"], some_wider),
}


def weight(name, shape):
    values = numbers(name, int(np.prod(shape))).reshape(shape)
    if "norm" in name:
        values = values * np.float32(0.2) + np.float32(1)
    elif name.endswith(".bias"):
        values = values * np.float32(0.1)
    else:
        values = values * np.sqrt(np.float32(3) / np.float32(shape[-1]))
    return mx.array(values)


def as_published(weights):
    """Each expert by itself, the matrices that make keys and values of short vectors as
    one, and a channel's factors last, which is how Hugging Face has them."""
    apart = {}
    for name, array in weights.items():
        if "embed_q" in name:
            values = weights[name.replace("embed_q", "unembed_out")]
            both = mx.concatenate([array.swapaxes(1, 2), values], axis=1)
            apart[name.replace("embed_q", "kv_b_proj")] = both.reshape(-1, both.shape[-1])
            continue
        if "unembed_out" in name:
            continue
        if name.endswith("conv.conv.weight"):
            array = array.swapaxes(1, 2)  # A channel's factors stand last.
        if "switch_mlp" not in name:
            apart[name] = array
            continue
        for expert in range(array.shape[0]):
            own = name.replace("switch_mlp", f"experts.{expert}")
            apart[own] = array[expert]
    return apart


def write(folder, config, packing):
    """Writes a snapshot and answers the model that mlx-lm reads from it."""
    folder.mkdir(parents=True)
    model_class, arguments = _get_classes(config)
    model = model_class(arguments.from_dict(config))
    if config["tie_word_embeddings"] and "lm_head" in model:
        model.pop("lm_head")  # Where only the weights tell.
    shapes = {name: array.shape for name, array in tree_flatten(model.parameters())}
    made = [(name, weight(name, shape)) for name, shape in shapes.items()]
    model.load_weights(made)
    weights = dict(made)
    if packing:
        group, bits, predicate = packing
        predicate = predicate or getattr(model, "quant_predicate", None)
        mode, bits = ("affine", bits) if isinstance(bits, int) else (bits, 4)
        model, config = quantize_model(model, config, group, bits, mode, quant_predicate=predicate)
        weights = dict(tree_flatten(model.parameters()))
    else:
        weights = as_published(weights)
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    save_config(dict(config), folder / "config.json")
    (folder / "tokenizer.json").write_text("{}")  # No text is made; a snapshot has one.
    model, _ = load_model(folder)
    return model


def answer(model, prompt, kv_bits):
    """The log-probabilities of a prompt and its greedy continuation; nothing if that has
    a near-tie."""
    cache, clear = make_prompt_cache(model), CLEAR
    if kv_bits:
        cache = [packed(layer, model.model_type, kv_bits) for layer in cache]
        clear = CLEAR_PACKED[kv_bits]
    rows = model(mx.array([prompt]), cache=cache)[0].astype(mx.float32)
    logits, tokens = rows[-1], []
    for _ in range(STEPS):
        second, best = mx.topk(logits, 2).tolist()[:2]
        if abs(best - second) < clear:
            return None
        tokens.append(int(mx.argmax(logits)))
        logits = model(mx.array([[tokens[-1]]]), cache=cache)[0, -1].astype(mx.float32)
    if len(set(tokens)) < DISTINCT:
        return None
    return {"prompt": prompt, "tokens": tokens, "logprobs": nn.log_softmax(rows, axis=-1).tolist()}


def without_global_scale(product):
    """mlx-lm hands `gather_qmm` an argument that came with a later MLX, even if it is
    nothing, which it is but for a format that is not here."""

    def call(*arrays, global_scale=None, **settings):
        assert global_scale is None
        return product(*arrays, **settings)

    return call


def main(out):
    mx.set_default_device(mx.cpu)
    mx.gather_qmm = without_global_scale(mx.gather_qmm)
    cases = [(name, changes, None) for name, changes in DENSE.items()]
    cases += [(name, changes, (*packing, rule)) for name, (*packing, changes, rule) in PACKED.items()]
    cases = [(*case, None) for case in cases]
    cases += [(name, changes, None, bits) for name, (changes, bits) in PACKED_KEYS.items()]
    for i, (name, changes, packing, kv_bits) in enumerate(cases):
        folder = out / f"{i:02}"
        model = write(folder, BASE | changes, packing)
        prompts = ([(i * 37 + seed * 11 + 3) % VOCABULARY for i in range(LENGTH)] for seed in range(PROMPTS))
        found = next(filter(None, (answer(model, prompt, kv_bits) for prompt in prompts)), None)
        if found is None:
            sys.exit(f"{name}: every answer has a near-tie or stands still")
        vectors = model.model(mx.array([found["prompt"]]))[0].astype(mx.float32).tolist()
        reference = {"name": name, "version": __version__, "kv_bits": kv_bits, "vectors": vectors} | found
        (folder / "reference.json").write_text(json.dumps(reference))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
