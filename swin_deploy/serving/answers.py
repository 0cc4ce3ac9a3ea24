"""A server's tensors, images, outputs and labels, compared with those of a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from exporters.errors import ComparisonError
from swin_deploy.images.decode import MOST_PIXELS
from swin_deploy.images.scores import scores_of
from swin_deploy.parity.checks import Tolerance
from swin_deploy.parity.compare import compare
from swin_deploy.parity.results import Case
from swin_deploy.serving.bundle import Bundle, Endpoint
from swin_deploy.serving.golden import Golden
from swin_deploy.serving.preprocess_model import prepared
from swin_deploy.serving.protocol import DATATYPES, Server, ServerError
from swin_deploy.serving.served import TensorType
from swin_deploy.serving.triton import ANSWERS, SCORES

Outcome = Literal["pass", "fail", "not run"]
Requests = Mapping[str, dict[str, NDArray[Any]]]  # inputs by name, of each picture
LOGITS = "logits"
CLOSE = 1e-5  # of scores, which are answered with six digits
# Half a level of a picture whose colours spread widely, and more of others. Pillow's versions were
# bit-equal; bilinear for bicubic needs 1e-1.
LEVEL = Tolerance(5e-3, 5e-3, None, "half a level of a picture")


@dataclass(frozen=True)
class Check:
    """One check of a server.

    Attributes:
        name: Subject of the check.
        outcome: ``pass``, ``fail``, or ``not run``.
        detail: Figures, or the reason.
    """

    name: str
    outcome: Outcome
    detail: str


def check_tensors(endpoint: Endpoint, server: Server) -> Check:
    """Compare names, types and sizes of a server's tensors with those of a bundle.

    Args:
        endpoint: The model that clients call.
        server: The server.
    """
    try:
        values = server.metadata(endpoint.model)
        found = {(one["name"], one["datatype"], tuple(map(int, one["shape"][1:])))
                 for one in (*values["inputs"], *values["outputs"])}  # fmt: skip
    except ServerError as err:
        return Check("tensors", "fail", f"no metadata of {endpoint.model} ({err})")
    except (KeyError, TypeError, ValueError):
        reason = "the answer is not of the V2 protocol"
        return Check("tensors", "fail", f"no metadata of {endpoint.model} ({reason})")
    wanted = {
        (one.name, DATATYPES[one.type], one.dims) for one in (endpoint.input, *endpoint.outputs)
    }
    missing = sorted(wanted - found)
    if missing:
        name, kind, dims = missing[0]
        have = [f"{kind} {list(dims)}" for one, kind, dims in found if one == name]
        text = f"{name} is to be {kind} {list(dims)}, the server has {', '.join(have) or 'none'}"
        return Check("tensors", "fail", text)
    return Check("tensors", "pass", ", ".join(sorted(name for name, _, _ in wanted)))


def golden_requests(bundle: Bundle, endpoint: Endpoint, golden: Golden) -> Requests:
    """Return the inputs of a request for each golden picture.

    Args:
        bundle: The bundle.
        endpoint: The model that clients call.
        golden: Its golden pictures.
    """
    made = {}
    for name, data in golden.pictures.items():
        if endpoint.takes == "pictures":
            tensor: NDArray[Any] = np.array([[data]], dtype=np.object_)
        elif endpoint.takes == "bytes":
            tensor = np.frombuffer(data, np.uint8)[None]
        else:
            tensor = _image(bundle, data, endpoint.input.type)
        made[name] = {endpoint.input.name: tensor}
    return made


def _image(bundle: Bundle, picture: bytes, kind: TensorType) -> NDArray[Any]:
    """Prepare a picture as the model was trained; a batch of one, normalised or of pixels."""
    return prepared(picture, bundle.preprocessing, most_pixels=MOST_PIXELS, kind=kind)[None]


def check_preprocessing(
    bundle: Bundle, endpoint: Endpoint, requests: Requests, server: Server
) -> Check:
    """Compare a server's preparation of the golden pictures with that of ``predict``.

    Limits on outputs are wide in 8 bits, and another filter or crop would be within them.

    Args:
        bundle: The bundle.
        endpoint: The model that clients call.
        requests: Inputs of a request for each picture.
        server: The server.
    """
    name, own = "preprocessing", endpoint.prepares
    if own is None:
        return Check(name, "not run", "this server does not prepare pictures by Pillow")
    found, wanted = [], []
    try:
        for given in requests.values():
            (picture,) = given[endpoint.input.name].reshape(-1)
            wanted.append(_image(bundle, picture, own.output.type).astype(np.float32))
            made = server.infer(own.model, given, [own.output.name])[own.output.name]
            found.append(_numbers(made))
        result = compare(
            np.concatenate(found), np.concatenate(wanted), LEVEL, Case("golden", 1, own.output.name)
        )
    except (ServerError, LookupError, ValueError, ComparisonError) as err:
        return Check(name, "fail", str(err))
    figures = f"images of {len(found)} pictures differ by {result.needed_atol:.2g} in RMS"
    return Check(name, "pass" if result.passed else "fail", result.reason or figures)


def check_golden(
    endpoint: Endpoint,
    golden: Golden,
    requests: Requests,
    server: Server,
    *,
    name: str = "golden pictures",
) -> list[Check]:
    """Compare the outputs for the golden pictures, one picture a request.

    Args:
        endpoint: The model that clients call.
        golden: The outputs that were proved, and the limits.
        requests: Inputs of a request for each picture.
        server: The server.
        name: Name of the check.

    Returns:
        A check for each output.
    """
    rows: dict[str, list[NDArray[np.float32]]] = {output: [] for output in golden.outputs}
    try:
        for given in requests.values():
            made = server.infer(endpoint.model, given, list(rows))
            for output, found in rows.items():
                found.append(_numbers(made[output]))
    except (ServerError, LookupError, ValueError) as err:
        return [Check(name, "fail", str(err))]
    return [
        _compared(f"{name}: {output}" if len(rows) > 1 else name, golden, output, found)
        for output, found in rows.items()
    ]


def _numbers(tensor: NDArray[Any]) -> NDArray[np.float32]:
    if tensor.dtype == np.object_:
        raise ValueError("the server's answer has texts in the place of numbers")
    return tensor.astype(np.float32)


def _compared(name: str, golden: Golden, output: str, rows: list[NDArray[np.float32]]) -> Check:
    case = Case("golden", 1, output)
    try:
        result = compare(np.concatenate(rows), golden.outputs[output], golden.tolerance, case)
    except (ComparisonError, ValueError) as err:
        return Check(name, "fail", str(err))
    figures = (
        f"{len(rows)} pictures, {output} differs by {result.needed_atol:.2g}, "
        f"at most {golden.atol:.2g}"
    )
    return Check(name, "pass" if result.passed else "fail", result.reason or figures)


def check_labels(endpoint: Endpoint, requests: Requests, server: Server) -> Check:
    """Compare scores and answers with those of the same logits, and every class with its name.

    Args:
        endpoint: The model that clients call.
        requests: Inputs of a request for each picture.
        server: The server.
    """
    if not endpoint.labels:
        return Check("labels", "not run", "this server names no classes")
    try:
        for given in requests.values():
            made = server.infer(endpoint.model, given, [SCORES, ANSWERS, LOGITS])
            reason = _answers_differ(endpoint, made)
            if reason:
                return Check("labels", "fail", reason)
        every = server.infer(endpoint.model, given, [SCORES], classes=len(endpoint.labels))[SCORES]
        parts = [one.decode().split(":", 2) for one in every.reshape(-1)]
        names = {int(index): label for _, index, label in parts}
    except (ServerError, LookupError, ValueError, AttributeError) as err:
        return Check("labels", "fail", str(err))
    for index, label in enumerate(endpoint.labels):
        if names.get(index) != label:
            text = f"class {index} is {names.get(index)!r}, not {label!r}"
            return Check("labels", "fail", text)
    return Check(
        "labels", "pass", f"{len(names)} classes, the answers for {len(requests)} pictures"
    )


def _answers_differ(endpoint: Endpoint, made: Mapping[str, NDArray[Any]]) -> str:
    """Return how the scores or answers of a picture differ from those of its logits."""
    scores = _numbers(made[SCORES]).astype(np.float64)
    wanted = scores_of(_numbers(made[LOGITS]), endpoint.scores)
    if scores.shape != wanted.shape or not np.allclose(scores, wanted, rtol=1e-3, atol=CLOSE):
        return f"the scores are not those of the logits ({endpoint.scores})"
    answers = [one.decode().rpartition(":") for one in made[ANSWERS].reshape(-1)]
    best = np.sort(wanted[0])[::-1][: len(answers)]
    for (label, _, score), right in zip(answers, best, strict=True):
        near = np.flatnonzero(np.abs(wanted[0] - right) <= CLOSE + 1e-3 * abs(right))
        if not np.isclose(float(score), right, rtol=1e-3, atol=CLOSE):
            return f"{label!r} has the score {score}, not {right:.6f}"
        if label not in {endpoint.labels[index] for index in near}:
            return f"{label!r} is answered, not {endpoint.labels[near[0]]!r}"
    return "" if answers else "there is no answer"
