"""Writes what mlx-lm computes for small models of every supported form.

    make_logits.py OUT_FILE

needs PyPI's `mlx-lm` and `mlx[cpu]` of the version that the engine links. The
weights follow from their names by a rule (`numbers` below, the same as in
src/engine/mlx/tests/tiny.rs), so the file holds only each model's `config.json` as
mlx-lm writes it, and the log-probabilities after the last tokens of a prompt.
"""

import json
import sys
import tempfile
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import _get_classes, load_model, quantize_model, save_config

VOCABULARY = 199
PROMPT = [(i * 37 + 104) % VOCABULARY for i in range(60)]
ROWS = 3  # The last rows of the prompt that are kept.

BASE = {
    "model_type": "llama",
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}


def scaling(**settings):
    return {"rope_scaling": settings}


DENSE = {
    "dense, tied": {},
    "dense, untied": {"tie_word_embeddings": False},
    "with biases and wide heads": {"attention_bias": True, "mlp_bias": True, "head_dim": 48},
    "one key head": {"num_key_value_heads": 1},
    "traditional pairs": {"rope_traditional": True},
    "another base": {"rope_theta": 500000.0},
    "mistral": {"model_type": "mistral"},
    "linear": scaling(type="linear", factor=2.0),
    "dynamic": scaling(rope_type="dynamic", factor=2.0),
    "llama3": scaling(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=64,
    ),
    "yarn": scaling(rope_type="yarn", factor=4.0, original_max_position_embeddings=64),
}


def overrides(path, _):
    if path == "lm_head":
        return False
    if path.endswith("layers.0.mlp.down_proj"):
        return {"group_size": 32, "bits": 8}
    return True


# group size, bits, changes to the configuration, exceptions
PACKED = {
    "2 bits, groups of 32": (32, 2, {}, None),
    "3 bits, groups of 64": (64, 3, {}, None),
    "4 bits, groups of 32": (32, 4, {}, None),
    "4 bits, groups of 64, untied": (64, 4, {"tie_word_embeddings": False}, None),
    "4 bits, groups of 128": (128, 4, {}, None),
    "6 bits, groups of 64": (64, 6, {}, None),
    "8 bits, groups of 64": (64, 8, {}, None),
    "4 bits with exceptions": (64, 4, {"tie_word_embeddings": False}, overrides),
}


def numbers(name, count):
    """Numbers from -1 to 1 that follow from the name: FNV-1a, then SplitMix64."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    whole = (z >> np.uint64(40)).astype(np.int64) - 2**23
    return whole.astype(np.float32) / np.float32(2**23)


def weight(name, shape):
    values = numbers(name, int(np.prod(shape))).reshape(shape)
    if "norm" in name:
        values = values * np.float32(0.2) + np.float32(1)
    elif name.endswith(".bias"):
        values = values * np.float32(0.1)
    else:
        values = values * np.sqrt(np.float32(3) / np.float32(shape[-1]))
    return mx.array(values)


def build(folder, config):
    """Writes the dense snapshot and loads it with mlx-lm."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    model_class, arguments = _get_classes(config)
    model = model_class(arguments.from_dict(config))
    shapes = {name: array.shape for name, array in tree_flatten(model.parameters())}
    weights = {name: weight(name, shape) for name, shape in shapes.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    return load_model(folder)


def logarithms(model):
    logits = model(mx.array([PROMPT]), cache=make_prompt_cache(model))[0, -ROWS:]
    rows = nn.log_softmax(logits.astype(mx.float32), axis=-1)
    return [[round(number, 5) for number in row] for row in rows.tolist()]


def main(out):
    mx.set_default_device(mx.cpu)
    cases = []
    with tempfile.TemporaryDirectory() as scratch:
        for i, (name, changes) in enumerate(DENSE.items()):
            model, config = build(Path(scratch) / f"dense-{i}", BASE | changes)
            cases.append({"name": name, "config": config, "logprobs": logarithms(model)})
        for i, (name, (group, bits, changes, predicate)) in enumerate(PACKED.items()):
            model, config = build(Path(scratch) / f"packed-{i}", BASE | changes)
            model, config = quantize_model(model, config, group, bits, quant_predicate=predicate)
            # What mlx-lm writes, read again by mlx-lm.
            folder = Path(scratch) / f"written-{i}"
            folder.mkdir()
            weights = dict(tree_flatten(model.parameters()))
            mx.save_safetensors(str(folder / "model.safetensors"), weights)
            save_config(config, folder / "config.json")
            model, _ = load_model(folder)
            config = json.loads((folder / "config.json").read_text())
            # A layer that was left dense is told by what the snapshot lacks alone.
            dense = [
                path
                for path in (key.removesuffix(".weight") for key in weights if "norm" not in key)
                if f"{path}.weight" in weights and f"{path}.scales" not in weights
            ]
            rows = logarithms(model)
            cases.append({"name": name, "config": config, "dense": dense, "logprobs": rows})
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    prompt = json.dumps(PROMPT, separators=(",", ":"))
    out.write_text(f'{{"prompt":{prompt},"cases":[\n{lines}\n]}}\n')


if __name__ == "__main__":
    main(Path(sys.argv[1]))
