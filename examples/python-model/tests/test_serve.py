import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT

from winemodel import serve


@pytest.fixture
def server(model):
    config = serve.read_config({"HOST": "127.0.0.1", "PORT": "0", "MAX_CONNECTIONS": "2"})
    s = serve.Server(config, model)
    threading.Thread(target=s.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield s
    s.shutdown()
    s.server_close()


def call(server, method, path, body=None, headers={}):
    connection = http.client.HTTPConnection(*server.server_address, timeout=10)
    try:
        connection.request(method, path, body=body, headers={"Connection": "close", **headers})
        res = connection.getresponse()
        return res.status, json.loads(res.read())
    finally:
        connection.close()
        assert server.wait_until_quiet(10)


def test_lives_and_is_ready_until_it_drains(server):
    assert call(server, "GET", "/health") == (200, {"status": "ok"})
    assert call(server, "GET", "/ready") == (200, {"status": "ready"})
    server.draining.set()
    assert call(server, "GET", "/ready") == (503, {"error": "shutting down"})
    assert call(server, "GET", "/health") == (200, {"status": "ok"})


def test_predicts(server, sample, capfd):
    status, body = call(server, "POST", "/predict", json.dumps({"samples": [sample, sample]}))
    assert status == 200
    assert [p["cultivar"] for p in body["predictions"]] == ["barolo", "barolo"]
    deadline = time.monotonic() + 5
    line = ""
    while not line and time.monotonic() < deadline:
        line = capfd.readouterr().out
    assert json.loads(line)["status"] == 200


def test_tells_what_it_knows(server, model):
    assert call(server, "GET", "/model") == (200, {"classes": list(model.classes), "features": list(model.features)})


@pytest.mark.parametrize(
    "method, path, body, status",
    [
        pytest.param("POST", "/predict", "{", 400, id="half an object"),
        pytest.param("POST", "/predict", "[" * 100_000, 400, id="deep nesting"),
        pytest.param("POST", "/predict", "\xff\xfe", 400, id="not text"),
        pytest.param("POST", "/predict", "[]", 422, id="no object"),
        pytest.param("POST", "/predict", '{"samples": [], "debug": true}', 422, id="unknown key"),
        pytest.param("POST", "/predict", '{"samples": [{"alcohol": NaN}]}', 422, id="not a number"),
        pytest.param("POST", "/predict", "x" * (serve.MAX_BODY + 1), 413, id="too large"),
        pytest.param("POST", "/nowhere", "{}", 404, id="unknown path"),
        pytest.param("GET", "/nowhere", None, 404, id="unknown page"),
        pytest.param("GET", "/predict", None, 405, id="wrong method"),
    ],
)
def test_refuses(server, method, path, body, status):
    try:
        got, answer = call(server, method, path, body.encode("latin-1") if body else None)
    except (BrokenPipeError, ConnectionResetError):
        # A client that still writes when it is refused may see only that.
        assert status == 413
        return
    assert got == status
    assert answer["error"]


def test_wants_a_length(server):
    with socket.create_connection(server.server_address, timeout=10) as s:
        s.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert s.recv(100).startswith(b"HTTP/1.1 411 ")


def test_bounds_its_connections(server):
    held = [socket.create_connection(server.server_address, timeout=10) for _ in range(2)]
    for s in held:  # each is being served once it has answered
        s.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert s.recv(1000)
    with socket.create_connection(server.server_address, timeout=10) as third:
        assert third.recv(1) == b""
    for s in held:
        s.close()
    assert server.wait_until_quiet(10)
    assert call(server, "GET", "/health")[0] == 200


def test_reads_its_environment():
    config = serve.read_config({"PORT": "", "DRAIN_SECONDS": "0.5"})
    assert (config.host, config.port, config.drain) == ("0.0.0.0", 8000, 0.5)
    with pytest.raises(ValueError, match="PORT: .*; STOP_SECONDS: "):
        serve.read_config({"PORT": "http", "STOP_SECONDS": "nan"})


def process(model_file, **env):
    return subprocess.Popen(
        [sys.executable, "-B", "-m", "winemodel.serve"],
        cwd=ROOT,
        env={**os.environ, "HOST": "127.0.0.1", "PORT": "0", "MODEL": str(model_file), "DRAIN_SECONDS": "0", **env},
        stdout=subprocess.PIPE,
        text=True,
    )


def read_line(p):
    return json.loads(p.stdout.readline())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stops_in_order(model_file, number):
    with process(model_file) as p:
        assert read_line(p)["msg"] == "listening"
        p.send_signal(number)
        assert [json.loads(line)["msg"] for line in p.stdout] == ["draining", "stopped"]
        assert p.wait(10) == 0


def test_lets_a_request_in_progress_finish_and_cuts_off_one_that_hangs(model_file):
    for stop, finishes in (("10", True), ("0.1", False)):
        with process(model_file, STOP_SECONDS=stop) as p:
            host, port = read_line(p)["url"].removeprefix("http://").split(":")
            with socket.create_connection((host, int(port)), timeout=10) as s:
                s.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
                assert s.recv(100).startswith(b"HTTP/1.1 100 ")  # its thread waits for the body
                p.send_signal(signal.SIGTERM)
                assert read_line(p)["msg"] == "draining"
                if finishes:
                    s.sendall(b"[]")
                    assert s.recv(100).startswith(b"HTTP/1.1 422 ")
                assert p.wait(10) == (0 if finishes else 1)


def test_a_second_signal_ends_it_at_once(model_file):
    with process(model_file, DRAIN_SECONDS="60") as p:
        assert read_line(p)["msg"] == "listening"
        p.send_signal(signal.SIGTERM)
        assert read_line(p)["msg"] == "draining"
        p.send_signal(signal.SIGTERM)
        assert p.wait(10) == 1


def test_says_why_it_cannot_start(tmp_path, capfd):
    (tmp_path / "model.json").write_text("{}")
    for env, want in (
        ({"PORT": "-1"}, "bad environment: PORT"),
        ({"MODEL": str(tmp_path / "none.json")}, "none.json"),
        ({"MODEL": str(tmp_path / "model.json")}, "not a model"),
    ):
        assert serve.main(env) == 1
        assert want in json.loads(capfd.readouterr().out)["error"]
