"""Servers that are none of the V2 protocol: a check that failed, never a traceback."""

from __future__ import annotations

import http.server
import json
import threading
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
    "no output": (200, b'{"outputs": []}', ""),
    "an error": (500, b"oops\nTraceback", ""),
}  # fmt: skip


class Handler(http.server.BaseHTTPRequestHandler):
    answer: tuple[int, bytes, str]

    def log_message(self, *_: object) -> None:
        pass

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


@pytest.fixture
def other_server() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


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
    assert found == {"ready": "pass", "tensors": "fail", "golden pictures": "fail"}
    assert all("\n" not in one.detail for one in report.checks)


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
