"""The matrix product alone: our BLAS against the one that the wheel brings."""

import os
import re
import subprocess

from engines import REPOSITORY

EXAMPLE = REPOSITORY / "target/release/examples/product"
SIZE = 1024


def measure(core):
    """(which BLAS, output) of each run; nothing if the example is not built."""
    if not EXAMPLE.is_file():
        return []
    runs = [("OpenBLAS, as built", {})]
    # Preloaded, the reference BLAS stands in front again.
    packages = REPOSITORY / "target/native/packages"
    for library in packages.glob("mlx-*/*.libs/libblas*"):
        runs.append(("reference BLAS of the wheel", {"LD_PRELOAD": str(library)}))
    return [(name, run(core, more)) for name, more in runs]


def run(core, more):
    result = subprocess.run(
        ["taskset", "-c", str(core), EXAMPLE, str(SIZE)],
        env={**os.environ, **more},
        capture_output=True,
        text=True,
        check=False,
    )
    said = result.stdout.strip()
    return said if re.match(r"\d", said) else f"failed: {result.stderr.strip()[-200:]}"
