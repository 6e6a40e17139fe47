"""What a page is served by: folders under a path that only it knows, commands to fetch, answers to post."""

from __future__ import annotations

import json
import queue
import secrets
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

LARGEST_REPLY = 256 * 2**20  # bytes
LONG_POLL_S = 20.0
TYPES = {".html": "text/html; charset=utf-8", ".mjs": "text/javascript", ".wasm": "application/wasm"}
# Shared memory, which threads need, and a clock of 5 microseconds in place of 100 are for isolated pages only.
ISOLATION = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class PageServer:
    """Serves folders to one page on 127.0.0.1, under a path that only that page knows, and exchanges commands."""

    def __init__(self, folders: Mapping[str, Path], replies: queue.Queue[dict[str, Any]]) -> None:
        self.folders = {name: path.resolve() for name, path in folders.items()}
        self.commands: queue.Queue[dict[str, Any] | None] = queue.Queue()  # None: there will be no more
        self.replies, self.token = replies, secrets.token_urlsafe(24)
        self.http = _Server(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self.http.server_port}/{self.token}"
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def file_of(self, parts: list[str]) -> Path | None:
        """Return the file of folder/path, None for what is in none of the folders."""
        root = self.folders.get(parts[0]) if len(parts) > 1 else None
        if root is None:
            return None
        path = root.joinpath(*parts[1:]).resolve()
        return path if path.is_file() and path.is_relative_to(root) else None

    def stop(self) -> None:
        """Close the port."""
        self.commands.put(None)
        self.http.shutdown()
        self.http.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a page that goes away in the middle of an answer is stopped, or missed by the link."""


def _handler(server: PageServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = self._parts()
            path = server.file_of(parts) if parts else None
            if parts == ["next"]:
                self._next()
            elif path is None:
                self._answer(404)
            else:
                self._answer(200, path.read_bytes(), TYPES.get(path.suffix, "application/octet-stream"))

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if self._parts() != ["reply"] or not length.isdecimal() or int(length) > LARGEST_REPLY:
                self.close_connection = True  # the body stays unread
                self._answer(404)
                return
            try:
                reply = dict(json.loads(self.rfile.read(int(length))))
            except (ValueError, TypeError):
                self._answer(400)
                return
            server.replies.put(reply)
            self._answer(204)

        def _next(self) -> None:
            try:
                command = server.commands.get(timeout=LONG_POLL_S)
            except queue.Empty:
                self._answer(204)
                return
            self._answer(410 if command is None else 200, json.dumps(command).encode(), "application/json")

        def _parts(self) -> list[str]:
            token, *rest = self.path.partition("?")[0].strip("/").split("/")
            return rest if secrets.compare_digest(token.encode(), server.token.encode()) else []

        def _answer(self, code: int, body: bytes = b"", kind: str = "text/plain") -> None:
            self.send_response(code)
            for name, value in {**ISOLATION, "Content-Type": kind, "Content-Length": str(len(body))}.items():
                if code != 204 or name != "Content-Length":
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: the progress is told by the runner."""

    return Handler
