"""Compares Roundhouse with `mlx_lm.server` and llama.cpp's on the same model and one core.

    make bench-engine [ARGS="--rounds 1 --models 4bit"]
    python3 benches/engine/peer.py --help

Each round starts every engine on every model once, one after the other, and
measures it; so whatever else happens on the machine meets all of them alike. What takes
a slow engine minutes it does in the first round alone. The
engines run on one core and this client on another. Linux only: the core is
chosen with `taskset`, processor times come from /proc.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import machine
import product
import report
from client import Client, Refused
from engines import REPOSITORY, LlamaCpp, MlxLm, Roundhouse, build_openblas, install_peer

MODELS = ("4bit", "8bit", "f32")
PEERS = ("mlx-lm", "mlx-lm + OpenBLAS", "llama.cpp")
# Who has the memory between two turns.
OTHER = {"4bit": "8bit", "8bit": "4bit", "f32": "4bit"}
# Tokens of the prompts whose first token is timed; those beyond LONG take minutes in a
# slow engine.
PROMPTS = (32, 450, 2000)
LONG = 450
# Tokens of the first turn of a conversation.
TURN = 680
STREAMS = (1, 8, 32)
FEW_STREAMS = 8
# Between a model's answer and the question to the other one, in seconds.
PAUSE = 1.0


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
    return [engine for engine in engines if model.kind in engine.kinds]


def measure(engine, model, seed, sizes, is_whole):
    """Starts an engine twice and measures it: a list of (measure, Cost). Only a
    `whole` round has what takes minutes."""
    found = [("ready", engine.spawn_to_ready(model))]
    process, client = engine.start(model)
    try:
        client.complete("Hello", 1)
        found.append(("first", process.cost()))
        for tokens in PROMPTS:
            if is_whole or tokens <= LONG:
                answer = new(client.prompt(tokens, f"{seed} {tokens}"))
                found.append((f"prompt {tokens}", answer.first))
        if is_whole:
            words = sizes.words_of_a_turn()
            found.append(("turn 1", new(client.chat(words, seed)).first))
            found.append(("turn 2", client.second_turn(words, seed).first))
        found.append(("decode", client.decode(sizes.decode)))
        for streams in STREAMS:
            if is_whole or streams <= FEW_STREAMS:
                rate = client.concurrent(streams, sizes.concurrent)
                found.append((f"streams {streams}", rate))
        return found
    except (Refused, OSError) as problem:
        raise Refused(f"{problem}\n{process.last_words()}") from problem
    finally:
        process.end()


def new(answer):
    """An answer of whose prompt the engine knew nothing."""
    if answer.cached_tokens > answer.prompt_tokens // 2:
        raise Refused(f"{answer.cached_tokens} of {answer.prompt_tokens} tokens were not new")
    return answer


def measure_return(engine, model, other, seed, sizes):
    """The second turn of a conversation after another model had the memory: a list of
    (measure, Cost). What the engine has of the prompt must be all that it had before."""
    process, client = engine.start(model)
    try:
        there = Client(client.port, other.id, client.processor_seconds)
        words = sizes.words_of_a_turn()
        client.complete("Hello", 1)
        first = new(client.chat(words, seed))
        before = client.second_turn(words, seed)
        time.sleep(PAUSE)
        there.complete("Hello", 1)
        time.sleep(PAUSE)
        after = client.second_turn(words, seed)
        if after.cached_tokens < before.cached_tokens:
            raise Refused(f"{after.cached_tokens} tokens kept, not {before.cached_tokens}")
        return [("whole prompt", first.first), ("return", after.first)]
    except (Refused, OSError) as problem:
        raise Refused(f"{problem}\n{process.last_words()}") from problem
    finally:
        process.end()


class Sizes:
    """How much is asked for. `around` is what the chat's template adds to its words."""

    def __init__(self, decode, concurrent):
        self.decode, self.concurrent = decode, concurrent
        self.around = 0

    def words_of_a_turn(self):
        return TURN - self.around

    def adjust(self, client):
        few = 10
        self.around = client.chat(few, "length").prompt_tokens - few


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
    place = (arguments.binary, arguments.cache, arguments.core, scratch)
    ours, alone = Roundhouse(*place), Roundhouse(*place, "max_models: 1")
    peers = [MlxLm(arguments.core), MlxLm(arguments.core, build_openblas(scratch))]
    peers = [*peers, LlamaCpp(arguments.core)]
    engines = [ours, *(peer for peer in peers if peer.name in arguments.peers)]
    sizes = Sizes(arguments.decode, arguments.concurrent)
    costs = defaultdict(list)
    for model in models:
        for engine in engines_of(model, engines):
            warm_up(engine, model, sizes)
    for number in range(arguments.rounds):
        seed = f"{number} {os.getpid()}"
        for model in models:
            for engine in engines_of(model, engines):
                is_whole = number == 0 or not engine.is_slow
                found = measure(engine, model, seed, sizes, is_whole)
                if engine is ours:
                    other = find_model(arguments.cache, OTHER[model.kind])
                    found += measure_return(alone, model, other, f"{seed} again", sizes)
                for name, cost in found:
                    costs[model.kind, engine.name, name].append(cost)
                    tell(f"round {number + 1} {model.kind} {engine.name} {name}", cost)
    return costs


def tell(what, cost):
    """Progress, on standard error."""
    load = os.getloadavg()[0]
    by_processor = f"by processor time {cost.processor:.2f}"
    print(f"{what}: {cost.wall:.2f}, {by_processor}, load {load:.1f}", file=sys.stderr, flush=True)


def command(arguments):
    """How this run can be repeated elsewhere: without the paths of this machine."""
    options = f"--rounds {arguments.rounds} --models {','.join(arguments.models)}"
    options += f" --decode {arguments.decode} --concurrent {arguments.concurrent}"
    if arguments.peers != list(PEERS):
        options += f" --peers {','.join(arguments.peers)}"
    return f'make bench-engine ARGS="{options}"'


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, default=REPOSITORY / "target/release/roundhouse")
    parser.add_argument("--cache", type=Path, default=REPOSITORY / "data/hub")
    parser.add_argument(
        "--models", type=lambda text: text.split(","), default=list(MODELS), metavar="4bit,8bit,f32"
    )
    parser.add_argument(
        "--peers", type=lambda text: text.split(","), default=list(PEERS), metavar=",".join(PEERS)
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--decode", type=int, default=64, help="tokens of the single stream")
    parser.add_argument("--concurrent", type=int, default=32, help="tokens of each of many")
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
        costs = run(arguments, scratch)
        facts = machine.facts(arguments, command(arguments), scratch, before)
    products = product.measure(arguments.core)
    facts.append(machine.peers())
    text = report.render(costs, arguments, facts, products)
    print(text)
    if arguments.write:
        report.write(arguments.write, text, report.BEGIN, report.END)


if __name__ == "__main__":
    try:
        main()
    except Refused as problem:
        sys.exit(f"error: {problem}")
