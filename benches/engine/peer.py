"""Compares Roundhouse with `mlx_lm.server` on the same snapshots and one core.

    make bench-engine [ARGS="--rounds 1 --models 4bit"]
    python3 benches/engine/peer.py --help

Each round starts every engine on every model once, one after the other, and
measures it; so whatever else happens on the machine meets all of them alike. The
engines run on one core and this client on another. Linux only: the core is
chosen with `taskset`, processor times come from /proc.
"""

import argparse
import os
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import machine
import product
import report
from client import Refused
from engines import REPOSITORY, MlxLm, Roundhouse, build_openblas, install_peer

MODELS = ("4bit", "8bit", "f32")
PROMPT = 400
STREAMS = 8


@dataclass(frozen=True)
class Model:
    """A demo model in the cache."""

    kind: str
    id: str
    snapshot: Path


def find_model(cache, kind):
    name = f"SmolLM2-135M-Instruct-{kind}"
    folder = cache / f"models--roundhouse--{name}"
    commit = (folder / "refs" / "main").read_text().strip()
    return Model(kind, f"roundhouse/{name}", folder / "snapshots" / commit)


def engines_of(model, engines):
    """OpenBLAS changes nothing where MLX does not call BLAS, as in its quantised
    products; those runs are left out."""
    return [e for e in engines if model.kind == "f32" or not e.preloads]


def measure(engine, model, seed, sizes):
    """Starts an engine twice and measures it: a list of (measure, Cost)."""
    found = [("ready", engine.spawn_to_ready(model))]
    process, client = engine.start(model)
    try:
        client.complete("Hello", 1)
        found.append(("first", process.cost()))
        answer = client.chat(sizes.words, seed)
        if answer.cached_tokens > PROMPT // 10:
            raise Refused(f"{answer.cached_tokens} tokens of the prompt were not new")
        sizes.seen.add(answer.prompt_tokens)
        found.append(("prompt", answer.first))
        found.append(("second", client.second_turn(sizes.words, seed)))
        found.append(("decode", client.decode(sizes.decode)))
        found.append(("concurrent", client.concurrent(STREAMS, sizes.concurrent)))
        return found
    except (Refused, OSError) as problem:
        raise Refused(f"{problem}\n{process.last_words()}") from problem
    finally:
        process.end()


class Sizes:
    """How much is asked for. `words` is set so that the chat has PROMPT tokens;
    `seen` are the lengths that the engines reported."""

    def __init__(self, decode, concurrent):
        self.decode, self.concurrent = decode, concurrent
        self.words, self.seen = PROMPT, set()

    def adjust(self, client):
        few = 10
        around = client.chat(few, "length").prompt_tokens - few
        self.words = PROMPT - around


def warm_up(engine, model, sizes):
    """Fills the caches of the file system and of Python, unmeasured."""
    process, client = engine.start(model)
    try:
        client.complete("Hello", 1)
        if isinstance(engine, Roundhouse):
            sizes.adjust(client)
    finally:
        process.end()


def run(arguments, scratch):
    """Everything: a mapping of (model, engine, measure) to a list of costs."""
    install_peer()
    models = [find_model(arguments.cache, kind) for kind in arguments.models]
    ours = Roundhouse(arguments.binary, arguments.cache, arguments.core, scratch)
    peers = [MlxLm(arguments.core), MlxLm(arguments.core, build_openblas(scratch))]
    sizes = Sizes(arguments.decode, arguments.concurrent)
    costs = defaultdict(list)
    for model in models:
        for engine in engines_of(model, [ours, *peers]):
            warm_up(engine, model, sizes)
    for number in range(arguments.rounds):
        for model in models:
            for engine in engines_of(model, [ours, *peers]):
                seed = f"{number} {os.getpid()}"
                for name, cost in measure(engine, model, seed, sizes):
                    costs[model.kind, engine.name, name].append(cost)
                    tell(f"round {number + 1} {model.kind} {engine.name} {name}", cost)
    return costs, sizes


def tell(what, cost):
    """Progress, on standard error."""
    load = os.getloadavg()[0]
    by_processor = f"by processor time {cost.processor:.2f}"
    print(f"{what}: {cost.wall:.2f}, {by_processor}, load {load:.1f}", file=sys.stderr, flush=True)


def command(arguments):
    """How this run can be repeated elsewhere: without the paths of this machine."""
    options = f"--rounds {arguments.rounds} --models {','.join(arguments.models)}"
    options += f" --decode {arguments.decode} --concurrent {arguments.concurrent}"
    return f'make bench-engine ARGS="{options}"'


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, default=REPOSITORY / "target/release/roundhouse")
    parser.add_argument("--cache", type=Path, default=REPOSITORY / "data/hub")
    parser.add_argument(
        "--models", type=lambda text: text.split(","), default=list(MODELS), metavar="4bit,8bit,f32"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--decode", type=int, default=64, help="tokens of the single stream")
    parser.add_argument("--concurrent", type=int, default=32, help="tokens of each of eight")
    parser.add_argument("--core", type=int, default=0, help="where the engines run")
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
        costs, sizes = run(arguments, scratch)
        facts = machine.facts(arguments, command(arguments), scratch, before)
    products = product.measure(arguments.core)
    facts.append(machine.peers())
    text = report.render(costs, arguments, sorted(sizes.seen), facts, products)
    print(text)
    if arguments.write:
        report.write(arguments.write, text, report.BEGIN, report.END)


if __name__ == "__main__":
    try:
        main()
    except Refused as problem:
        sys.exit(f"error: {problem}")
