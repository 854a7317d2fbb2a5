"""Serves predictions over HTTP: GET /health, GET /ready, POST /predict.

Only the standard library and numpy; a thread a connection, bounded. On SIGTERM
the service turns not ready, keeps serving while load balancers notice, then
closes its port and lets requests in progress finish.
"""

import json
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from winemodel import model as wine

MAX_BODY = 1 << 20  # bytes of one request


@dataclass(frozen=True)
class Config:
    """Everything that the environment decides."""

    host: str
    port: int
    model: str  # path of the model file
    drain: float  # seconds: not ready, still serving
    stop: float  # seconds that requests in progress then have
    connections: int  # at once; more are closed unanswered


def read_config(env) -> Config:
    faults = []

    def number(name, fallback, kind, low, high):
        try:
            value = kind(env.get(name) or fallback)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            faults.append(f"{name}: want a number from {low} to {high}, not {env.get(name)!r}")
        return value

    config = Config(
        host=env.get("HOST") or "0.0.0.0",
        port=number("PORT", "8000", int, 0, 65535),
        model=env.get("MODEL") or "model.json",
        drain=number("DRAIN_SECONDS", "1", float, 0, 60),
        stop=number("STOP_SECONDS", "10", float, 0, 120),
        connections=number("MAX_CONNECTIONS", "64", int, 1, 4096),
    )
    if faults:
        raise ValueError("bad environment: " + "; ".join(faults))
    return config


_log_lock = threading.Lock()


def log(message: str, **facts) -> None:
    """One JSON object a line on standard output."""
    line = json.dumps({"time": time.time(), "msg": message, **facts})
    with _log_lock:
        print(line, flush=True)


class Refused(Exception):
    """Ends a request with a status and a reason."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5  # seconds that a connection may say nothing
    server: "Server"

    def do_GET(self):
        if self.path == "/health":
            self.answer(200, {"status": "ok"})
        elif self.path == "/ready":
            if self.server.draining.is_set():
                self.answer(503, {"error": "shutting down"})
            else:
                self.answer(200, {"status": "ready"})
        elif self.path == "/model":
            m = self.server.model
            self.answer(200, {"classes": m.classes, "features": m.features})
        elif self.path == "/predict":
            self.answer(405, {"error": "POST samples here"})
        else:
            self.answer(404, {"error": "no such path"})

    def do_POST(self):
        began = time.monotonic()
        try:
            status, body = 200, {"predictions": self.predictions()}
        except Refused as e:
            status, body = e.status, {"error": str(e)}
        self.answer(status, body)
        log("request", path=self.path, status=status, ms=round((time.monotonic() - began) * 1000, 3))

    def predictions(self):
        # A body that is not read would be taken for the next request.
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY:
            self.close_connection = True
            raise Refused(411 if not length.isdecimal() else 413, f"want a Content-Length of at most {MAX_BODY}")
        body = self.rfile.read(int(length))
        if self.path != "/predict":
            raise Refused(404, "no such path")
        try:
            ask = json.loads(body)
        except (ValueError, RecursionError):
            raise Refused(400, "the body is not JSON")
        if not isinstance(ask, dict) or set(ask) != {"samples"}:
            raise Refused(422, 'want {"samples": [...]} and nothing else')
        try:
            return self.server.model.predict(ask["samples"])
        except wine.Invalid as e:
            raise Refused(422, str(e))

    def answer(self, status: int, body: dict):
        data = json.dumps(body).encode()
        if self.server.draining.is_set():
            self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Content-Type-Options", "nosniff")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def version_string(self):
        return "wine-model"

    def log_message(self, format, *args):  # noqa: A002 - the base class's name
        pass  # requests are logged by do_POST; probes say nothing new


class Server(ThreadingHTTPServer):
    daemon_threads = True  # the process may end although a client hangs
    request_queue_size = 128

    def __init__(self, config: Config, model: wine.Model):
        self.model = model
        self.draining = threading.Event()
        self._slots = threading.BoundedSemaphore(config.connections)
        self._open = 0
        self._quiet = threading.Condition()
        super().__init__((config.host, config.port), Handler)

    def process_request(self, request, client_address):
        if not self._slots.acquire(blocking=False):
            log("too many connections")
            self.shutdown_request(request)
            return
        with self._quiet:
            self._open += 1
        super().process_request(request, client_address)

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()
            with self._quiet:
                self._open -= 1
                self._quiet.notify_all()

    def handle_error(self, request, client_address):
        kind, error, _ = sys.exc_info()
        if not issubclass(kind, (ConnectionError, TimeoutError)):
            log("request failed", error=f"{kind.__name__}: {error}")

    def wait_until_quiet(self, seconds: float) -> bool:
        """Waits for open connections to end; False when some did not."""
        with self._quiet:
            return self._quiet.wait_for(lambda: self._open == 0, seconds)


def main(env=os.environ) -> int:
    try:
        config = read_config(env)
        with open(config.model, encoding="utf-8") as f:
            model = wine.from_json(f.read())
        server = Server(config, model)
    except (OSError, ValueError) as e:
        log("cannot start", error=str(e))
        return 1

    told = threading.Event()

    def on_signal(number, _frame):
        if told.is_set():  # the second one ends it at once
            os._exit(1)
        told.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)

    host, port = server.server_address[:2]
    log("listening", url=f"http://{host}:{port}")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    told.wait()

    log("draining", seconds=config.drain)
    server.draining.set()
    time.sleep(config.drain)
    server.shutdown()
    server.socket.close()
    finished = server.wait_until_quiet(config.stop)
    log("stopped", finished=finished)
    return 0 if finished else 1


if __name__ == "__main__":
    sys.exit(main())
