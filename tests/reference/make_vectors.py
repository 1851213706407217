"""Vectors of sentence-transformers, as `tests/fixtures/vectors.json`.

usage: make_vectors.py MODEL_FOLDER > tests/fixtures/vectors.json

`pip install sentence-transformers==6.2.0` (with torch 2.15 and transformers 5.23) is
needed; MODEL_FOLDER is that of all-MiniLM-L6-v2, as `make demo` provides it below
data/packages. Computes on the CPU in float32, each text by itself. Small encoders of
every supported form are made here with weights that follow from their names, by the rule
of make_logits.py, so that the tests can make the same ones.
"""

import copy
import json
import sys

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from transformers import BertConfig, BertModel, ModernBertConfig, ModernBertModel
from transformers import XLMRobertaConfig, XLMRobertaModel

TEXTS = [
    "",
    "a",
    "Hello, world!",
    "The quick brown fox jumps over the lazy dog.",
    "A man is eating food.",
    "Someone eats a meal.",
    "Größe, naïve café, Łódź, ½ ﬁn",
    "日本語のテキスト and English 中文",
    "😀 emoji\tand\nwhite   space \u200b",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "SELECT * FROM t WHERE x >= 10 AND y != 'z';  -- comment",
    "[CLS] special [SEP] [MASK] words",
    "word " * 100,
    "x" * 150,
]


def of_texts(folder):
    model = SentenceTransformer(folder, device="cpu", local_files_only=True)
    vectors = []
    for text in TEXTS:
        tokens = model.tokenizer(text)["input_ids"]
        vectors.append({"text": text, "tokens": len(tokens), "vector": vector(model.encode(text))})
    return vectors


def vector(numbers):
    return [round(float(x), 7) for x in numbers]


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


def fill(model):
    """Gives each weight the numbers that follow from its name."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            values = numbers(name, weight.numel())
            if name.lower().endswith("norm.weight"):
                values = values * np.float32(0.2) + np.float32(1)
            elif name.endswith(".bias"):
                values = values * np.float32(0.1)
            else:
                values = values * np.sqrt(np.float32(3) / np.float32(weight.shape[-1]))
            weight.copy_(torch.from_numpy(values.reshape(tuple(weight.shape))))
    return model.eval()


COMMON = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "vocab_size": 101,
    "max_position_embeddings": 40,
}
PROMPTS = [[0, 5, 9, 100, 2], [0, 2], [0, 17, 33, 64, 50, 12, 99, 3, 7, 21, 2]]


BERT = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "type_vocab_size": 2}
TANH = {"hidden_act": "gelu_new", "layer_norm_eps": 1e-6}
ROBERTA = {"type_vocab_size": 1, "layer_norm_eps": 1e-5}
# A window of two tokens to either side in the second layer; then of three, in all but one.
WINDOWS = {"local_attention": 4}
BIASES = {
    "num_hidden_layers": 3,
    "local_attention": 6,
    "norm_bias": True,
    "attention_bias": True,
    "mlp_bias": True,
    "norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh",
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 500.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
    },
}


def small():
    cases = []
    for name, kind, config, more in [
        ("bert", BertModel, BertConfig, BERT),
        ("bert, tanh", BertModel, BertConfig, BERT | TANH),
        ("xlm-roberta", XLMRobertaModel, XLMRobertaConfig, BERT | ROBERTA),
        ("modernbert", ModernBertModel, ModernBertConfig, WINDOWS),
        ("modernbert, biases", ModernBertModel, ModernBertConfig, BIASES),
    ]:
        told = COMMON | more
        if config is ModernBertConfig:
            told["pad_token_id"] = 0  # That of its own lies outside this vocabulary.
        # It changes what it is given.
        settings = config(**copy.deepcopy(told))
        model = kind(settings) if kind is ModernBertModel else kind(settings, add_pooling_layer=False)
        model = fill(model)
        rows = []
        for prompt in PROMPTS:
            with torch.no_grad():
                hidden = model(torch.tensor([prompt])).last_hidden_state[0]
            rows.append(vector(hidden.mean(0)))
        told = {"model_type": settings.model_type, "pad_token_id": settings.pad_token_id} | told
        cases.append({"name": name, "config": told, "means": rows})
    return cases


json.dump({"texts": of_texts(sys.argv[1]), "prompts": PROMPTS, "small": small()}, sys.stdout)
print()
