"""Measures what a router adds: Roundhouse beside nginx, HAProxy and the barest proxy.

    make bench-proxy [ARGS="--rounds 5"]
    python3 benches/proxy/peer.py --help

Every router stands before the same upstream, which answers at once (parts.rs), and is
asked by the same loader. The router has one core to itself; loader and upstream share
the other one. Rounds are interleaved: each measure is taken of every router before
the next round begins. Processor time is the router's own, all of its processes, from
the scheduler's count in nanoseconds; it is there because clocks are noisy on shared
machines. Roundhouse checks a key, writes its request log and keeps its metrics while
it is measured; the others log nothing. Linux only.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
sys.path.insert(0, str(HERE.parent / "engine"))

import machine  # noqa: E402

PARTS = REPOSITORY / "target/release/examples/proxy"
PROGRAM = REPOSITORY / "target/release/roundhouse"
BEGIN = "<!-- measured: make bench-proxy -->"
END = "<!-- end of the proxies -->"
DIRECT, FLOOR, OURS = "direct", "hyper, bare", "roundhouse"
PEER = "nginx"
UPSTREAM_CORE, ROUTER_CORE = "0", "1"

# What is asked, and for how long; the upstream reads `events` from the body.
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
    ("idle memory after it, MB", "memory", "memory", 1.0),
]


class Part:
    """A process, and how it is reached."""

    def __init__(self, name, command, port, core, key=None, env=None, log=None):
        self.name, self.port, self.key = name, port, key
        self.process = subprocess.Popen(
            ["taskset", "-c", core, *map(str, command)],
            env=env,
            stdout=log or subprocess.DEVNULL,
            stderr=log or subprocess.DEVNULL,
        )
        wait_for(port, self.process)

    def processes(self):
        """The process and whatever it started, except upstreams."""
        found, parents = [self.process.pid], children()
        for pid in found:
            found += parents.get(pid, [])
        return [pid for pid in found if not is_upstream(pid)]

    def processor_time(self):
        """Nanoseconds on a processor, all threads."""
        return sum(scheduled(pid) for pid in self.processes())

    def memory(self):
        """Proportional resident memory, bytes."""
        return sum(proportional(pid) for pid in self.processes())

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


def children():
    """Processes by their parent."""
    found = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        found[parent].append(int(stat.parent.name))
    return found


def is_upstream(pid):
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return True
    return words[1:2] == [b"upstream"] or b"--supervise" in words


def scheduled(pid):
    total = 0
    for stat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total += int(stat.read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def proportional(pid):
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(port, process):
    """Until it accepts connections."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"{process.args} ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    sys.exit(f"{process.args} does not listen")


def nginx(scratch, upstream):
    port = free_port()
    config = scratch / "nginx.conf"
    config.write_text(
        f"""
daemon off; worker_processes 1; pid {scratch}/nginx.pid; error_log /dev/null;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {scratch}/body; proxy_temp_path {scratch}/proxy;
  fastcgi_temp_path {scratch}/f; uwsgi_temp_path {scratch}/u; scgi_temp_path {scratch}/s;
  client_body_buffer_size 256k; keepalive_requests 100000000;
  upstream up {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection "";
                  proxy_buffering off; }}
  }}
}}
"""
    )
    return Part("nginx", ["nginx", "-c", config], port, ROUTER_CORE)


def haproxy(scratch, upstream):
    port = free_port()
    config = scratch / "haproxy.cfg"
    config.write_text(
        f"""
global
  nbthread 1
  maxconn 4096
  tune.bufsize 131072
defaults
  mode http
  timeout client 60s
  timeout server 60s
  timeout connect 5s
  http-reuse always
frontend front
  bind 127.0.0.1:{port}
  default_backend back
backend back
  server up 127.0.0.1:{upstream}
"""
    )
    return Part("HAProxy", ["haproxy", "-db", "-f", config], port, ROUTER_CORE)


def floor(_scratch, upstream):
    port = free_port()
    command = [PARTS, "floor", f"127.0.0.1:{port}", f"127.0.0.1:{upstream}"]
    return Part(FLOOR, command, port, ROUTER_CORE)


def roundhouse(scratch, _upstream):
    """The upstream's program is an engine of it, so that request takes the way of any."""
    home = scratch / "home"
    (home / "model").mkdir(parents=True)
    (home / "model/weights").write_bytes(b"x")
    port, management = free_port(), free_port()
    (home / "models.yaml").write_text(
        f"""
memory: 1GB
cache: ["{home}/hub"]
server: {{ listen: "127.0.0.1:{port}", management: "127.0.0.1:{management}" }}
request_log: {home}/requests.jsonl
pool: {{ queue: 10000, queue_per_caller: 10000 }}
engines:
  bench:
    command: [taskset, -c, "{UPSTREAM_CORE}", "{PARTS}", upstream, "127.0.0.1:{{port}}"]
    ready: /v1/models
models:
  bench: {{ path: "{home}/model", engine: bench, memory: 100MB, parallel: 4096, keep: always }}
"""
    )
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "XDG_RUNTIME_DIR": str(home)}
    key = subprocess.run(
        [PROGRAM, "keys", "new"], env=env, cwd=home, capture_output=True, text=True, check=True
    ).stdout.strip()
    log = (home / "log").open("w")
    command = [PROGRAM, "serve", "--config", home / "models.yaml"]
    part = Part(OURS, command, port, ROUTER_CORE, key, env, log)
    ask(part, WISHES["one"] | {"time_ms": 100})
    return part


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
    upstream = free_port()
    direct = Part(DIRECT, [PARTS, "upstream", f"127.0.0.1:{upstream}"], upstream, UPSTREAM_CORE)
    makers = [nginx, haproxy, floor, roundhouse]
    routers = [direct]
    figures = defaultdict(list)
    try:
        for maker in makers:
            if maker in (nginx, haproxy) and not shutil.which(maker.__name__):
                print(f"{maker.__name__} is not installed; left out", file=sys.stderr)
                continue
            folder = scratch / maker.__name__
            folder.mkdir()
            routers.append(maker(folder, upstream))
        for round_ in range(arguments.rounds):
            for name in WISHES:
                least = None
                for part in routers:
                    told = measure(part, name)
                    least = told["p50"] if part is direct else least
                    told["added"] = told["p50"] - least
                    for value in ("added", "per_second", "cpu", "p50", "p99", "first_p50"):
                        figures[part.name, name, value].append(told[value])
                    print(f"round {round_ + 1} {name} {part.name}: {told['p50']:.0f} µs, "
                          f"{told['per_second']:.0f}/s, cpu {told['cpu']:.2f} µs", file=sys.stderr)
        for part in routers:
            figures[part.name, "memory", "memory"].append(part.memory() / 1e6)
        return [part.name for part in routers], figures
    finally:
        for part in routers:
            part.stop()


def render(names, figures, arguments, facts):
    """The table, and which goals hold."""
    cell = lambda list_: f"{median(list_):.4g}"  # noqa: E731
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
    with tempfile.TemporaryDirectory(prefix="rhproxy") as scratch:
        names, figures = run(arguments, Path(scratch))
    model, _ = machine.processor()
    facts = [
        ("command", "`make bench-proxy`" + (f" with {arguments.rounds} rounds")),
        ("commit", machine.commit()),
        ("machine", f"{model}, {os.cpu_count()} cores"),
        ("load average", f"{before} before, {machine.load()} after"),
    ]
    table = render(names, figures, arguments, facts)
    print(table)
    if arguments.write:
        page = arguments.write.read_text()
        head, _, rest = page.partition(BEGIN)
        _, _, tail = rest.partition(END)
        arguments.write.write_text(f"{head}{BEGIN}\n{table}{END}{tail}")


if __name__ == "__main__":
    main()
