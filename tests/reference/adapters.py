"""Writes small models with two adapters each, and what mlx-lm makes of them.

    adapters.py FOLDER

needs what `parity.py` needs; the test of src/engine/mlx/tests/adapters.rs runs it. Each
case becomes FOLDER/N: a snapshot, the adapters `one` and `two` as mlx-lm writes them,
`one-peft`, which is the first one as PEFT does, and `reference.json` with an answer (see
`parity.py`) of the model as it is and with each adapter.
"""

import json
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
from make_logits import numbers
from mlx.utils import tree_flatten
from mlx_lm import __version__
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters
from mlx_lm.utils import load_model
from parity import (
    BASE, DENSE, EXPERTS, GEMMA3, LENGTH, PROMPTS, VOCABULARY, answer, some_wider,
    without_global_scale, write,
)

# What each adapter stands beside: of how many layers from the last, which of them
# (nothing means all linear ones), its rank and its scale.
ALL = {"one": (-1, None, 4, 2.0), "two": (2, ["self_attn.q_proj", "mlp.down_proj"], 3, 6.0)}
JOINED = {"one": (-1, None, 4, 2.0), "two": (1, ["self_attn.qkv_proj"], 8, 4.0)}
BESIDE_EXPERTS = {
    "one": (-1, ["self_attn.q_proj", "self_attn.v_proj", "mlp.gate"], 4, 4.0),
    "two": (2, ["self_attn.o_proj"], 2, 8.0),
}

# Configuration, how it is packed, adapters.
CASES = {
    "llama": (DENSE["llama"], None, ALL),
    "llama, biases, 4 bits": (
        DENSE["llama, biases, untied"] | {"head_dim": 32}, (64, 4, some_wider), ALL,
    ),
    "qwen3, 8 bits": (DENSE["qwen3"], (32, 8, None), ALL),
    "phi3": (DENSE["phi3"], None, JOINED),
    "gemma3_text, 4 bits": (GEMMA3, (32, 4, None), ALL),
    "qwen3_moe": (EXPERTS, None, BESIDE_EXPERTS),
}


def matrix(name, shape):
    values = numbers(name, int(np.prod(shape))).reshape(shape)
    return mx.array(values * np.sqrt(np.float32(3) / np.float32(shape[0])))


def write_adapter(model, folder, name, layers, keys, rank, scale):
    """Writes an adapter for a model that has none yet."""
    parameters = {"rank": rank, "scale": scale, "dropout": 0.0}
    if keys:
        parameters["keys"] = keys
    linear_to_lora_layers(model, layers, dict(parameters))
    shapes = {
        path: array.shape
        for path, array in tree_flatten(model.parameters())
        if path.endswith(("lora_a", "lora_b"))
    }
    matrices = {path: matrix(name + path, shape) for path, shape in shapes.items()}
    config = {"fine_tune_type": "lora", "num_layers": layers, "lora_parameters": parameters}
    put(folder / name, "adapters.safetensors", matrices, config)
    if name == "one":
        turned = {peft_name(path): array.T for path, array in matrices.items()}
        config = {"peft_type": "LORA", "r": rank, "lora_alpha": scale * rank, "bias": "none"}
        put(folder / "one-peft", "adapter_model.safetensors", turned, config)


def put(folder, file, matrices, config):
    folder.mkdir()
    mx.save_safetensors(str(folder / file), matrices)
    (folder / "adapter_config.json").write_text(json.dumps(config))


def peft_name(path):
    layer, end = path.rsplit(".", 1)
    return f"base_model.model.{layer}.lora_{end[-1].upper()}.weight"


def answered(model, name):
    prompts = ([(i * 37 + seed * 11 + 3) % VOCABULARY for i in range(LENGTH)] for seed in range(PROMPTS))
    found = next(filter(None, (answer(model, prompt, None) for prompt in prompts)), None)
    if found is None:
        sys.exit(f"{name}: every answer has a near-tie or stands still")
    return found


def main(out):
    mx.set_default_device(mx.cpu)
    mx.gather_qmm = without_global_scale(mx.gather_qmm)
    for i, (name, (changes, packing, adapters)) in enumerate(CASES.items()):
        folder = out / f"{i:02}"
        model = write(folder, BASE | changes, packing)
        answers = {"base": answered(model, name)}
        for adapter, settings in adapters.items():
            write_adapter(load_model(folder)[0], folder, adapter, *settings)
            model = load_adapters(load_model(folder)[0], str(folder / adapter))
            model.eval()
            answers[adapter] = answered(model, f"{name} with {adapter}")
        reference = {"name": name, "version": __version__} | answers
        (folder / "reference.json").write_text(json.dumps(reference))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
