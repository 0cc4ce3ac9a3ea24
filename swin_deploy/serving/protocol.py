"""Requests of the Open Inference Protocol (V2) over HTTP, with tensors as bytes.

Triton, KServe and OpenVINO Model Server speak it, with the binary tensor data extension:
docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/protocol/. The standard library
is enough for it.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import struct
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.errors import ConfigError, DeployError
from exporters.text_files import shortened

HEADER = "Inference-Header-Content-Length"
DATATYPES = {"float32": "FP32", "float16": "FP16", "uint8": "UINT8", "object": "BYTES"}
ARRAYS = {
    "FP32": np.float32,
    "FP16": np.float16,
    "UINT8": np.uint8,
    "FP64": np.float64,
    "BYTES": np.object_,
}
MOST_ANSWER = 1 << 28  # bytes of an answer
MOST_MESSAGE = 1 << 16  # bytes of an answer that is an error
MOST_DIGITS = 12  # of a length
SUCCESSES = range(200, 300)
ALLOWED = ("http", "https")


class ServerError(DeployError):
    """A server that cannot be reached, or an answer that is an error.

    Attributes:
        status: Status of the answer; 0 if there was none.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Server:
    """A server of the protocol.

    Attributes:
        url: Its address, such as ``http://127.0.0.1:8000``.
        timeout_s: Time that an answer may take as a whole.
    """

    url: str
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        if not _is_address(self.url):
            _, sign, rest = self.url.rpartition("@")
            shown = f"***@{rest}" if sign else rest  # a password may be before it
            raise ConfigError(
                f"{shortened(ascii(shown))} is no address of a server; give one such as "
                "http://127.0.0.1:8000, without a user or a query"
            )
        if "v2" in urllib.parse.urlsplit(self.url).path.split("/"):
            raise ConfigError(
                f"{shortened(self.url)} has the protocol's own /v2 in it; give the address before "
                "that, such as http://127.0.0.1:8000"
            )

    def get(self, path: str) -> Any:  # noqa: ANN401 - a JSON value
        """Return the answer to a request without content, parsed; an empty text for none."""
        return _parsed(self._ask(path, None, {})[0])

    def refusal(self, model: str) -> str:
        """Return why a model takes no requests, in the server's words; empty if it takes some.

        Raises:
            ServerError: If there is no server.
        """
        try:
            self._ask("v2/health/ready", None, {})
            self._ask(f"v2/models/{_quoted(model)}/ready", None, {})
        except ServerError as err:
            if not err.status:
                raise
            return str(err)
        return ""

    def metadata(self, model: str) -> Any:  # noqa: ANN401 - a JSON value
        """Return the metadata of a model: names, types and shapes of its tensors."""
        return self.get(f"v2/models/{_quoted(model)}")

    def statistics(self, model: str) -> dict[str, int]:
        """Return how many inferences a model made, in how many executions.

        Raises:
            ServerError: If the server does not say it.
        """
        values = self.get(f"v2/models/{_quoted(model)}/stats")
        try:
            found = values["model_stats"][0]
            return {name: int(found[name]) for name in ("inference_count", "execution_count")}
        except (LookupError, TypeError, ValueError) as err:
            raise ServerError(f"{self.url} has no statistics of {model}") from err

    def infer(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Sequence[str],
        *,
        classes: int = 0,
    ) -> dict[str, NDArray[Any]]:
        """Ask a model.

        Args:
            model: Its name.
            inputs: Tensors by name; arrays of objects are texts or bytes.
            outputs: Names of the outputs to return.
            classes: Number of classes to return as texts in the place of the outputs; 0 for none.

        Returns:
            The outputs by name.

        Raises:
            ServerError: If there is no answer, or it is an error.
        """
        blobs = {name: _to_bytes(array) for name, array in inputs.items()}
        wanted: dict[str, Any] = {"binary_data": True}
        wanted |= {"classification": classes} if classes else {}
        header = {
            "inputs": [
                {
                    "name": name,
                    "shape": list(array.shape),
                    "datatype": DATATYPES[array.dtype.name],
                    "parameters": {"binary_data_size": len(blobs[name])},
                }
                for name, array in inputs.items()
            ],
            "outputs": [{"name": name, "parameters": wanted} for name in outputs],
        }
        start = json.dumps(header).encode()
        body = start + b"".join(blobs.values())
        path = f"v2/models/{_quoted(model)}/infer"
        headers = {"Content-Type": "application/octet-stream", HEADER: str(len(start))}
        data, length = self._ask(path, body, headers)
        return _outputs(data, length)

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        """Return the answer to any content."""
        return self._ask(path, body, headers)[0]

    def _ask(
        self, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[bytes, int | None]:
        """Return an answer, and the length of the JSON before its tensors."""
        url = f"{self.url.rstrip('/')}/{path}"
        request = urllib.request.Request(url, data=body, headers=dict(headers))
        found: list[tuple[int, bytes, str | None] | Exception] = []
        # A socket's timeout is that of a part: a server that sends a byte a second never passes it.
        thread = threading.Thread(
            target=lambda: found.append(_answer(request, self.timeout_s)), daemon=True
        )
        thread.start()
        thread.join(self.timeout_s)
        answer = found[0] if found else TimeoutError(f"no whole answer in {self.timeout_s:g} s")
        if isinstance(answer, Exception):
            proxy = ", asked through the proxy of the environment" if _by_proxy(self.url) else ""
            raise ServerError(
                f"no server answers at {shortened(self.url)} ({_reason(answer)}{proxy}); start it, "
                "or check the address"
            ) from answer
        status, data, length = answer
        if status not in SUCCESSES:
            text = _message(data[:MOST_MESSAGE])
            raise ServerError(f"{shortened(self.url)} answers {status} ({text})", status)
        if len(data) > MOST_ANSWER:
            raise ServerError(f"{self.url} answers with more than {MOST_ANSWER:,} bytes")
        known = length and length.isdecimal() and len(length) <= MOST_DIGITS
        return data, int(length) if length and known else None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refusal of another address: a tensor would arrive there as a request without content."""

    def redirect_request(self, *_: Any) -> None:  # noqa: ANN401 - urllib's own objects
        return None


def _answer(
    request: urllib.request.Request, timeout_s: float
) -> tuple[int, bytes, str | None] | Exception:
    """Return an answer's status, its content and the length of its JSON; an error if none came."""
    proxies = urllib.request.ProxyHandler(None if _by_proxy(request.full_url) else {})
    opener = urllib.request.build_opener(_NoRedirect, proxies)
    try:
        with opener.open(request, timeout=timeout_s) as answer:
            return answer.status, answer.read(MOST_ANSWER + 1), answer.headers.get(HEADER)
    except urllib.error.HTTPError as err:
        place = err.headers.get("Location")
        return err.code, f"it sends to {place}".encode() if place else _said(err), None
    except (OSError, ValueError, http.client.HTTPException) as err:
        return err


def _said(err: urllib.error.HTTPError) -> bytes:
    """Return the content of an error answer, as far as it came."""
    try:
        return err.read(MOST_MESSAGE)
    except (OSError, ValueError, http.client.HTTPException):
        return b""


def _reason(err: Exception) -> str:
    """Return why there is no answer, in one line."""
    if isinstance(err, http.client.BadStatusLine):
        return "what listens there speaks no HTTP; gRPC has a port of its own"
    return shortened(getattr(err, "reason", None) or err)


def _by_proxy(url: str) -> bool:
    """Tell whether a proxy of the environment is asked: never for this machine's own addresses.

    A proxy elsewhere has other servers under them, and few environments name them in ``no_proxy``.
    """
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    try:
        here = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = False
    return (
        not here
        and parts.scheme in urllib.request.getproxies()
        and not urllib.request.proxy_bypass(host)
    )


def _is_address(url: str) -> bool:
    """Tell whether a text is an address that requests may go to."""
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    plain = url.isascii() and url.isprintable() and not set(" ?#") & set(url)
    more = parts.username is not None
    return plain and parts.scheme in ALLOWED and bool(parts.hostname) and port != 0 and not more


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def _message(data: bytes) -> str:
    """Return the text of an error answer in one line."""
    try:
        text = json.loads(data)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        text = data.decode(errors="replace")
    return shortened(" ".join(str(text).split()))


def _parsed(data: bytes) -> Any:  # noqa: ANN401 - a JSON value
    if not data:
        return ""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as err:
        raise ServerError("the server's answer is not JSON: no V2 protocol is spoken here") from err


def _to_bytes(array: NDArray[Any]) -> bytes:
    """Return a tensor as bytes: numbers row by row, texts after their lengths."""
    if array.dtype != np.object_:
        return np.ascontiguousarray(array).tobytes()
    return b"".join(struct.pack("<I", len(one)) + one for one in array.reshape(-1))


def _outputs(data: bytes, length: int | None) -> dict[str, NDArray[Any]]:
    """Return the tensors of an answer: after its JSON, or in it where a server sends none apart."""
    header = _parsed(data if length is None else data[:length])
    start, found = length or 0, {}
    try:
        for one in header["outputs"]:
            size = (one.get("parameters") or {}).get("binary_data_size")
            if size is None:
                found[one["name"]] = _from_values(one)
                continue
            part = data[start : start + size]
            found[one["name"]] = _from_bytes(part, one)
            start += size
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
        struct.error,
    ) as err:
        raise ServerError("the server's answer is not of the V2 protocol") from err
    return found


def _from_values(one: Mapping[str, Any]) -> NDArray[Any]:
    kind = ARRAYS[one["datatype"]]
    data = [text.encode() for text in one["data"]] if kind is np.object_ else one["data"]
    return np.array(data, dtype=kind).reshape(one["shape"])


def _from_bytes(data: bytes, one: Mapping[str, Any]) -> NDArray[Any]:
    if one["datatype"] != "BYTES":
        return np.frombuffer(data, ARRAYS[one["datatype"]]).reshape(one["shape"])
    texts, start = [], 0
    while start < len(data):
        (size,) = struct.unpack_from("<I", data, start)
        texts.append(data[start + 4 : start + 4 + size])
        start += 4 + size
    return np.array(texts, dtype=np.object_).reshape(one["shape"])
