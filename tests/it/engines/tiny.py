"""An engine of a few lines that speaks as much of OpenAI's HTTP as the tests ask.

It tells in its answers what it was given: arguments, environment, folder, request.
What it does wrong, it is told to on its command line.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer

options = argparse.ArgumentParser(allow_abbrev=False)
options.add_argument("--port", type=int)
options.add_argument("--socket")
options.add_argument("--text", action="append", help="anything, to be told again")
options.add_argument("--slow", type=float, default=0, help="seconds before it is ready")
options.add_argument("--hang", action="store_true", help="never listens")
options.add_argument("--fail", action="store_true", help="ends at once")
options.add_argument("--deaf", action="store_true", help="ignores the signal to end")
options.add_argument("--farewell", help="a file that it writes when asked to end")
options.add_argument("--family", help="a file with the processes that it starts")
options.add_argument("--flood", action="store_true", help="never stops writing")
options.add_argument("--line", help="what it writes when it listens")
options.add_argument("--late-health", type=float, help="seconds until /health says 200")
options.add_argument("--race", help="a folder in which a race for the port is staged")
options = options.parse_args()

if options.fail:
    sys.exit("no \x1b[31mweights\x1b[0m here")
if options.family:
    started = [
        subprocess.Popen(["sleep", "1000"]),
        subprocess.Popen(["sleep", "1000"], start_new_session=True),
    ]
    with open(options.family, "w") as file:
        file.write(" ".join(str(one.pid) for one in started))
if options.deaf:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if options.farewell:

    def leave(number, frame):
        with open(options.farewell, "w") as file:
            file.write(signal.Signals(number).name)
        os._exit(0)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, leave)
if options.race:
    taken = os.path.join(options.race, "taken")
    if not os.path.exists(taken):
        with open(os.path.join(options.race, "port.new"), "w") as file:
            file.write(str(options.port))
        os.rename(os.path.join(options.race, "port.new"), os.path.join(options.race, "port"))
        while not os.path.exists(taken):
            time.sleep(0.01)
while options.hang:
    time.sleep(1000)
began = time.monotonic()
time.sleep(options.slow)


asked = threading.Event()


def flood():
    while True:
        word = "late " if asked.is_set() else "early "
        print(word * 200)
        print(word * 200, file=sys.stderr)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = options.port is not None

    def log_message(self, *_):
        pass

    def address_string(self):
        return "somebody"

    def do_GET(self):
        late = options.late_health or 0
        self.answer(200 if time.monotonic() - began >= late else 503, {"status": "whatever"})

    def do_POST(self):
        asked.set()
        text = self.rfile.read(int(self.headers["content-length"])).decode()
        body = json.loads(text)
        if body.get("die"):
            os._exit(7)
        if body.get("refuse"):
            return self.answer(422, {"detail": [{"msg": "not like this"}]})
        told = {
            "nonce": body.get("nonce"),
            "pid": os.getpid(),
            "path": self.path,
            "body": text,
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "arguments": sys.argv[1:],
            "environment": dict(os.environ),
            "folder": os.getcwd(),
            "standard_input": sys.stdin.read(),
        }
        content = json.dumps(told)
        usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
        if not body.get("stream"):
            message = {"role": "assistant", "content": content}
            return self.answer(200, {"choices": [{"message": message}], "usage": usage})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for part in (content, " and", " more"):
            time.sleep(body.get("pause", 0))
            self.event({"choices": [{"delta": {"content": part}}]})
        if (body.get("stream_options") or {}).get("include_usage"):
            self.event({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def event(self, chunk):
        self.wfile.write(b"data: " + json.dumps({"model": "mine", **chunk}).encode() + b"\n\n")

    def answer(self, status, value):
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    # Two of them on one port would be a race that nobody notices.
    allow_reuse_port = False

    def server_bind(self):
        # Without the look-up of a name that HTTPServer adds.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", 0


if options.socket:
    Server.address_family = socket.AF_UNIX
server = Server(options.socket or ("127.0.0.1", options.port), Handler)
if options.line:
    print(f"now: {options.line}!", flush=True)
if options.flood:
    threading.Thread(target=flood, daemon=True).start()
server.serve_forever()
