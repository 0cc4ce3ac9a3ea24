"""A real Triton loads bundles as they are, and answers as ``predict`` does."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import triton_server
from bundles import write_engine_of
from command_line import Command, call_main
from numpy.typing import NDArray
from photographs import write_photographs
from triton_server import Triton, serving

from exporters.artifact import write_atomic
from swin_deploy.predict.predictor import Predictor
from swin_deploy.serving.bundle import Bundle, read_bundle
from swin_deploy.serving.check import check_canary, requests_for
from swin_deploy.serving.protocol import Server, ServerError

pytestmark = pytest.mark.slow
NAME = "digits"
GRPC = """
import sys, json
import numpy as np, tritonclient.grpc as triton
client = triton.InferenceServerClient(sys.argv[1])
for path in sys.argv[3:]:
    given = triton.InferInput("image", [1, 1], "BYTES")
    given.set_data_from_numpy(np.array([[open(path, "rb").read()]], dtype=np.object_))
    answer = client.infer(sys.argv[2], [given])
    print(json.dumps(answer.as_numpy("logits")[0].tolist()))
"""


@dataclass(frozen=True)
class Running:
    """A server with a bundle of the digits model, and another one of other weights."""

    triton: Triton
    folder: Path
    onnx: Path

    @property
    def server(self) -> Server:
        return Server(self.triton.url)


@pytest.fixture(scope="module")
def running(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server for the tests of this file: an ONNX bundle, and that of an engine."""
    triton_server.environment()
    folder = tmp_path_factory.mktemp("bundles")
    shutil.copytree(exported / "engines", folder / "engines")  # of other tests, too
    onnx = next((folder / "engines").glob("*.onnx"))
    engine = write_engine_of(onnx, folder / "engines" / "digits.engine")
    make = ("--quiet", "bundle")
    assert (
        call_main((*make, onnx, "--for", "triton", "--output", folder / "a", "--name", NAME)) == 0
    )
    for_engine = ("--for", "kserve", "--output", folder / "b", "--name", "engine")
    assert call_main((*make, engine, *for_engine)) == 0
    repository = folder / "models"
    for one in ("a", "b"):
        shutil.copytree(folder / one / "models", repository, dirs_exist_ok=True)
    explicit = ("--model-control-mode=explicit", "--load-model=*")
    with serving(repository, folder, extra=explicit) as triton:
        yield Running(triton, folder, onnx)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="module")
def predicted(running: Running, photographs: list[Path]) -> list[Any]:
    with Predictor(running.onnx) as predictor:
        return predictor(photographs)


def asked(path: Path) -> dict[str, NDArray[Any]]:
    return {"image": np.array([[path.read_bytes()]], dtype=np.object_)}


def assert_near(found: NDArray[Any], wanted: NDArray[Any]) -> None:
    """Two versions of ONNX Runtime on the CPU add up in another order, and no more."""
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("model", [NAME, "engine"])
def test_answers_over_http_are_those_of_predict(
    model: str, running: Running, photographs: list[Path], predicted: list[Any]
) -> None:
    assert len(photographs) == 16
    for path, wanted in zip(photographs, predicted, strict=True):
        outputs = ["answers", "scores", "logits"]
        found = running.server.infer(model, asked(path), outputs)
        assert_near(found["logits"][0], wanted.outputs["logits"])
        texts = [one.decode().rpartition(":") for one in found["answers"][0]]
        assert [label for label, _, _ in texts] == [one.label for one in wanted.top]
        for (_, _, score), one in zip(texts, wanted.top, strict=True):
            assert float(score) == pytest.approx(one.probability, abs=1e-4)
            assert found["scores"][0, one.index] == pytest.approx(one.probability, abs=1e-4)


def test_answers_over_grpc_are_those_of_predict(
    running: Running, photographs: list[Path], predicted: list[Any]
) -> None:
    place = f"127.0.0.1:{running.triton.grpc}"
    command = [*map(str, (running.triton.python, "-c", GRPC, place, NAME, *photographs))]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(rows) == 16
    for found, wanted in zip(rows, predicted, strict=True):
        assert_near(np.array(found), wanted.outputs["logits"])


@pytest.mark.parametrize("way", [(), ("--grpc",)], ids=["http", "grpc"])
def test_client_of_the_bundle_prints_labels(
    way: tuple[str, ...], running: Running, photographs: list[Path], predicted: list[Any]
) -> None:
    port = running.triton.grpc if way else running.triton.http
    run = subprocess.run(
        [running.triton.python, running.folder / "a" / "client.py", *way, photographs[0]],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"SERVER": f"127.0.0.1:{port}"},
    )
    best = predicted[0].top[0]
    assert run.stdout.startswith(f"{photographs[0]} {best.label}:{best.probability:.3f}"[:-1])


def test_inputs_of_the_model_are_bit_equal_in_the_server(
    running: Running, photographs: list[Path]
) -> None:
    from swin_deploy.images.decode import load_image

    steps = read_bundle(running.folder / "a").preprocessing
    for path in photographs:
        found = running.server.infer(f"{NAME}-preprocess", asked(path), ["images"])["images"][0]
        np.testing.assert_array_equal(found, load_image(path, steps))


def test_check_of_a_server_passes(running: Running, swin: Command) -> None:
    outcome = swin("bundle", running.folder / "a", "--check", running.triton.url, "--seconds", "2",
                   "--json")  # fmt: skip
    found = {one["name"]: one["outcome"] for one in outcome.assert_done().json["checks"]}
    assert found == dict.fromkeys(
        ["ready", "tensors", "preprocessing", "golden pictures", "labels", "bad requests", "load",
         "batches", "answers after all this"], "pass",
    )  # fmt: skip


def test_canary_passes_and_a_server_with_other_weights_fails(
    running: Running, swin: Command, tmp_path: Path
) -> None:
    swin("parity", "--server", running.triton.url, "--bundle", running.folder / "b").assert_done()
    _other_weights(running.onnx, tmp_path / "other.onnx")
    swin("bundle", tmp_path / "other.onnx", "--for", "triton", "--output", "other", "--name", NAME,
         "--quiet").assert_done()  # fmt: skip
    outcome = swin("parity", "--server", running.triton.url, "--bundle", "other")
    assert outcome.status == 1
    assert "FAIL" in outcome.out
    assert "golden pictures" in outcome.out


LABELS = tuple("0123456789")


@pytest.mark.parametrize(
    ("endpoint", "steps", "reason"),
    [
        ({}, {}, ""),
        ({"labels": ("1", "0", *LABELS[2:])}, {}, "not '1'"),
        ({"scores": "sigmoid"}, {}, "the scores are not those of the logits (sigmoid)"),
        ({}, {"interpolation": "bilinear"}, "preprocessing"),
        ({}, {"channel_order": "bgr"}, "preprocessing"),
        ({}, {"turn": True}, "preprocessing"),
        ({}, {"rescale": 1 / 256}, "preprocessing"),
    ],
    ids=["as made", "two names", "scores", "filter", "channels", "EXIF", "levels"],
)  # fmt: skip
def test_canary_sees_what_limits_on_logits_do_not(
    endpoint: dict[str, Any], steps: dict[str, Any], reason: str, running: Running
) -> None:
    """Limits as wide as those of 8 bits; the server is right, and what is expected is not."""
    expected = _expecting(running, endpoint, steps, pictures=8)
    report = check_canary(expected, running.server)
    failed = [one for one in report.checks if one.outcome == "fail"]
    assert report.passed is not bool(reason)
    assert len(failed) == bool(reason)
    assert all(reason in f"{one.name}: {one.detail}" for one in failed)


def test_canary_compares_the_names_of_classes_that_no_answer_has(running: Running) -> None:
    golden = read_bundle(running.folder / "a").service.golden
    assert golden is not None
    least = int(np.argmin(golden.outputs["logits"][0]))
    labels = [*LABELS]
    labels[least] = "other"
    expected = _expecting(running, {"labels": tuple(labels)}, {}, pictures=1)
    failed = [one for one in check_canary(expected, running.server).checks if one.outcome == "fail"]
    assert [(one.name, one.detail) for one in failed] == [
        ("labels", f"class {least} is '{least}', not 'other'")
    ]


def _expecting(
    running: Running, endpoint: dict[str, Any], steps: dict[str, Any], *, pictures: int
) -> Bundle:
    """The bundle with another endpoint or other steps, wide limits, and its first pictures."""
    bundle = read_bundle(running.folder / "a")
    made, golden = bundle.service.endpoint, bundle.service.golden
    assert made is not None
    assert golden is not None
    wide = dataclasses.replace(
        golden,
        pictures=dict(list(golden.pictures.items())[:pictures]),
        outputs={name: one[:pictures] for name, one in golden.outputs.items()},
        atol=0.6,
        rtol=0.01,
    )
    return dataclasses.replace(
        bundle,
        service=dataclasses.replace(
            bundle.service, endpoint=dataclasses.replace(made, **endpoint), golden=wide
        ),
        preprocessing=dataclasses.replace(bundle.preprocessing, **steps),
    )


def _other_weights(source: Path, path: Path) -> None:
    import onnx

    graph = onnx.load(source)
    last = next(one for one in graph.graph.initializer if len(one.dims) == 2 and 10 in one.dims)
    values = onnx.numpy_helper.to_array(last) * 1.02
    last.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), last.name))
    write_atomic(path, graph.SerializeToString())


def test_one_bad_picture_harms_no_other_request(running: Running, photographs: list[Path]) -> None:
    """Bad and good requests come together, and are in batches together."""

    def ask(turn: int) -> None:
        if turn % 3:
            running.server.infer(NAME, asked(photographs[turn % 16]), ["logits"])
            return
        bad = {"image": np.array([[b"junk"]], dtype=np.object_)}
        with pytest.raises(ServerError) as info:
            running.server.infer(NAME, bad, ["logits"])
        assert info.value.status == 400

    done, errors, _ = requests_for(2, ask)
    assert not errors
    assert done > 20


def test_several_pictures_in_a_request_are_answered_in_order(
    running: Running, photographs: list[Path], predicted: list[Any]
) -> None:
    pictures = [[path.read_bytes()] for path in photographs]
    given = {"image": np.array(pictures, dtype=np.object_)}
    found = running.server.infer(NAME, given, ["logits"])["logits"]
    for row, wanted in zip(found, predicted, strict=True):
        assert_near(row, wanted.outputs["logits"])


def test_reload_in_place_loses_no_request(running: Running, photographs: list[Path]) -> None:
    model = f"{NAME}-model"
    config = running.folder / "models" / model / "config.pbtxt"

    def reload() -> None:
        os.utime(config)
        shutil.copytree(config.parent / "1", config.parent / "2")
        _control(running.server, model, "load")
        assert running.server.get(f"v2/models/{model}")["versions"] == ["2"]

    done, errors = _while_asking(running, photographs, reload)
    assert errors == []
    assert done > 20


def test_unload_answers_what_was_taken_and_refuses_the_rest(
    running: Running, photographs: list[Path]
) -> None:
    """Every request gets its answer, or status 4xx; after the load all get answers again."""

    def unload_and_load() -> None:
        _control(running.server, "engine", "unload")
        time.sleep(0.5)
        _control(running.server, "engine", "load")

    _, errors = _while_asking(running, photographs, unload_and_load, model="engine")
    assert errors
    assert all("answers 4" in one for one in errors), errors[:3]
    assert check_canary(read_bundle(running.folder / "b"), running.server).passed


def _while_asking(
    running: Running, photographs: list[Path], act: Callable[[], None], model: str = NAME
) -> tuple[int, list[str]]:
    """Act a second after two clients begin to ask; the number of answers, and the errors."""
    failed: list[BaseException] = []

    def later() -> None:
        time.sleep(0.7)
        try:
            act()
        except (AssertionError, ServerError, OSError) as err:
            failed.append(err)

    thread = threading.Thread(target=later)
    thread.start()

    def ask(turn: int) -> None:
        running.server.infer(model, asked(photographs[turn % 16]), ["logits"])

    done, errors, _ = requests_for(4, ask, clients=2)
    thread.join()
    assert not failed, failed
    return done, errors


def _control(server: Server, model: str, action: str) -> None:
    """Load or unload a model; the load of a row does not load its models, nor its unload them."""
    server.post(f"v2/repository/models/{model}/{action}", b"{}", {})
    deadline = time.monotonic() + 30
    while bool(server.refusal(model)) == (action == "load"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_load_of_seconds_does_not_grow_the_memory(
    running: Running, photographs: list[Path]
) -> None:
    def ask(turn: int) -> None:
        running.server.infer(NAME, asked(photographs[turn % 16]), ["logits"])

    requests_for(2, ask, clients=2)  # buffers and caches are there
    before = running.triton.memory_mib
    _, errors, _ = requests_for(3, ask, clients=2)
    assert errors == []
    assert running.triton.memory_mib - before < 40


def test_server_refuses_a_wrong_configuration(running: Running, tmp_path: Path) -> None:
    """The server's own parser reads ``config.pbtxt``: the checks above are not empty."""
    shutil.copytree(running.folder / "a" / "models", tmp_path / "models")
    config = tmp_path / "models" / NAME / "config.pbtxt"
    config.write_text(config.read_text().replace("max_batch_size", "max_batch_sizes"))
    with serving(tmp_path / "models", tmp_path, wait=False) as triton:
        assert triton.process.wait(60) != 0
        assert "max_batch_sizes" in triton.log.read_text()
