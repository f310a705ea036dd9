"""A folder served over http on loopback, and as a store of objects, by a server whose connections break."""

from __future__ import annotations

import re
import threading
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Store:
    """What was asked, and how often each answer breaks off in the middle before one is whole."""

    def __init__(self, port: int, breaks: int) -> None:
        self.port, self.breaks = port, breaks
        self.asked: Counter[str] = Counter()
        self.whole: Counter[str] = Counter()

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}/bucket/data"

    @property
    def s3(self) -> str:
        return f"s3://bucket/data?scheme=http&endpoint_override=127.0.0.1:{self.port}"


@contextmanager
def serving(folder: Path, breaks: int = 0) -> Iterator[Store]:
    """Serve ``folder`` as ``/bucket/data``, to GET and HEAD, whole or by Range."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            name = urllib.parse.unquote(self.path.split("?")[0]).removeprefix("/bucket/data/")
            path = folder / name
            if not path.is_file():
                self.send_error(404)
                return
            content, status = path.read_bytes(), 200
            size = len(content)
            if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                first, last = int(asked[1]), int(asked[2] or size - 1)
                content, status = content[first : last + 1], 206
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Last-Modified", "Sat, 21 Nov 2026 00:00:00 GMT")
            self.send_header("ETag", '"1"')
            if status == 206:
                self.send_header("Content-Range", f"bytes {first}-{first + len(content) - 1}/{size}")
            self.end_headers()
            if not body:
                return
            store.asked[name] += 1
            if store.asked[name] <= store.breaks:
                self.wfile.write(content[: len(content) // 2])
                self.close_connection = True
                return
            store.whole[name] += 1  # first: who has read it may ask at once
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    store = Store(server.server_address[1], breaks)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
