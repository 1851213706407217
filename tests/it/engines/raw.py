"""An engine that says what it is told to, byte for byte, and keeps what it is asked.

In its folder `reply` is a whole answer, head and body, that it sends to every POST, in
pieces of a few odd sizes, and before it has read anything if there is `early`; `head` and `body` are those of the last POST as they came, `heads`
the request lines of all.
"""

import argparse
import os
from socketserver import StreamRequestHandler, TCPServer, ThreadingMixIn

options = argparse.ArgumentParser(allow_abbrev=False)
options.add_argument("--port", type=int)
options.add_argument("folder")
options = options.parse_args()


def keep(name, content):
    path = os.path.join(options.folder, name)
    with open(path + ".new", "wb") as file:
        file.write(content)
    os.rename(path + ".new", path)


def field(head, name):
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip()
    return None


class Handler(StreamRequestHandler):
    disable_nagle_algorithm = True

    def handle(self):
        while self.one():
            pass

    def one(self):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline()
            if not line:
                return False
            head += line
        if head.startswith(b"GET "):
            self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            return True
        keep("head", head)
        with open(os.path.join(options.folder, "heads"), "ab") as file:
            file.write(head.split(b"\r\n")[0] + b"\n")
        early = os.path.exists(os.path.join(options.folder, "early"))
        if not early:
            body = self.body(head)
            if body is None:
                return False
            keep("body", body)
        with open(os.path.join(options.folder, "reply"), "rb") as file:
            reply = file.read()
        sizes = [1, 3, 700, 17, 4096, 65536]
        at = 0
        while at < len(reply):
            size = sizes[at % len(sizes)]
            self.wfile.write(reply[at : at + size])
            at += size
        if early:
            self.body(head)
        answered = reply.split(b"\r\n\r\n")[0]
        return field(answered, b"connection") != b"close"

    def body(self, head):
        length = field(head, b"content-length")
        if length is not None:
            body = self.rfile.read(int(length))
            return body if len(body) == int(length) else None
        body = b""
        while size := int(self.rfile.readline() or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        return body if self.rfile.readline() else None


class Server(ThreadingMixIn, TCPServer):
    daemon_threads = True
    allow_reuse_address = True


Server(("127.0.0.1", options.port), Handler).serve_forever()
