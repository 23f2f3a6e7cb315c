"""A local OpenAI-compatible server that breaks in every way it is told to: for trying clients."""

from __future__ import annotations

import contextlib
import email.utils
import gzip
import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

Fault = str | None
Chooser = Callable[[dict[str, Any]], Fault]

_CONTEXT = {
    "error": {
        "message": "This model's maximum context length is 512 tokens. However, you requested 600 "
        "tokens (500 in the messages, 100 in the completion).",
        "code": "context_length_exceeded",
    }
}
STATUS: dict[str, tuple[int, dict[str, str], Any]] = {
    # name of the fault: status, headers, body
    "429": (429, {}, {"error": {"message": "slow down"}}),
    "429 after 0.3": (429, {"Retry-After": "0.3"}, {"error": {"message": "slow down"}}),
    "429 after 300 ms": (429, {"retry-after-ms": "300"}, {"error": {"message": "slow down"}}),
    "quota": (429, {}, {"error": {"message": "no credit", "code": "insufficient_quota"}}),
    "429 after 60": (429, {"Retry-After": "60"}, {"error": {"message": "slow down"}}),
    "504": (504, {}, "upstream timed out"),
    "500": (500, {}, "Internal Server Error"),
    "503": (503, {}, {"error": {"message": "loading"}}),
    "context": (400, {}, _CONTEXT),
    "refused": (400, {}, {"error": {"message": "no such field"}}),
    "no key": (401, {}, {"error": {"message": "Incorrect API key provided"}}),
    "no model": (404, {}, {"error": {"message": "no such model"}}),
}
BODIES: dict[str, bytes] = {
    "malformed": b'{"choices": [{"message": {"role": "assistant", "con',
    "deep": b"[" * 100_000,
    "html": b"<html>Welcome</html>",
    "list": b"[]",
    "empty choices": b'{"choices": []}',
    "null choices": b'{"choices": null, "usage": []}',
    "null message": b'{"choices": [{"message": null}]}',
    "number": b'{"choices": [{"message": {"content": 5}}]}',
    "not utf-8": b'{"choices": [{"message": {"content": "\xff"}}]}',
}
BREAKS = ("disconnect", "reset", "close", "trickle", "stall")
"""Half an answer; a connection that is reset, or closed, without one; an answer that never ends; no
answer, and no end of the connection."""


def coin(body: dict[str, Any]) -> str:
    """Reply "open" or "go" by all that was asked, so that a lost or mixed-up message shows."""
    text = json.dumps([body["messages"], body.get("seed"), body["temperature"]])
    even = hashlib.sha256(text.encode()).digest()[0] % 2
    return f"Action: {'open' if even else 'go'}"


def hold_port() -> socket.socket:
    """Bind a free port of the loopback interface, and listen nowhere.

    Until the socket is closed, the system gives the port to nobody who asks for any free one, and
    refuses connections to it; who names it and allows its reuse can serve there, again and again.

    Returns:
        The socket, whose `getsockname()[1]` is the port.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what Linux asks for
    if hasattr(socket, "SO_REUSEPORT"):
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # what BSD asks for
    held.bind(("127.0.0.1", 0))
    return held


@dataclass
class FakeEndpoint:
    """Serves on the loopback while it is entered; `start` and `stop` take it down in between.

    Attributes:
        answer: The text for a request.
        choose: The fault of a request, None for none; one is chosen at a time.
        models: What `/v1/models` lists; None answers 404.
        finish_reason: Why replies end.
        message: Further fields of the message of every reply.
        choice: Further fields of every reply, beside its message.
        more: Further fields of every answer.
        usage: Token counts of every reply; None: some.
        delay: Seconds before each answer.
        openapi: How the server describes itself; None: not at all.
        loras: Adapters that it was told to load, name -> folder, as vLLM is told at
            `/v1/load_lora_adapter`; it then answers for its models and these alone. None: it has no
            such address, and answers whatever it is asked for.
        keep: Keep what was asked, in `requests` and `headers`.
        at_once: Requests under way.
        most_at_once: The most that there were.
    """

    answer: Callable[[dict[str, Any]], str] = coin
    choose: Chooser = lambda body: None
    models: list[str] | None = None
    finish_reason: str = "stop"
    message: dict[str, Any] = field(default_factory=dict)
    choice: dict[str, Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, Any] | None = None
    delay: float = 0.0
    openapi: Any = None
    loras: dict[str, str] | None = None
    keep: bool = True
    port: int = 0
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    ready: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        """Take a free port, which nobody else gets while it is down, and serve on it."""
        self._held = hold_port()
        self.port = self._held.getsockname()[1]
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop serving."""
        self.stop()
        self._held.close()

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Serve, unless it does."""
        if self.ready.is_set():
            return
        fake = self

        class Handler(_Handler):
            site = fake

        self._server = _Server(("127.0.0.1", self.port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.ready.set()

    def stop(self) -> None:
        """Break all connections and refuse others, unless it does."""
        if not self.ready.is_set():
            return
        self.ready.clear()  # ends what stalls
        self._server.shutdown()
        self._server.server_close()
        for connection in self._server.connections:
            # Closing alone waits for the handler, and that for the other side.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._thread.join()

    def swap(self, path: str, body: dict[str, Any]) -> tuple[int, str]:
        """Load or unload an adapter as vLLM does; return the status and the words of the answer."""
        if self.loras is None:
            return 404, '{"detail":"Not Found"}'
        name, folder = body.get("lora_name"), body.get("lora_path")
        if path.endswith("/unload_lora_adapter"):
            if name not in self.loras:
                return 404, f"The lora adapter '{name}' cannot be found."
            del self.loras[name]
            return 200, f"Success: LoRA adapter '{name}' removed successfully."
        if not name or not folder:
            return 400, "Both 'lora_name' and 'lora_path' must be provided."
        if name in self.loras:
            return 400, f"The lora adapter '{name}' has already been loaded."
        if not Path(folder).is_dir():
            return 404, f"Loading lora {name} failed: No adapter found for {folder}"
        self.loras[name] = folder
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def completion(self, body: dict[str, Any]) -> bytes:
        """Return the body of a whole answer."""
        reply = {"role": "assistant", "content": self.answer(body), **self.message}
        counts = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
        usage = counts if self.usage is None else self.usage
        choice = {"index": 0, "message": reply, "finish_reason": self.finish_reason, **self.choice}
        head = self._head(body, "chat.completion")
        answer = {**head, "choices": [choice], "usage": usage, **self.more}
        return json.dumps(answer).encode()

    def events(self, body: dict[str, Any]) -> bytes:
        """Return the body of a streamed answer: server-sent events, one per word."""
        whole = json.loads(self.completion(body))
        (choice,) = whole["choices"]
        text = choice["message"].pop("content")
        words = re.findall(r"\S+\s*|\s+", text) if isinstance(text, str) else [text]
        deltas = [choice["message"], *({"content": word} for word in words), {}]
        chunks = []
        for number, delta in enumerate(deltas, start=1):
            reason = choice["finish_reason"] if number == len(deltas) else None
            part = {"index": 0, "delta": delta, "finish_reason": reason}
            chunks.append({**whole, "object": "chat.completion.chunk", "choices": [part]})
            del chunks[-1]["usage"]
        if (body.get("stream_options") or {}).get("include_usage"):
            chunks.append({**whole, "object": "chat.completion.chunk", "choices": []})
        lines = [json.dumps(chunk) for chunk in chunks] + ["[DONE]"]
        return "".join(f"data: {line}\n\n" for line in lines).encode()

    def _head(self, body: dict[str, Any], kind: str) -> dict[str, Any]:
        number = hashlib.sha256(json.dumps(body).encode()).hexdigest()[:24]
        return {
            "id": f"chatcmpl-{number}",
            "object": kind,
            "created": int(time.time()),
            "model": body.get("model", ""),
        }


class _Server(ThreadingHTTPServer):
    allow_reuse_port = True  # it is held
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, *args: Any) -> None:
        self.connections: list[socket.socket] = []
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.append(request)
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # the other side has gone, as it should


class _Handler(BaseHTTPRequestHandler):
    site: FakeEndpoint
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer what is asked before the first reply."""
        site = self.site
        if self.path == "/v1/models" and site.models is not None:
            names = [*site.models, *(site.loras or ())]
            listed = {"object": "list", "data": [{"id": name} for name in names]}
            self.send(200, {}, json.dumps(listed).encode())
        elif self.path == "/openapi.json" and site.openapi is not None:
            self.send(200, {}, json.dumps(site.openapi).encode())
        else:
            self.send(404, {}, b'{"error": "not here"}')

    def do_POST(self) -> None:
        """Answer a conversation, or break."""
        site = self.site
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("load_lora_adapter"):
            with site.lock:
                status, words = site.swap(self.path, body)
            self.send(status, {}, words.encode())
            return
        with site.lock:
            if site.keep:
                site.requests.append(body)
                site.headers.append({k.lower(): v for k, v in self.headers.items()})
            site.at_once += 1
            site.most_at_once = max(site.most_at_once, site.at_once)
            fault = site.choose(body)
            if site.loras is not None and body["model"] not in [*(site.models or ()), *site.loras]:
                fault = "no model"
        try:
            if site.delay:
                time.sleep(site.delay)
            self.respond(fault, body)
        finally:
            with site.lock:
                site.at_once -= 1

    def respond(self, fault: Fault, body: dict[str, Any]) -> None:
        """Answer as the fault says."""
        whole = self.site.completion(body)
        if fault is None and body.get("stream"):
            events = self.site.events(body)
            self.send(200, {"Content-Type": "text/event-stream"}, events)
        elif fault is None:
            self.send(200, {}, whole)
        elif fault in STATUS:
            status, headers, answer = STATUS[fault]
            text = answer if isinstance(answer, str) else json.dumps(answer)
            self.send(status, headers, text.encode())
        elif fault == "429 at a date":
            date = email.utils.formatdate(time.time() + 1, usegmt=True)
            self.send(429, {"Retry-After": date}, b"{}")
        elif fault == "echo key":
            told = {"error": {"message": f"bad key {self.headers['Authorization']}"}}
            self.send(401, {}, json.dumps(told).encode())
        elif fault in BODIES:
            self.send(200, {}, BODIES[fault])
        elif fault == "packed":
            self.send(200, {"Content-Encoding": "gzip"}, gzip.compress(b" " * (20 << 20) + whole))
        elif fault == "huge":
            self.send(200, {}, b" " * (20 << 20) + whole)
        elif fault == "endless":
            self.close_connection = True
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            while self.site.ready.is_set():  # until the other side has had enough
                self.wfile.write(b" " * (1 << 20))
        else:
            self.break_off(fault, whole)

    def break_off(self, fault: str, whole: bytes) -> None:
        """End the connection before the answer is there."""
        if fault not in BREAKS:
            raise ValueError(f"unknown fault {fault!r}")
        self.close_connection = True
        if fault == "stall":
            while self.site.ready.wait(0.01):
                time.sleep(0.01)
        if fault in ("close", "stall"):
            return
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(whole)))
        self.end_headers()
        if fault == "disconnect":
            self.wfile.write(whole[: len(whole) // 2])
            return
        for byte in whole:  # "trickle": never silent for long, and never done
            self.wfile.write(bytes([byte]))
            time.sleep(0.02)

    def send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """Send a whole answer."""
        self.send_response(status)
        kind = "text/html" if body.startswith(b"<") else "application/json"
        for name, value in {"Content-Type": kind, **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""
