"""Servers that are none of the V2 protocol: a check that failed, never a traceback."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Command, call_main

from swin_deploy.serving.bundle import read_bundle
from swin_deploy.serving.check import check_canary
from swin_deploy.serving.protocol import Server, ServerError

OUTPUT: dict[str, Any] = {"name": "logits", "datatype": "FP32", "shape": [1, 10]}
BINARY = {"parameters": {"binary_data_size": 40}}
# Status and content of every answer, and the length of the JSON that its header says.
ANSWERS: dict[str, tuple[int, bytes, str]] = {
    "a page": (200, b"<html></html>", "13"),
    "a list": (200, b"[1, 2]", "6"),
    "nothing": (200, b"", "0"),
    "a text for a number": (200, json.dumps({"outputs": [OUTPUT | {"data": ["a"]}]}).encode(), ""),
    "too few bytes": (200, json.dumps({"outputs": [OUTPUT | BINARY]}).encode(), "99999"),
    "another type": (200, json.dumps({"outputs": [OUTPUT | {"datatype": "NO"} | BINARY]}).encode(),
                     ""),
    "a negative size": (
        200, json.dumps({"outputs": [OUTPUT | {"parameters": {"binary_data_size": -4}}]}).encode(),
        "",
    ),
    "more digits than a float has": (
        200, json.dumps({"outputs": [OUTPUT | {"data": [10**400] * 10}]}).encode(), ""
    ),
    "objects for numbers": (
        200, json.dumps({"outputs": [OUTPUT | {"datatype": "INT64", "data": [{}] * 10}]}).encode(),
        "",
    ),
    "texts of numbers": (
        200, json.dumps({"outputs": [OUTPUT | {"datatype": "BYTES", "data": ["1"] * 10}]}).encode(),
        "",
    ),
    "nulls": (200, json.dumps({"outputs": [OUTPUT | {"data": [None] * 10}]}).encode(), ""),
    "nests too deeply": (200, b"[" * 200_000, ""),
    "an error that nests too deeply": (500, b"[" * 60_000, ""),
    "a length of thousands of digits": (200, b"{}", "9" * 5000),
    "no output": (200, b'{"outputs": []}', ""),
    "an error": (500, b"oops\nTraceback", ""),
}  # fmt: skip


class Quiet(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class Handler(Quiet):
    answer: tuple[int, bytes, str]

    def do_GET(self) -> None:
        status, data, length = self.answer
        if self.path.endswith("/ready"):
            status, data, length = 200, b"", ""
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if length:
            self.send_header("Inference-Header-Content-Length", length)
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()


@contextlib.contextmanager
def running(handler: type[Quiet]) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def other_server() -> Iterator[str]:
    with running(Handler) as url:
        yield url


@pytest.fixture(scope="module")
def bundle(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    (onnx,) = (exported / "engines").glob("*.onnx")
    assert call_main(("-q", "bundle", onnx, "--for", "triton", "--output", folder)) == 0
    return folder


@pytest.mark.parametrize("name", ANSWERS)
def test_answer_of_another_protocol_fails_the_check(
    name: str, other_server: str, bundle: Path
) -> None:
    Handler.answer = ANSWERS[name]
    report = check_canary(read_bundle(bundle), Server(other_server))
    assert not report.passed
    found = {one.name: one.outcome for one in report.checks}
    assert found == {"ready": "pass"} | dict.fromkeys(
        ["tensors", "preprocessing", "golden pictures", "labels"], "fail"
    )
    assert all("\n" not in one.detail for one in report.checks)


@pytest.mark.parametrize(
    ("status", "headers", "declared", "reason"),
    [
        (
            302,
            {"Location": "ftp://127.0.0.1:1/x"},
            0,
            "answers 302 (it sends to ftp://127.0.0.1:1/x)",
        ),
        (301, {"Location": "https://other/"}, 0, "answers 301 (it sends to https://other/)"),
        (308, {"Location": "/"}, 0, "answers 308 (it sends to /)"),
        (503, {}, 0, "answers 503 ()"),
        (503, {}, 100, "answers 503 ("),  # it ends before its content
    ],
)
def test_server_that_is_not_ready_is_told_in_its_own_words(
    status: int, headers: dict[str, str], declared: int, reason: str, bundle: Path
) -> None:
    class Refusing(Quiet):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(declared))
            self.end_headers()

    with running(Refusing) as url:
        report = check_canary(read_bundle(bundle), Server(url))
    (check,) = report.checks
    assert (check.name, check.outcome) == ("ready", "fail")
    assert reason in check.detail


def test_server_that_answers_a_byte_at_a_time_is_given_up(bundle: Path) -> None:
    """Each byte is within the time of a socket; the answer as a whole is not."""

    class Slow(Quiet):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(100):
                    self.wfile.write(b"x")
                    time.sleep(0.05)

    start = time.monotonic()
    with running(Slow) as url, pytest.raises(ServerError, match=r"no whole answer in 0\.3 s"):
        check_canary(read_bundle(bundle), Server(url, timeout_s=0.3))
    assert time.monotonic() - start < 3


def test_foreign_server_is_told_without_a_traceback(
    other_server: str, bundle: Path, swin: Command
) -> None:
    Handler.answer = ANSWERS["a page"]
    for command in (
        ("parity", "--server", other_server, "--bundle", bundle),
        ("bundle", bundle, "--check", other_server),
    ):
        outcome = swin(*command)
        assert outcome.status == 1
        assert "Traceback" not in outcome.err


def test_answers_in_json_and_in_bytes_are_read(other_server: str) -> None:
    values = np.arange(10, dtype=np.float32)[None]
    plain = OUTPUT | {"data": values.reshape(-1).tolist()}
    Handler.answer = (200, json.dumps({"outputs": [plain]}).encode(), "")
    given = {"image": np.zeros((1, 3), np.float32)}
    server = Server(other_server)
    np.testing.assert_array_equal(server.infer("m", given, ["logits"])["logits"], values)
    head = json.dumps({"outputs": [OUTPUT | BINARY]}).encode()
    Handler.answer = (200, head + values.tobytes(), str(len(head)))
    np.testing.assert_array_equal(server.infer("m", given, ["logits"])["logits"], values)
    texts = {"name": "t", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 11}}
    head = json.dumps({"outputs": [texts]}).encode()
    Handler.answer = (200, head + b"\x01\0\0\0a\x02\0\0\0bc", str(len(head)))
    assert server.infer("m", given, ["t"])["t"].tolist() == [b"a", b"bc"]


def test_statistics_of_none_are_an_error(other_server: str) -> None:
    Handler.answer = (200, b'{"model_stats": []}', "")
    with pytest.raises(ServerError, match="no statistics of m"):
        Server(other_server).statistics("m")


def test_proxy_of_the_environment_is_asked_for_other_machines_alone(
    other_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Handler.answer = (200, b"{}", "")
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
    for url in (other_server, other_server.replace("127.0.0.1", "localhost")):
        assert Server(url).get("v2") == {}
    with pytest.raises(ServerError, match="refused, asked through the proxy of the environment"):
        Server("http://models.example:8000").get("v2")
    monkeypatch.setenv("no_proxy", "models.example")
    with pytest.raises(ServerError) as info:
        Server("http://models.example:8000", timeout_s=5).get("v2")
    assert "proxy" not in str(info.value)


def test_port_that_speaks_no_http_is_told_in_words(bundle: Path, swin: Command) -> None:
    """As Triton's port of gRPC answers: with a frame of HTTP/2."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            connection.recv(1 << 16)
            connection.sendall(b"\0\0\x18\x04\0\0\0\0\0\0\x04\0@\0\0\0\x05\0@\0\0")
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        outcome = swin("parity", "--server", url, "--bundle", bundle)
    outcome.assert_error("what listens there speaks no HTTP; gRPC has a port of its own")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:8000/v2", "give the address before that"),
        ("http://127.0.0.1:8000/v2/models/m/", "give the address before that"),
        ("http://me:secret@127.0.0.1:8000", "'***@127.0.0.1:8000' is no address of a server"),
    ],
)
def test_address_is_that_of_the_server_and_shows_no_password(
    url: str, message: str, bundle: Path, swin: Command
) -> None:
    for command in (("parity", "--server", url, "--bundle", bundle),
                    ("bundle", bundle, "--check", url)):  # fmt: skip
        outcome = swin(*command)
        outcome.assert_error(message)
        assert "secret" not in outcome.err


def test_metadata_of_another_protocol_is_told_in_words(other_server: str, bundle: Path) -> None:
    Handler.answer = (200, b'"metrics"', "")
    (_, tensors, *_) = check_canary(read_bundle(bundle), Server(other_server)).checks
    assert (tensors.outcome, "is not of the V2 protocol" in tensors.detail) == ("fail", True)
