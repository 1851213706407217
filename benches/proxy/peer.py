"""Measures what a router adds: Roundhouse beside nginx, HAProxy, Envoy and others.

    make bench-proxy [ARGS="--rounds 5"]
    python3 benches/proxy/peer.py --help

Every router (routers.py) stands before the same upstream, which answers at once
(parts.rs), and is asked by the same loader; the barest proxy is one of them. The router
has one core to itself; loader and upstream share the other one. Rounds are interleaved:
each measure is taken of every router before the next round begins. Processor time is
the router's own, all of its processes, from the scheduler's count in nanoseconds; it is
there because clocks are noisy on shared machines. Roundhouse checks a key, writes its request log and keeps its metrics while
it is measured; the others log nothing. Linux only.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from datetime import date
from pathlib import Path
from statistics import median

import routers
from routers import DIRECT, OURS, PARTS

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "engine"))

import machine  # noqa: E402

BEGIN = "<!-- measured: make bench-proxy -->"
END = "<!-- end of the proxies -->"
PEER = "nginx"
UPSTREAM_CORE, ROUTER_CORE = "0", "1"
# Nobody asks for so long before memory is idle memory.
REST_SECONDS = 5

# What is asked, and for how long; the upstream gets `events` as `max_completion_tokens`.
WISHES = {
    "one": {"connections": 1, "time_ms": 2000},
    "many": {"connections": 32, "time_ms": 2000},
    "large": {"connections": 1, "time_ms": 2000, "filling": 67_000},
    "stream": {"connections": 1, "time_ms": 2000, "events": 5000},
}
# (name of the row, measure, value of one run, wanted ratio to nginx or none)
ROWS = [
    ("added p50, one connection, µs", "one", "added", 1.6),
    ("requests a second, 32 connections", "many", "per_second", 0.75),
    ("processor time a request, 32 connections, µs", "many", "cpu", None),
    ("added p50, body of 67 KB, µs", "large", "added", 1.5),
    ("processor time an event, saturated stream, µs", "stream", "cpu", 1.5),
    ("first byte of a saturated stream, µs", "stream", "first_p50", 2.0),
    ("idle memory five seconds after it, MB", "memory", "memory", 1.0),
]

MAKERS = [
    routers.direct,
    routers.nginx,
    routers.haproxy,
    routers.envoy,
    routers.sglang_router,
    routers.smg,
    routers.floor,
    routers.roundhouse,
]


def ask(part, wish):
    """One run of the loader."""
    wish = wish | {"model": "bench"} | ({"key": part.key} if part.key else {})
    command = ["taskset", "-c", UPSTREAM_CORE, PARTS, "load", f"127.0.0.1:{part.port}"]
    told = subprocess.run([*map(str, command), json.dumps(wish)], capture_output=True, text=True)
    if told.returncode != 0:
        sys.exit(f"{part.name}: {told.stderr}")
    return json.loads(told.stdout)


def measure(part, name):
    before = part.processor_time()
    told = ask(part, WISHES[name])
    spent = (part.processor_time() - before) / 1000
    told["cpu"] = spent / max(1, told["events"] if name == "stream" else told["requests"])
    return told


def run(arguments, scratch):
    """Every figure of every router: (router, measure, value) to a list."""
    place = routers.Place(scratch, routers.free_port(), ROUTER_CORE, UPSTREAM_CORE)
    parts = routers.start(MAKERS, place)
    figures = defaultdict(list)
    try:
        # Workers start, connections are made.
        for part in parts:
            ask(part, WISHES["one"] | {"time_ms": 100})
        for round_ in range(arguments.rounds):
            for name in WISHES:
                least = None
                for part in parts:
                    told = measure(part, name)
                    least = told["p50"] if part.name == DIRECT else least
                    told["added"] = told["p50"] - least
                    for value in ("added", "per_second", "cpu", "p50", "p99", "first_p50"):
                        figures[part.name, name, value].append(told[value])
                    print(f"round {round_ + 1} {name} {part.name}: {told['p50']:.0f} µs, "
                          f"{told['per_second']:.0f}/s, cpu {told['cpu']:.2f} µs", file=sys.stderr)
        time.sleep(REST_SECONDS)
        for part in parts:
            figures[part.name, "memory", "memory"].append(part.memory() / 1e6)
        return [part.name for part in parts], figures
    finally:
        for part in parts:
            part.stop()


def render(names, figures, arguments, facts):
    """The table, and which goals hold."""
    cell = lambda list_: f"{median(list_):,.0f}" if median(list_) >= 1000 else f"{median(list_):.4g}"  # noqa: E731
    lines = ["".join(f"- {name}: {value}\n" for name, value in facts)]
    lines.append(f"Medians of {arguments.rounds} interleaved rounds.\n")
    lines.append("| | " + " | ".join(names) + f" | to {PEER} | wanted |")
    lines.append("|---" * (len(names) + 3) + "|")
    for title, name, value, wanted in ROWS:
        cells = [cell(figures[router, name, value]) for router in names]
        if PEER in names:
            ratio = median(figures[OURS, name, value]) / max(1e-9, median(figures[PEER, name, value]))
            is_rate = value == "per_second"
            holds = wanted and (ratio >= wanted if is_rate else ratio <= wanted)
            goal = "" if wanted is None else f"{'≥' if is_rate else '≤'} {wanted}: {'holds' if holds else 'missed'}"
            cells += [f"{ratio:.2f}", goal]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", type=Path, help="renew the figures in this page")
    arguments = parser.parse_args()
    before = machine.load()
    routers.install()
    with tempfile.TemporaryDirectory(prefix="rhproxy") as scratch:
        names, figures = run(arguments, Path(scratch))
    model, _ = machine.processor()
    facts = [
        ("command", "`make bench-proxy`" + (f" with {arguments.rounds} rounds")),
        ("date", date.today().isoformat()),
        ("commit", machine.commit()),
        ("peers of PyPI", routers.versions()),
        ("machine", f"{model}, {os.cpu_count()} cores"),
        ("load average", f"{before} before, {machine.load()} after"),
    ]
    table = render(names, figures, arguments, facts)
    print(table)
    if arguments.write:
        routers.renew(arguments.write, BEGIN, END, table)


if __name__ == "__main__":
    main()
