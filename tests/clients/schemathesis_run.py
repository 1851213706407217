"""schemathesis against a running server: no 5xx, no undocumented status, and
answers that look as the description says.

usage: schemathesis_run.py BASE_URL EXAMPLES [KEY]

The seed is fixed, so that a failure comes again. Ends with exit code 0 only if
nothing was found; else what was found is printed.
"""

import os
import pathlib
import subprocess
import sys

base, examples, *key = sys.argv[1:]
here = pathlib.Path(__file__).parent

checks = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "unsupported_method",
]
command = [
    sys.executable,
    "-m",
    "schemathesis.cli",
    "--no-color",
    "run",
    f"{base}/openapi.json",
    "--checks",
    ",".join(checks),
    "--phases",
    "examples,coverage,fuzzing",
    "--mode",
    "all",
    "--max-examples",
    examples,
    "--seed",
    "20260101",
    "--generation-database",
    "none",
    "--continue-on-failure",
    "--request-timeout",
    "30",
    # A second credential beside the right one is a refusal of its own.
    "--generation-with-security-parameters",
    "false",
]
if key:
    command += ["--header", f"Authorization: Bearer {key[0]}"]
environment = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(here), os.environ["PYTHONPATH"]]),
    "SCHEMATHESIS_HOOKS": "schemathesis_hooks",
}
ran = subprocess.run(command, env=environment, capture_output=True, text=True)
if ran.returncode != 0:
    sys.exit(f"{ran.stdout}\n{ran.stderr}")
print("ok")
