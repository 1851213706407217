"""Measures what guessing next tokens gains: `draft:` of models.yaml, beside the same model without.

    make build demo
    python3 benches/engine/drafts.py [--rounds 5] [--core 1]

One server with all ways loaded; each round asks each of them the same, one after the
other, so that whatever else the machine does meets all. A text that repeats is to be
said once more, and a free text is to be written. Answers have to be the same to the
letter. Linux only, as peer.py.
"""

import argparse
import http.client
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
ORGANISATION = "roundhouse/SmolLM2-135M-Instruct-"
# Model, and the drafts that it is measured with.
WAYS = {"4bit": ["prompt"], "8bit": ["prompt", "4bit"], "f32": ["prompt", "4bit"]}
LINE = "The quick brown fox jumps over the lazy dog while seven wizards judge my quartz box. "
TEXTS = {
    "repeating": ("/v1/completions", {"prompt": LINE * 6, "max_tokens": 160}),
    "free": (
        "/v1/chat/completions",
        {
            "messages": [{"role": "user", "content": "Explain how a steam engine works."}],
            "max_tokens": 160,
        },
    ),
}


def configuration():
    """Entries by kind and way."""
    entries = {}
    for kind, drafts in WAYS.items():
        for draft in [None, *drafts]:
            entry = {"repo": ORGANISATION + kind, "kv": "64MB", "preload": True}
            if draft:
                entry["draft"] = draft if draft == "prompt" else ORGANISATION + draft
            entries[f"{kind}-{draft or 'none'}"] = entry
    return {"memory": "16GB", "models": entries}


def ask(port, model, text):
    """Seconds from the first to the last event of a streamed answer, its text, and its usage."""
    path, body = TEXTS[text]
    body = {**body, "model": model, "temperature": 0, "stream": True, "logit_bias": {"2": -100}}
    body["stream_options"] = {"include_usage": True}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    first, said, usage = None, [], None
    for line in answer:
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            piece = choice.get("text") or choice.get("delta", {}).get("content")
            if piece:
                first, last = first or time.perf_counter(), time.perf_counter()
                said.append(piece)
    return last - first, "".join(said), usage


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--core", type=int, default=1, help="where workers run")
    parser.add_argument("--cache", type=Path, default=REPOSITORY / "data/hub")
    parser.add_argument("--binary", type=Path, default=REPOSITORY / "target/release/roundhouse")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "models.yaml"
        file.write_text(json.dumps({**configuration(), "cache": [str(arguments.cache)]}))
        environment = {**os.environ, "XDG_RUNTIME_DIR": scratch, "XDG_STATE_HOME": scratch}
        server = subprocess.Popen(
            ["taskset", "-c", str(arguments.core), arguments.binary, "serve", "--config", file]
            + ["--listen", "127.0.0.1:0", "--management", "127.0.0.1:0", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        try:
            where = json.loads(server.stdout.readline())["inference"]
            measure(arguments, int(where.rsplit(":", 1)[1]))
        finally:
            server.terminate()
            server.wait()


def measure(arguments, port):
    names = list(configuration()["models"])
    rates, counts, expected = {}, {}, {}
    for number in range(-1, arguments.rounds):
        for text in TEXTS:
            for name in names:
                took, said, usage = ask(port, name, text)
                kind = name.split("-")[0]
                same = expected.setdefault((kind, text), said)
                assert said == same, f"{name} says something else: {said!r}, not {same!r}"
                if number >= 0:
                    rate = (usage["completion_tokens"] - 1) / took
                    rates.setdefault((name, text), []).append(rate)
                    counts[name, text] = usage.get("completion_tokens_details", {})
    print("| model | draft | text | tokens/s | beside none | accepted | rejected |")
    print("|---|---|---|---|---|---|---|")
    for (name, text), found in sorted(rates.items()):
        kind, draft = name.split("-")
        pairs = zip(found, rates[f"{kind}-none", text])
        ratio = median(ours / none for ours, none in pairs)
        accepted = counts[name, text].get("accepted_prediction_tokens", 0)
        rejected = counts[name, text].get("rejected_prediction_tokens", 0)
        spread = f"{median(found):.1f} ({min(found):.1f}–{max(found):.1f})"
        print(f"| {kind} | {draft} | {text} | {spread} | {ratio:.2f} | {accepted} | {rejected} |")


if __name__ == "__main__":
    main()
