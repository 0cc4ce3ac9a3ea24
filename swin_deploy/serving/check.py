"""Checks of a running server against the bundle that it serves."""

from __future__ import annotations

import struct
import threading
import time
import urllib.parse
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.errors import ConfigError, FileError
from swin_deploy.serving.answers import (
    Check,
    check_golden,
    check_labels,
    check_preprocessing,
    check_tensors,
    golden_requests,
)
from swin_deploy.serving.bundle import Bundle, Endpoint
from swin_deploy.serving.golden import Golden
from swin_deploy.serving.protocol import HEADER, Server, ServerError

CLIENTS = 4
SHOWN_ERRORS = 3
CLIENT_ERRORS = range(400, 500)


@dataclass(frozen=True)
class ServerReport:
    """What checks of a server found.

    Attributes:
        url: Address of the server.
        model: Name of the model.
        reference: File that gave the outputs that were compared with.
        checks: The checks, in order.
    """

    url: str
    model: str
    reference: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.outcome != "fail" for check in self.checks)


def check_canary(bundle: Bundle, server: Server) -> ServerReport:
    """Compare a server's outputs for the golden pictures with those that were proved.

    Its preparation of the pictures and its answers are compared, too. Nothing but right requests is
    sent, so it may run against a server in use.

    Raises:
        ConfigError: If the bundle is for no server.
        ServerError: If the server cannot be reached.
    """
    endpoint, golden = _of_server(bundle)
    checks = [_ready(endpoint, server)]
    if checks[0].outcome == "pass":
        requests = golden_requests(bundle, endpoint, golden)
        checks += [
            check_tensors(endpoint, server),
            check_preprocessing(bundle, endpoint, requests, server),
        ]
        checks += check_golden(endpoint, golden, requests, server)
        checks.append(check_labels(endpoint, requests, server))
    return ServerReport(server.url, endpoint.model, golden.reference, tuple(checks))


def check_server(bundle: Bundle, server: Server, *, seconds: float) -> ServerReport:
    """Check a server before it is put into use: the canary, bad requests, load.

    Args:
        bundle: The bundle that it serves.
        server: The server.
        seconds: Time of requests from several clients at once.

    Raises:
        ConfigError: If the bundle is for no server.
        ServerError: If the server cannot be reached.
    """
    report = check_canary(bundle, server)
    if not report.passed:
        return report
    endpoint, golden = _of_server(bundle)
    requests = golden_requests(bundle, endpoint, golden)
    first = next(iter(requests.values()))
    checks = [
        *report.checks,
        _bad_requests(endpoint, first, server),
        *_load(endpoint, list(requests.values()), server, seconds),
        *check_golden(endpoint, golden, requests, server, name="answers after all this"),
    ]
    return ServerReport(report.url, report.model, report.reference, tuple(checks))


def _of_server(bundle: Bundle) -> tuple[Endpoint, Golden]:
    service = bundle.service
    if service.endpoint is None or service.golden is None:
        raise ConfigError(
            f"{bundle.folder} is a bundle for {service.target}, which is no server; give one for "
            "triton, kserve or ovms"
        )
    return service.endpoint, service.golden


def _ready(endpoint: Endpoint, server: Server) -> Check:
    refusal = server.refusal(endpoint.model)
    if refusal:
        return Check("ready", "fail", f"{endpoint.model} is not ready: {refusal}")
    return Check("ready", "pass", f"the server and {endpoint.model}")


def _bad_requests(endpoint: Endpoint, right: Mapping[str, NDArray[Any]], server: Server) -> Check:
    """Send requests that are to be refused: each is the client's error, and none the server's."""
    name, tensor = endpoint.input.name, right[endpoint.input.name]
    path = f"v2/models/{urllib.parse.quote(endpoint.model, safe='')}/infer"
    wrong: dict[str, Callable[[], object]] = {
        "an unknown input": lambda: server.infer(endpoint.model, {"none": tensor}, []),
        "another type": lambda: server.infer(
            endpoint.model, {name: np.zeros((1, 3), np.float16)}, []
        ),
        "too many axes": lambda: server.infer(endpoint.model, {name: tensor[None]}, []),
        "a length beyond the content": lambda: server.post(path, b"{}", {HEADER: "999"}),
        "an unknown model": lambda: server.infer("no-such-model", dict(right), []),
    }
    if endpoint.takes == "pictures":
        for what, data in bad_pictures(tensor.reshape(-1)[0]).items():
            bad = np.array([[data]], dtype=np.object_)
            wrong[what] = lambda bad=bad: server.infer(endpoint.model, {name: bad}, [])  # type: ignore[misc]
    found = {what: _status(ask) for what, ask in wrong.items()}
    taken = [f"{what}: {status}" for what, status in found.items() if status not in CLIENT_ERRORS]
    if taken:
        return Check("bad requests", "fail", f"no 4xx for {'; '.join(taken[:SHOWN_ERRORS])}")
    return Check("bad requests", "pass", f"{len(found)} kinds, each refused with 4xx")


def _status(ask: Callable[[], object]) -> int:
    """Return the status of an answer; 200 if it is none of an error, 0 if there is none."""
    try:
        ask()
    except ServerError as err:
        return err.status
    return 200


def bad_pictures(picture: bytes) -> dict[str, bytes]:
    """Return encoded pictures that no server may take, in words.

    Args:
        picture: A good picture.
    """
    return {
        "an empty picture": b"",
        "no picture": b"GET / HTTP/1.1\r\n\r\n" * 8,
        "a truncated picture": picture[: len(picture) // 2],
        "a picture of 60,000 x 60,000 pixels in few bytes": bomb(60_000),
    }


def bomb(side: int) -> bytes:
    """Return a small PNG file of a square of many pixels, all of them black.

    Args:
        side: Pixels a side.
    """
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1 << 16), 9)
    parts = ((b"IHDR", head), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


def _load(
    endpoint: Endpoint, requests: list[dict[str, NDArray[Any]]], server: Server, seconds: float
) -> list[Check]:
    """Send requests from several clients at once: none fails, and the server forms batches."""
    try:
        before = server.statistics(endpoint.computes)
    except ServerError:
        before = None
    outputs = [endpoint.outputs[0].name]
    done, errors, took = requests_for(
        seconds, lambda turn: server.infer(endpoint.model, requests[turn % len(requests)], outputs)
    )
    what = f"{done:,} requests by {CLIENTS} clients in {took:.1f} s, {done / took:,.0f}/s"
    shown = "; ".join(errors[:SHOWN_ERRORS])
    load = Check("load", "fail" if errors else "pass", f"{what}, {len(errors)} failed {shown}")
    return [load, _batches(endpoint, server, before)]


def requests_for(
    seconds: float, ask: Callable[[int], object], *, clients: int = CLIENTS
) -> tuple[int, list[str], float]:
    """Ask from several threads at once for some time.

    Args:
        seconds: Time in seconds.
        ask: Function that makes the request of a number; its errors of ``DeployError`` count.
        clients: Number of threads.

    Returns:
        Number of answers, texts of the errors, and seconds that it took.
    """
    done = [0] * clients
    errors: list[str] = []
    start = time.monotonic()

    def work(client: int) -> None:
        turn = client
        while time.monotonic() - start < seconds:
            try:
                ask(turn)
                done[client] += 1
            except (ServerError, FileError) as err:
                errors.append(str(err))
            turn += clients

    threads = [threading.Thread(target=work, args=(client,)) for client in range(clients)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return sum(done), errors, time.monotonic() - start


def _batches(endpoint: Endpoint, server: Server, before: dict[str, int] | None) -> Check:
    if before is None:
        return Check("batches", "not run", "this server has no statistics")
    try:
        after = server.statistics(endpoint.computes)
    except ServerError as err:
        return Check("batches", "fail", str(err))
    images, calls = (after[key] - before[key] for key in ("inference_count", "execution_count"))
    text = f"{images:,} pictures in {calls:,} calls of {endpoint.computes}"
    if endpoint.max_batch == 1:
        return Check("batches", "not run", f"{text}: the file takes one picture a call")
    return Check("batches", "pass" if 0 < calls < images else "fail", text)
