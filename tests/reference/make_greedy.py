"""Writes what mlx-lm answers to the demo models, greedily and in float32.

    make_greedy.py HUB_CACHE OUT_FOLDER

needs PyPI's `mlx-lm` and `mlx[cpu]` of the version that the engine links. For
each demo model in the cache (`make demo` prints its folder) it writes
OUT_FOLDER/NAME.json: for each prompt its token ids, 64 greedy tokens, the
natural logarithm of each one's probability and how far its logit was above the
second best. Prompts and answers are token ids, so that a test needs no tokenizer.
An answer goes on past an end-of-text token: the comparison is about numbers.
"""

import json
import sys
from pathlib import Path

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model, load_tokenizer

MODELS = ["SmolLM2-135M-Instruct-4bit", "SmolLM2-135M-Instruct-8bit", "SmolLM2-135M-Instruct-f32"]
STEPS = 64
PLAIN = [
    "Once",
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "Water boils at a hundred degrees because " * 12,
    "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20,",
]
CHATS = [
    ["What is the capital of France?"],
    ["Name three colours of the rainbow, one on each line."],
    ["My name is Ada.", "Hello Ada! How can I help you today?", "What is my name?"],
    [
        "Read this and say what it is about in one sentence. "
        + "A roundhouse is a building where locomotives stand, each on its own track, "
        "around one turntable. When a locomotive is wanted, the turntable is set to its "
        "track, and it rolls out. When it comes back, it gets the next track that is free. "
        * 3
    ],
]


def answer(model, prompt):
    cache = make_prompt_cache(model)
    logits = model(mx.array([prompt]), cache=cache)[0, -1]
    tokens, logarithms, margins = [], [], []
    for _ in range(STEPS):
        logits = logits.astype(mx.float32)
        best = int(mx.argmax(logits))
        top = mx.sort(logits)[-2:]
        tokens.append(best)
        logarithms.append(round(float(logits[best] - mx.logsumexp(logits)), 6))
        margins.append(round(float(top[1] - top[0]), 6))
        logits = model(mx.array([[best]]), cache=cache)[0, -1]
    return {"prompt": prompt, "tokens": tokens, "logprobs": logarithms, "margins": margins}


def main(hub, out):
    out.mkdir(parents=True, exist_ok=True)
    for name in MODELS:
        folder = hub / f"models--roundhouse--{name}"
        snapshot = folder / "snapshots" / (folder / "refs" / "main").read_text().strip()
        model, _ = load_model(snapshot)
        model.set_dtype(mx.float32)
        tokenizer = load_tokenizer(snapshot)
        prompts = [tokenizer.encode(text) for text in PLAIN]
        for turns in CHATS:
            roles = ["user", "assistant"] * len(turns)
            messages = [{"role": r, "content": c} for r, c in zip(roles, turns)]
            prompts.append(list(tokenizer.apply_chat_template(messages, add_generation_prompt=True)))
        cases = []
        for prompt in prompts:
            cases.append(answer(model, prompt))
            print(name, len(prompt), repr(tokenizer.decode(cases[-1]["tokens"]))[:90], flush=True)
        lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
        (out / f"{name}.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
