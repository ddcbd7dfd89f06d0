"""A program in the place of tritonserver: it answers whether it is ready, and has a child as the real one has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

OPTIONS = dict(argument.removeprefix("--").partition("=")[::2] for argument in sys.argv[1:])
REPOSITORY = Path(OPTIONS["model-repository"])


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"name": "triton", "version": "0.0.fake"}')

    def log_message(self, *arguments):
        pass


if (REPOSITORY / "refused").exists():
    sys.stderr.write('I1126 03:00:00.000000 1 server.cc:1] "starting"\n')
    sys.stderr.write("E1126 03:00:00.000000 1 model.cc:7] \"failed to load 'lite'\"\n")
    sys.exit(1)

child = subprocess.Popen([sys.executable, "-c", "import signal; signal.signal(15, signal.SIG_IGN); signal.pause()"])
server = HTTPServer((OPTIONS["http-address"], int(OPTIONS["http-port"])), Handler)
Path((REPOSITORY / "tell").read_text()).write_text(
    "\n".join([os.getcwd(), str(os.getpid()), str(child.pid), *sys.argv])
)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
