"""Holds as many streams open as descriptors allow, and tells what one of them costs.

    make bench-streams [ARGS="--seconds 40"]
    python3 benches/proxy/streams.py --help

Each stream has one event at once, so that it is open. When all are, the upstream sends
each of them five events a second by its own clock; every event says which one it is and
when it was sent. One loader opens all streams, reads every event and checks that none is
missing or out of order. Roundhouse serves them as several models, since an entry may have
4,096 requests at once. Nobody is pinned: loader, router and
upstream share the machine's cores, which --cores narrows. Memory is what a router has
more, while all streams are open, than after its first request. Routers are measured one
after the other, and no router at all as the floor. Linux only.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from datetime import date
from pathlib import Path

import routers
from routers import DIRECT, OURS, PARTS

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "engine"))

import machine  # noqa: E402

BEGIN = "<!-- measured: make bench-streams -->"
END = "<!-- end of the streams -->"
# A router has two descriptors for a stream, and some of its own.
OWN_DESCRIPTORS = 200
MAKERS = {"direct": routers.direct, "nginx": routers.nginx, "haproxy": routers.haproxy,
          "envoy": routers.envoy, "floor": routers.floor, "roundhouse": routers.roundhouse}
# How long it waits before it looks at memory and processor time again.
LOOK_SECONDS = 5
# Nobody asks for so long before what is left of their memory is looked at.
REST_SECONDS = 5
# The goals: streams at once, bytes of the router a stream, milliseconds that it adds.
STREAMS, BYTES, ADDED_MS = 9_000, 24_000, 10


def measure(maker, arguments, scratch):
    """One router before an upstream of its own, with all streams."""
    models = -(-arguments.streams // routers.MOST_PARALLEL)
    place = routers.Place(
        scratch, routers.free_port(), arguments.cores, arguments.cores, arguments.streams + 8,
        tuple(f"bench-{number}" for number in range(models)),
    )
    upstream = None if maker is routers.direct else routers.direct(place)
    try:
        part = maker(place)
        try:
            routers.probe(part)
            return load(part, arguments)
        finally:
            part.stop()
    finally:
        if upstream:
            upstream.stop()


def load(part, arguments):
    """What the loader saw, with the router's memory, its processor time and the kernel's memory."""
    wish = {"models": part.models, "streams": arguments.streams, "key": part.key}
    wish |= {"gap_us": arguments.gap * 1000, "seconds": arguments.seconds}
    wish |= {"opening_ms": arguments.opening * 1000, "pieces": arguments.pieces}
    command = ["taskset", "-c", arguments.cores, PARTS, "streams", f"127.0.0.1:{part.port}"]
    part.settle()
    empty, sockets, idle = part.memory(), socket_memory(), part.processor_time()
    loader = subprocess.Popen([*map(str, command), json.dumps(wish)], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True)
    began, opened, lines = time.monotonic(), threading.Event(), []

    def read():
        for line in loader.stdout:
            lines.append(line)
            opened.set()
        opened.set()

    reader = threading.Thread(target=read)
    reader.start()
    opened.wait()
    told = {"opening": time.monotonic() - began, "sockets": 0, "cpu": None}
    told["each"] = (part.processor_time() - idle) / 1000
    told["open"] = told["memory"] = part.memory() - empty
    time.sleep(max(0, began + arguments.opening - time.monotonic()))
    spent, since = part.processor_time(), time.monotonic()
    # All streams are open from here to the end of the first of them.
    until = began + arguments.opening + arguments.seconds - 2
    while loader.poll() is None and time.monotonic() < until:
        told["memory"] = max(told["memory"], part.memory() - empty)
        told["sockets"] = max(told["sockets"], socket_memory() - sockets)
        told["cpu"] = (part.processor_time() - spent) / 1e9 / (time.monotonic() - since)
        # Looking holds up what is looked at, which has no core to spare.
        time.sleep(LOOK_SECONDS)
    reader.join()
    errors = loader.stderr.read()
    if loader.wait() != 0 or not lines:
        raise RuntimeError(f"{part.name}: {errors}")
    time.sleep(REST_SECONDS)
    told["after"] = part.memory() - empty
    told |= json.loads(lines[-1])
    told["whole"] = lines[0].strip() == "open" and told["in_time"]
    return told


def socket_memory():
    """Bytes that the kernel holds for the buffers of TCP sockets, of the whole machine."""
    line = next(line for line in Path("/proc/net/sockstat").read_text().splitlines()
                if line.startswith("TCP:"))
    words = line.split()
    return int(words[words.index("mem") + 1]) * os.sysconf("SC_PAGE_SIZE")


def rows(names, told):
    """(title, cells) of the table."""
    floor = told[DIRECT]
    per = lambda name, value: f"{told[name][value] / told[name]['streams']:,.0f}"  # noqa: E731
    ms = lambda value: "–" if value is None else f"{value / 1000:.3g}"  # noqa: E731
    added = lambda name: "–" if name == DIRECT or not told[name]["measured"] or not floor["measured"] \
        else ms(told[name]["p99"] - floor["p99"])  # noqa: E731
    is_router = lambda name: name != DIRECT  # noqa: E731
    table = [
        ("streams open at once", lambda it: f"{told[it]['streams'] if told[it]['whole'] else 0:,}"),
        ("seconds until all are open", lambda it: f"{told[it]['opening']:.1f}"),
        ("router's processor time to open one, µs", lambda it: per(it, "each") if is_router(it) else "–"),
        ("events sent", lambda it: f"{told[it]['expected']:,}"),
        ("events lost or out of order", lambda it: f"{told[it]['expected'] - told[it]['events']:,}"),
        ("streams that failed", lambda it: f"{told[it]['failed']:,}"),
        ("router's memory, bytes a stream", lambda it: per(it, "memory") if is_router(it) else "–"),
        ("the same before their second events", lambda it: per(it, "open") if is_router(it) else "–"),
        ("the same five seconds after they have ended", lambda it: per(it, "after") if is_router(it) else "–"),
        ("kernel's buffers, bytes a stream, all processes", lambda it: per(it, "sockets")),
        ("router's processor time, cores", lambda it: f"{told[it]['cpu'] or 0:.2f}" if is_router(it) else "–"),
        ("event from upstream to loader, p50, ms", lambda it: ms(told[it]["p50"])),
        ("the same, p99, ms", lambda it: ms(told[it]["p99"])),
        ("the same, p99.9, ms", lambda it: ms(told[it]["p999"])),
        ("the same, longest, ms", lambda it: ms(told[it]["most"])),
        ("added p99, ms", added),
    ]
    return [(title, [cell(name) for name in names]) for title, cell in table]


def render(names, told, facts):
    lines = ["".join(f"- {name}: {value}\n" for name, value in facts)]
    lines.append("| | " + " | ".join(told[name]["title"] for name in names) + " |")
    lines.append("|---" * (len(names) + 1) + "|")
    lines += [f"| {title} | " + " | ".join(cells) + " |" for title, cells in rows(names, told)]
    ours = told.get(OURS)
    if ours and ours["measured"] and told[DIRECT]["measured"]:
        added = (ours["p99"] - told[DIRECT]["p99"]) / 1000
        goals = [
            (f"at least {STREAMS:,} streams", ours["whole"] and ours["streams"] >= STREAMS),
            ("no event lost", ours["expected"] == ours["events"] and not ours["failed"]),
            (f"at most {BYTES:,} bytes a stream", ours["whole"] and ours["memory"] / ours["streams"] <= BYTES),
            (f"added p99 under {ADDED_MS} ms", ours["whole"] and added < ADDED_MS),
        ]
        said = "; ".join(f"{goal}: {'holds' if holds else 'missed'}" for goal, holds in goals)
        lines.append(f"\nRoundhouse: {said}.")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, help="how many; as many as fit if nothing is said")
    parser.add_argument("--opening", type=int, default=20, help="seconds for opening all of them")
    parser.add_argument("--seconds", type=int, default=30, help="how long they last then")
    parser.add_argument("--gap", type=int, default=200, help="milliseconds between two events")
    parser.add_argument("--pieces", action="store_true",
                        help="the upstream writes events in pieces, every eighth byte by byte")
    parser.add_argument("--cores", default="0,1", help="the cores of all processes")
    parser.add_argument("--routers", default="direct,floor,nginx,roundhouse",
                        help=f"of {', '.join(MAKERS)}; direct always is")
    parser.add_argument("--write", type=Path, help="renew the figures in this page")
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    fit = (hard - OWN_DESCRIPTORS) // 2 if hard != resource.RLIM_INFINITY else STREAMS + 900
    # One address has so many ports for connections to one other.
    arguments.streams = arguments.streams or min(fit, ports() - 1000)
    before = machine.load()
    names = ["direct"] + [it for it in arguments.routers.split(",") if it != "direct"]
    if "envoy" in names:
        routers.install()
    told = {}
    with tempfile.TemporaryDirectory(prefix="rhstreams") as scratch:
        for name in names:
            print(f"{name}: {arguments.streams} streams", file=sys.stderr)
            try:
                told[name] = measure(MAKERS[name], arguments, Path(scratch)) | {"title": name}
            except FileNotFoundError as reason:
                print(f"{name} is left out: {reason}", file=sys.stderr)
                continue
            print(f"{name}: {json.dumps(told[name])}", file=sys.stderr)
    names = [name for name in names if name in told]
    model, _ = machine.processor()
    facts = [
        ("command", f"`make bench-streams`, {arguments.seconds} seconds, cores {arguments.cores}"
                    f", an event every {arguments.gap} ms in each stream"
                    f"{', in pieces' if arguments.pieces else ''}"),
        ("date", date.today().isoformat()),
        ("commit", machine.commit()),
        ("machine", f"{model}, {os.cpu_count()} cores"),
        ("descriptors", f"{hard:,} for each process, hard limit"),
        ("load average", f"{before} before, {machine.load()} after, the benchmark's own included"),
    ]
    table = render(names, told, facts)
    print(table)
    if arguments.write:
        routers.renew(arguments.write, BEGIN, END, f"\n{table}\n")


def ports():
    least, most = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    return int(most) - int(least)


if __name__ == "__main__":
    main()
