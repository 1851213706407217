"""Measures the first token through a swap, part by part, beside the least it could be.

    make bench-swap [ARGS="--rounds 20"]
    python3 benches/engine/swap.py --help

One server with room for one model. In each round every demo model is asked for one
token while another one is loaded and idle, and then once more while it is loaded
itself. The least is what no program can save: mapping the same file and touching
its pages (touch.c), and the model's own first token when it is loaded. Parts come
from the server's status; what the client saw and they do not explain is a row of
its own. Then the same with files that have to come from the disk: each is put out of
the page cache before its turn, and read ahead by the server or not. Linux only, as peer.py.
"""

import argparse
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

import machine
import report
from client import Client, Refused
from engines import HERE, REPOSITORY, Roundhouse
from peer import MODELS, find_model

BEGIN = "<!-- measured: make bench-swap -->"
END = "<!-- end of the swaps -->"
# What the dense snapshot may take beyond the least, in milliseconds.
ALLOWED = {"f32": 150}
PROMPT = "Hello"
# Between a model's first token and the question to the next one, in seconds: an agent's
# answer and the work of its tool.
PAUSE = 1.0

ROWS = {
    "total": "**request to first token, through the swap**",
    "leave": "the other model's worker ends and is reaped",
    "ahead": "beside that: done of the process below when the load begins",
    "spawn": "the process starts, up to its first line of code, if not beside that",
    "device": "device made ready",
    "map": "headers, mapping, layers",
    "evaluate": "first evaluation",
    "texts": "tokenizer and template (beside the four above)",
    "rest": "the rest of the load: waiting for the texts, socket, ready line",
    "first": "lease to first token: first pass, faults on the mapped pages",
    "warm": "first token of the loaded model",
    "touch": "mapping and touching the file",
    "floor": "**the least: mapping, touching and the loaded model's first token**",
    "beyond": "**beyond the least**",
}


class Control(http.client.HTTPConnection):
    """The control socket, which needs no key."""

    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self.path))


def status_of(scratch, model):
    control = Control(scratch / "roundhouse.sock")
    control.request("GET", "/admin/models")
    models = json.loads(control.getresponse().read())["models"]
    control.close()
    return next(entry for entry in models if entry["model"] == model.id)


def first_token(port, model):
    """Milliseconds to the first token of a stream of one, of which the wait for a
    lease and the rest."""
    client = Client(port, model.id, lambda: 0.0)
    answer = client.ask("/v1/completions", {"prompt": PROMPT, "max_tokens": 1})
    return answer.first.wall * 1e3, answer.wait_ms


def measure(process, port, scratch, model, touch):
    """One swap to `model`, as a mapping of rows to milliseconds."""
    total, wait = first_token(port, model)
    status = status_of(scratch, model)
    phases, load = status["load_phases"], status["load_milliseconds"][-1]
    warm = min(first_token(port, model)[0] for _ in range(3))
    touched = float(subprocess.run(touch, check=True, capture_output=True, text=True).stdout)
    in_turn = phases["device"] + phases["map"] + phases["evaluate"]
    return {
        "total": total,
        "leave": wait - load,
        "ahead": phases["ahead"],
        "spawn": load - (phases["process"] - phases["ahead"]),
        "device": phases["device"],
        "map": phases["map"],
        "evaluate": phases["evaluate"],
        "texts": phases["texts"],
        "rest": phases["process"] - in_turn,
        "first": total - wait,
        "warm": warm,
        "touch": touched,
        "floor": touched + warm,
        "beyond": total - touched - warm,
    }


def forget(model):
    """Puts a model's weights out of the page cache; nobody may have them mapped."""
    with open(model.snapshot / "model.safetensors", "rb") as weights:
        os.posix_fadvise(weights.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def from_disk(arguments, scratch, models, prefetch):
    """The first token through swaps to files that are on the disk alone when the model
    before them comes up, by kind in milliseconds."""
    pool = f"max_models: 1, prefetch: {str(prefetch).lower()}"
    ours = Roundhouse(arguments.binary, arguments.cache, arguments.core, scratch, pool)
    found = defaultdict(list)
    process, client = ours.start(models[0])
    try:
        # What comes after what is learnt in the first rounds.
        for number in range(-3, arguments.rounds):
            for index, model in enumerate(models):
                total, _ = first_token(client.port, model)
                if number >= 0:
                    found[model.kind].append(total)
                time.sleep(PAUSE)
                forget(models[(index + 2) % len(models)])
    except (Refused, OSError) as problem:
        raise Refused(f"{problem}\n{process.last_words()}") from problem
    finally:
        process.end()
    return found


def run(arguments, scratch, models):
    touch = scratch / "touch"
    subprocess.run(["cc", "-O2", HERE / "touch.c", "-o", touch], check=True)
    ours = Roundhouse(arguments.binary, arguments.cache, arguments.core, scratch, "max_models: 1")
    found = defaultdict(list)
    process, client = ours.start(models[0])
    try:
        for model in models:
            first_token(client.port, model)
        for number in range(arguments.rounds):
            for model in models:
                weights = model.snapshot / "model.safetensors"
                touched = ["taskset", "-c", str(arguments.core), touch, weights]
                parts = measure(process, client.port, scratch, model, touched)
                for row, value in parts.items():
                    found[model.kind, row].append(value)
                print(
                    f"round {number + 1} {model.kind}: {parts['total']:.0f} ms, "
                    f"{parts['beyond']:.0f} ms beyond the least, load {os.getloadavg()[0]:.1f}",
                    file=sys.stderr,
                    flush=True,
                )
    except (Refused, OSError) as problem:
        raise Refused(f"{problem}\n{process.last_words()}") from problem
    finally:
        process.end()
    return found


def render(found, disk, arguments, facts):
    lines = ["".join(f"- {name}: {value}\n" for name, value in facts)]
    lines.append(
        f"Swaps of each model: {arguments.rounds}; server and workers on core {arguments.core}, "
        "the client on the others. Milliseconds; each cell is the median, with least and most "
        "in brackets.\n"
    )
    lines.append("| | " + " | ".join(report.TITLES[kind] for kind in MODELS) + " |")
    lines.append("|---" * (len(MODELS) + 1) + "|")
    for row, title in ROWS.items():
        cells = " | ".join(report.spread(found[kind, row]) for kind in MODELS)
        lines.append(f"| {title} | {cells} |")
    for kind, allowed in ALLOWED.items():
        beyond = median(found[kind, "beyond"])
        verdict = "holds" if beyond <= allowed else "**missed**"
        title = report.TITLES[kind]
        lines.append(f"\n{title}: wanted at most {allowed} ms beyond the least: {verdict}.")
    lines.append(
        "\nRequest to first token through the swap, with the file put out of the page cache "
        f"before the model ahead of it came up, and {PAUSE:.0f} s between that one's first token and "
        "the request:\n"
    )
    lines.append("| | " + " | ".join(report.TITLES[kind] for kind in MODELS) + " |")
    lines.append("|---" * (len(MODELS) + 1) + "|")
    for prefetch, title in [(False, "`prefetch: false`"), (True, "`prefetch: true`")]:
        cells = " | ".join(report.spread(disk[prefetch][kind]) for kind in MODELS)
        lines.append(f"| {title} | {cells} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, default=REPOSITORY / "target/release/roundhouse")
    parser.add_argument("--cache", type=Path, default=REPOSITORY / "data/hub")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--core", type=int, default=0, help="where server and workers run")
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace its measured part")
    arguments = parser.parse_args()
    arguments.binary = arguments.binary.resolve()
    arguments.cache = arguments.cache.resolve()
    others = os.sched_getaffinity(0) - {arguments.core}
    if others:
        os.sched_setaffinity(0, others)
    before = machine.load()
    with tempfile.TemporaryDirectory(prefix="rh-") as name:
        scratch = Path(name)
        models = [find_model(arguments.cache, kind) for kind in MODELS]
        found = run(arguments, scratch, models)
        disk = {on: from_disk(arguments, scratch, models, on) for on in (False, True)}
        command = f'make bench-swap ARGS="--rounds {arguments.rounds}"'
        facts = machine.facts(arguments, command, scratch, before)
    text = render(found, disk, arguments, facts)
    print(text)
    if arguments.write:
        report.write(arguments.write, text, BEGIN, END)


if __name__ == "__main__":
    try:
        main()
    except Refused as problem:
        sys.exit(f"error: {problem}")
