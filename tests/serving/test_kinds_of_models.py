"""A real Triton serves every kind of model, and clients of OpenVINO Model Server ask it, too."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import triton_server
from command_line import call_main
from photographs import write_photographs
from triton_server import Triton, serving

from swin_deploy.predict.predictor import Predictor
from swin_deploy.serving.bundle import read_bundle
from swin_deploy.serving.check import check_server
from swin_deploy.serving.protocol import Server
from swin_deploy.serving.served import read_served
from swin_deploy.serving.triton import labels_of, model_files

pytestmark = pytest.mark.slow
# What a line of labels.txt holds as it is, and what it does not.
NAMES = ["a,b", "c:d", '"e"', "  f  g ", "größe 狗", "h\ni", "", "\\n", "%s", "0.5"]
EXPORTS = {
    "several": ("--scores", "sigmoid"),
    "pixels": ("--bake-preprocessing",),
    "features": ("--outputs", "features"),
    "half": ("--precision", "fp16", "--io-precision", "fp16"),
    "named": ("--classes", "names.json"),
}
PREPARED = ("pixels", "half", "several", "features")  # the images by the client, as for OVMS


@dataclass(frozen=True)
class Running:
    """A server with a bundle of each export, and those whose clients prepare the pictures.

    Attributes:
        triton: The server.
        folder: Folder of the ONNX files; bundles are in ``triton`` and ``ovms`` there.
        picture: A picture.
    """

    triton: Triton
    folder: Path
    picture: Path


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    triton_server.environment()
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "names.json").write_text(json.dumps(NAMES))
    repository = folder / "models"
    for name, options in EXPORTS.items():
        given = [str(folder / one) if one.endswith(".json") else one for one in options]
        path = folder / f"{name}.onnx"
        export = ("--quiet", "export", "--model", "notebook-digits", "--output", path)
        assert call_main((*export, *given)) == 0
        for target in ("triton", "ovms"):
            make = ("--quiet", "bundle", path, "--for", target, "--output", folder / target / name)
            assert call_main((*make, "--name", f"{name}-{target}")) == 0
        shutil.copytree(folder / "triton" / name / "models", repository, dirs_exist_ok=True)
    for name in PREPARED:
        files = model_files(read_served(folder / f"{name}.onnx"), f"{name}-ovms")
        for place, data in files.items():
            path = folder / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data if isinstance(data, bytes) else data.read_bytes())
    with serving(repository, folder) as triton:
        yield Running(triton, folder, write_photographs(folder / "photographs")[0])


@pytest.mark.parametrize("name", EXPORTS)
def test_server_of_every_kind_of_model_passes(name: str, running: Running) -> None:
    bundle = read_bundle(running.folder / "triton" / name)
    report = check_server(bundle, Server(running.triton.url), seconds=0.5)
    assert report.passed, report.checks
    if name != "features":
        with Predictor(running.folder / f"{name}.onnx", threshold=0.0, top=3) as predictor:
            (wanted,) = predictor([running.picture])
        given = {"image": np.array([[running.picture.read_bytes()]], dtype=np.object_)}
        found = Server(running.triton.url).infer(f"{name}-triton", given, ["answers"])["answers"]
        best = [one.decode().rpartition(":") for one in found[0][:3]]
        shown = labels_of(read_served(running.folder / f"{name}.onnx"))
        assert [label for label, _, _ in best] == [shown[one.index] for one in wanted.top]
        for (_, _, score), one in zip(best, wanted.top, strict=True):
            assert float(score) == pytest.approx(one.probability, abs=1e-3)


def test_names_of_classes_stay_where_a_line_holds_them(running: Running) -> None:
    found = labels_of(read_served(running.folder / "named.onnx"))
    assert found == [*NAMES[:5], "h i", "class 6", *NAMES[7:]]


@pytest.mark.parametrize("way", [(), ("--grpc",)], ids=["http", "grpc"])
@pytest.mark.parametrize("name", PREPARED)
def test_client_that_prepares_images_answers_as_predict(
    name: str, way: tuple[str, ...], running: Running
) -> None:
    """No OpenVINO Model Server is here; Triton speaks the same protocol."""
    folder = running.folder / "ovms" / name
    report = check_server(read_bundle(folder), Server(running.triton.url), seconds=0.2)
    assert report.passed, report.checks
    port = running.triton.grpc if way else running.triton.http
    run = subprocess.run(
        [running.triton.python, folder / "client.py", *way, running.picture],
        capture_output=True, text=True, check=True,
        env=os.environ | {"SERVER": f"127.0.0.1:{port}"},
    )  # fmt: skip
    with Predictor(running.folder / f"{name}.onnx", threshold=0.0, top=1) as predictor:
        (wanted,) = predictor([running.picture])
    if name == "features":
        assert run.stdout == f"{running.picture} features {wanted.outputs['features'].shape}\n"
        return
    label, _, score = run.stdout.split()[1].rpartition(":")
    assert label == wanted.top[0].label
    assert float(score) == pytest.approx(wanted.top[0].probability, abs=1e-3)
