"""What a reader must know to judge the figures: the kind of machine, versions."""

import importlib.metadata
import os
import platform
import subprocess
from datetime import date
from pathlib import Path

from engines import HERE, PACKAGES, REPOSITORY

# Which of the processor's instruction sets make a difference here.
NOTABLE = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile")
PEERS = ("mlx-lm", "mlx", "transformers", "tokenizers", "scipy-openblas32", "xllamacpp")


def facts(arguments, command, scratch, load_before):
    """(name, value) of everything that is told above the tables, apart from peers."""
    model, flags = processor()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return [
        ("command", f"`{command}`"),
        ("date", date.today().isoformat()),
        ("commit", commit()),
        ("roundhouse", said_by(arguments.binary, "--version")),
        ("machine", f"{platform.machine()}, {model}, {os.cpu_count()} cores, {memory:.0f} GiB"),
        ("instruction sets", " ".join(flag for flag in NOTABLE if flag in flags)),
        ("system", f"{platform.system()} {platform.release().partition('-')[0]}"),
        ("memory", memory_rate(arguments.core, scratch)),
        ("load average", f"{load_before} before, {load()} after, the benchmark's own included"),
    ]


def peers():
    """The versions of what ours is compared with."""
    versions = {
        found.metadata["Name"].lower(): found.version
        for found in importlib.metadata.distributions(path=[str(PACKAGES)])
    }
    told = ", ".join(f"{name} {versions[name]}" for name in PEERS)
    return ("peer", f"{told}, Python {platform.python_version()}")


def load():
    """The load average of the last one and fifteen minutes."""
    one, _, fifteen = os.getloadavg()
    return f"{one:.1f} (1 min) {fifteen:.1f} (15 min)"


def processor():
    """The processor's model name and its flags."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    pairs = (line.partition(":")[::2] for line in lines)
    known = {name.strip().lower(): value.strip() for name, value in pairs}
    flags = known.get("flags") or known.get("features", "")
    return known.get("model name", "unnamed processor"), set(flags.split())


def memory_rate(core, scratch):
    """How fast one core reads: no token comes sooner than its weights are read."""
    program = scratch / "memory"
    compiler = ["cc", "-O3", "-march=native", HERE / "memory.c", "-o", program]
    subprocess.run(compiler, check=True)
    one, eight = said_by("taskset", "-c", str(core), program).split()
    return f"one core reads {one} GB/s as one stream, {eight} GB/s as eight side by side"


def commit():
    """The commit that is checked out, and whether files differ from it."""
    short = said_by("git", "rev-parse", "--short=12", "HEAD")
    changed = said_by("git", "status", "--porcelain", "--untracked-files=no", "src")
    return f"{short}, with changes" if changed else short


def said_by(*command):
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else "unknown"
