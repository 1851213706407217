"""Small cross-encoders as snapshots, and how sentence-transformers scores pairs with them.

usage: make_rerankers.py tests/fixtures/rerankers

`pip install sentence-transformers==6.2.0` (with torch 2.15 and transformers 5.23) is
needed. Each folder becomes a snapshot as `save_pretrained` writes it, with a tokenizer of
a few words whose template is that of the architecture, and `scores.json`: pairs, their
tokens and types, and what `CrossEncoder.predict` makes of them on the CPU in float32, all
in one batch. Weights are seeded and large enough for scores to lie apart.
"""

import json
import sys
from pathlib import Path

import torch
from sentence_transformers import CrossEncoder
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification
from transformers import ModernBertConfig, ModernBertForSequenceClassification
from transformers import PreTrainedTokenizerFast
from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

WORDS = "a the red blue green planet star moon sun dog cat eats runs sees is far near old and of , . ?"
QUERY = "the red planet"
DOCUMENTS = [
    "a blue star",
    "the red planet is far",
    "",
    "Red",
    "the dog sees the red planet and the old moon , the cat runs",
    "unheard of words",
    "sun " * 50,
]
LONG = " ".join(["the red planet is near the old sun and"] * 5)

COMMON = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_labels": 1,
}
IDENTITY = "torch.nn.modules.linear.Identity"


def tokenizer(marks, template):
    vocabulary = {word: place for place, word in enumerate([*marks, *WORDS.split()])}
    unknown = "[UNK]" if "[UNK]" in marks else "<unk>"
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = template(vocabulary)
    return inner, len(vocabulary)


def bert(vocabulary):
    return processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(mark, vocabulary[mark]) for mark in ("[CLS]", "[SEP]")],
    )


def modernbert(vocabulary):
    # As its own tokenizer has it: types that the network is not told.
    return bert(vocabulary)


def roberta(vocabulary):
    return processors.RobertaProcessing(("</s>", vocabulary["</s>"]), ("<s>", vocabulary["<s>"]))


BRACKETS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
ANGLES = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
NAMES = ["input_ids", "attention_mask"]

CASES = {
    "bert": (
        BertForSequenceClassification, BertConfig, BRACKETS, bert, 24,
        {"max_position_embeddings": 24, "type_vocab_size": 2},
        ["input_ids", "token_type_ids", "attention_mask"], {},
    ),
    # Shorter than its positions, and scores as they are.
    "xlm-roberta": (
        XLMRobertaForSequenceClassification, XLMRobertaConfig, ANGLES, roberta, 20,
        {"max_position_embeddings": 30, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
        NAMES, {"sbert_ce_default_activation_function": IDENTITY},
    ),
    "modernbert": (
        ModernBertForSequenceClassification, ModernBertConfig, BRACKETS, modernbert, 32,
        {
            "max_position_embeddings": 32, "local_attention": 6, "classifier_pooling": "mean",
            "global_attn_every_n_layers": 2,
        },
        NAMES, {"sentence_transformers": {"activation_fn": IDENTITY, "version": "4.1.0"}},
    ),
    "modernbert-first": (
        ModernBertForSequenceClassification, ModernBertConfig, BRACKETS, modernbert, 32,
        {
            "max_position_embeddings": 32, "local_attention": 6, "classifier_bias": True,
            "norm_bias": True, "classifier_activation": "gelu_pytorch_tanh",
        },
        NAMES, {},
    ),
}


def fill(model):
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.lower().endswith("norm.weight"):
                weight.copy_(1 + 0.2 * torch.randn(weight.shape))
            elif name.endswith("bias"):
                weight.copy_(0.2 * torch.randn(weight.shape))
            else:
                weight.copy_(torch.randn(weight.shape) * (2.0 / weight.shape[-1] ** 0.5))
    return model.eval()


def make(folder, network, configuration, marks, template, longest, own, names, said):
    torch.manual_seed(7)
    inner, vocabulary = tokenizer(marks, template)
    ids = {key: marks.index(mark) for key, mark in zip(
        ("pad_token_id", "bos_token_id", "eos_token_id"),
        ("[PAD]", "[CLS]", "[SEP]") if "[PAD]" in marks else ("<pad>", "<s>", "</s>"),
    )}
    if configuration is ModernBertConfig:
        ids |= {"cls_token_id": 1, "sep_token_id": 2}
    config = configuration(**COMMON, **own, **ids, vocab_size=vocabulary)
    model = fill(network(config))
    model.save_pretrained(folder)
    around = dict(zip(
        ("pad_token", "cls_token", "sep_token", "unk_token", "mask_token"),
        BRACKETS if "[PAD]" in marks else ("<pad>", "<s>", "</s>", "<unk>", "<mask>"),
    ))
    outer = PreTrainedTokenizerFast(
        tokenizer_object=inner, model_max_length=longest, model_input_names=names, **around
    )
    outer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | said, indent=2) + "\n")
    judge = CrossEncoder(str(folder), device="cpu", local_files_only=True)
    pairs = [(QUERY, document) for document in DOCUMENTS] + [(LONG, LONG), (LONG, "sun")]
    scores = judge.predict(pairs)
    rows = []
    for (query, document), score in zip(pairs, scores):
        read = judge.preprocess([(query, document)])
        rows.append({
            "query": query,
            "document": document,
            "tokens": read["input_ids"][0].tolist(),
            "types": read["token_type_ids"][0].tolist() if "token_type_ids" in read else None,
            "score": round(float(score), 7),
        })
    (folder / "scores.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(folder.name, [row["score"] for row in rows], [len(row["tokens"]) for row in rows])


for name, case in CASES.items():
    folder = Path(sys.argv[1]) / name
    folder.mkdir(parents=True, exist_ok=True)
    make(folder, *case)
