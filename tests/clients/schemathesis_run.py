"""schemathesis against a running server: no 5xx, no undocumented status, and
answers that look as the description says.

usage: schemathesis_run.py BASE_URL EXAMPLES [--key KEY] [--forget STATUS]

The seed is fixed, so that a failure comes again. Ends with exit code 0 only if
nothing was found; else what was found is printed. With --forget the description
lacks a status, and it is a failure if nobody notices.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

parser = argparse.ArgumentParser()
parser.add_argument("base")
parser.add_argument("examples")
parser.add_argument("--key")
parser.add_argument("--forget")
asked = parser.parse_args()
here = pathlib.Path(__file__).parent

headers = {"Authorization": f"Bearer {asked.key}"} if asked.key else {}
request = urllib.request.Request(f"{asked.base}/openapi.json", headers=headers)
with urllib.request.urlopen(request) as response:
    description = json.load(response)
if asked.forget:
    for item in description["paths"].values():
        for operation in item.values():
            operation["responses"].pop(asked.forget, None)

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
    None,
    "--url",
    asked.base,
    "--checks",
    ",".join(checks),
    "--phases",
    "examples,coverage,fuzzing",
    "--mode",
    "all",
    "--max-examples",
    asked.examples,
    "--seed",
    "20260101",
    "--generation-database",
    "none",
    "--continue-on-failure",
    # How quickly examples are made up says something of the machine alone.
    "--suppress-health-check",
    "too_slow",
    # It has no end; what it says is tested elsewhere.
    "--exclude-path",
    "/admin/events",
    "--request-timeout",
    "30",
    # A second credential beside the right one is a refusal of its own.
    "--generation-with-security-parameters",
    "false",
]
for name, value in headers.items():
    command += ["--header", f"{name}: {value}"]
environment = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(here), os.environ["PYTHONPATH"]]),
    "SCHEMATHESIS_HOOKS": "schemathesis_hooks",
}
with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, "openapi.json")
    path.write_text(json.dumps(description))
    command[command.index(None)] = str(path)
    # It leaves notes of its own where it runs.
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
if asked.forget:
    noticed = ran.returncode != 0 and "Undocumented" in ran.stdout
else:
    noticed = ran.returncode == 0
if not noticed:
    sys.exit(f"{ran.stdout}\n{ran.stderr}")
print("ok")
