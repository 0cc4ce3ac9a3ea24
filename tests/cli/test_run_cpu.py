"""``run --for cpu``: every family to the fastest right way on a CPU, and what is refused."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import library_folders
import numpy as np
import pytest
import torch
from command_line import Command, Outcome
from matrix import CONFIGS, Cell
from openvino_support import refuse_to_compile

from exporters.backends import load_openvino, openvino_cpu
from exporters.errors import MissingBackendError
from swin_deploy.config import BUNDLED_IMAGES, Output
from swin_deploy.runners import OpenvinoRunner, OrtRunner, Outputs

try:
    ABILITIES = openvino_cpu(load_openvino().Core()).abilities
except MissingBackendError as err:
    pytest.skip(str(err), allow_module_level=True)
pytest.importorskip("onnxruntime")
if torch.cuda.is_available():
    pytest.skip("run --for cpu wants no GPU", allow_module_level=True)

DIGITS = ("run", "--for", "cpu", "--model", "notebook-digits")
BRIEFLY = ("--bench-seconds", 1, "--batch", 2)
HALF = ["OpenVINO bf16"] if "BF16" in ABILITIES else []
WAYS = ["ONNX fp32", "OpenVINO fp32", *HALF]
FILE = "engines/notebook-digits-fp32-opset17-cpu.onnx"
IMAGES = BUNDLED_IMAGES["notebook-digits"]
INT8 = ("--int8", "--images", IMAGES, "--limit", 6)
INT8_FILE = "engines/notebook-digits-int8-opset17-cpu.onnx"
INT8_WAYS = ["ONNX int8", "OpenVINO int8", *(["OpenVINO int8 with bf16"] if HALF else [])]


def hops(values: dict[str, Any]) -> dict[str, Any]:
    return {hop["name"]: hop for hop in values["parity"]["hops"] if hop["stage"] == "onnx"}


def following(outcome: Outcome) -> list[str]:
    """The words of the proposed command, as a shell reads them."""
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("next: ")]
    return shlex.split(line.removeprefix("next: swin-deploy "), comments=True)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """The command for a model of two stages and 32 pixels."""
    cell = Cell(tmp_path_factory.mktemp("small"), "swin", "logits", "fp32")
    return ("run", "--for", "cpu", *cell.model)


@pytest.fixture
def disturbed(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """OpenVINO gives something else in the precisions of the parameter."""
    disturb(monkeypatch, OpenvinoRunner, request.param)


@pytest.fixture
def only_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both runtimes give something else unless the file is int8."""
    for runner in (OpenvinoRunner, OrtRunner):
        disturb(monkeypatch, runner, ("fp32", "bf16"))


def disturb(
    monkeypatch: pytest.MonkeyPatch,
    runner: type[OpenvinoRunner | OrtRunner],
    precisions: tuple[str, ...],
) -> None:
    fetch = runner.fetch

    def wrong(self: Any) -> Outputs:  # noqa: ANN401 - either runner
        off = self.precision in precisions
        return tuple(one * np.float32(1.1 if off else 1) for one in fetch(self))

    monkeypatch.setattr(runner, "fetch", wrong)


def test_digits_choose_a_right_way_and_the_next_command_uses_it(swin: Command) -> None:
    outcome = swin(*DIGITS, "--limit", 4, *BRIEFLY, "--json")
    values = outcome.assert_done().json
    assert list(hops(values)) == WAYS
    assert all(hop["passed"] for hop in hops(values).values())
    rows = [
        one for one in values["bench"]["results"] if one["batch"] == 2 and one["kind"] == "onnx"
    ]
    fastest = max(rows, key=lambda one: one["images_per_s"])["name"]
    assert values["conditions"]["chosen"].startswith(f"{fastest}, the fastest within tolerance")
    assert all(
        one in values["conditions"]["right, and not chosen"] for one in WAYS if one != fastest
    )
    assert values["artifacts"][0]["file"] == Path(FILE).name
    words = following(outcome)
    assert words[:3] == ["predict", FILE, str(BUNDLED_IMAGES["notebook-digits"])]
    assert ("openvino-bf16" in words) is (fastest == "OpenVINO bf16")
    swin("predict", FILE, BUNDLED_IMAGES["notebook-digits"] / "3", *words[3:]).assert_done()


@pytest.mark.parametrize(
    ("family", "output"),
    [("notebook", "tokens"), ("swin", "logits"), ("swinv2", "stages"), ("s3", "features")],
)
def test_every_family_is_proved(
    swin: Command,
    tmp_path: Path,
    family: str,
    output: Output,
) -> None:
    assert family in CONFIGS
    model = Cell(tmp_path, family, output, "fp32").model
    values = swin("run", "--for", "cpu", *model, "--quick", "--json").assert_done().json
    assert list(hops(values)) == WAYS
    assert "refused" not in values["conditions"]
    assert all(hop["passed"] for hop in hops(values).values())
    assert values["conditions"]["right"]
    assert values["verdict"] == "pass"
    assert values["bench"] is None


def test_padded_size_is_proved_in_float32_alone(swin: Command, tmp_path: Path) -> None:
    library_folders.huggingface(tmp_path / "hf", "swin", image_size=36, window_size=4)
    model = ("--checkpoint", tmp_path / "hf", "--image-size", "36x28")
    values = swin("run", "--for", "cpu", *model, "--quick", "--fp32", "--json").assert_done().json
    assert list(hops(values)) == ["ONNX fp32", "OpenVINO fp32"]
    assert all(hop["passed"] for hop in hops(values).values())
    assert values["made_from"]["image size"] == "36 x 28 pixels"


@pytest.mark.parametrize("disturbed", [("fp32", "bf16")], indirect=True)
@pytest.mark.usefixtures("disturbed")
def test_ways_out_of_tolerance_are_refused_and_another_is_chosen(
    swin: Command, small: tuple[object, ...]
) -> None:
    outcome = swin(*small, *BRIEFLY, "--json")
    values = outcome.assert_done().json
    assert list(hops(values)) == ["ONNX fp32"]
    assert values["conditions"]["chosen"].startswith("ONNX fp32, ")
    assert all(f"{one}: out of tolerance" in values["conditions"]["refused"] for one in WAYS[1:])
    assert "--runner" not in following(outcome)


@pytest.mark.parametrize("disturbed", [("fp32", "bf16")], indirect=True)
@pytest.mark.usefixtures("disturbed")
def test_nothing_right_is_status_1(
    swin: Command, small: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    outcome = swin(*small, "--quick", "--json")
    assert outcome.status == 1
    assert outcome.json["verdict"] == "fail"
    assert outcome.json["conditions"]["chosen"].startswith("none: no way to run the file")
    assert "onnxruntime is not installed" in outcome.json["conditions"]["refused"]


def test_without_openvino_onnx_runtime_alone_is_tried(
    swin: Command, small: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    outcome = swin(*small, "--quick", "--json").assert_done()
    assert list(hops(outcome.json)) == ["ONNX fp32"]
    assert 'pip install "swin-deploy[openvino]"' in outcome.err
    assert "openvino is not installed" in outcome.json["conditions"]["refused"]
    asked = swin(*small, "--quick", "--force", "--runner", "openvino", "--json").assert_done()
    assert list(hops(asked.json)) == ["ONNX fp32"]
    assert asked.json["conditions"]["refused"] == outcome.json["conditions"]["refused"]


def test_file_that_openvino_does_not_compile_is_run_in_onnx_runtime(
    swin: Command, small: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_to_compile(monkeypatch)
    outcome = swin(*small, *BRIEFLY, "--json").assert_done()
    assert {name: hop["passed"] for name, hop in hops(outcome.json).items()} == {
        "ONNX fp32": True,
        **dict.fromkeys(WAYS[1:]),
    }
    told = outcome.json["conditions"]
    assert told["chosen"].startswith("ONNX fp32, ")
    assert all(f"{one}: OpenVINO cannot compile" in told["refused"] for one in WAYS[1:])
    assert "--runner" not in following(outcome)


@pytest.mark.usefixtures("only_int8")
def test_int8_file_is_proved_timed_and_chosen(swin: Command) -> None:
    outcome = swin(*DIGITS, *INT8, "--bench-seconds", 1, "--batch", 2, "--json")
    values = outcome.assert_done().json
    assert list(hops(values)) == INT8_WAYS
    rows = {one["name"] for one in values["bench"]["results"] if one["kind"] == "onnx"}
    assert {"ONNX fp32", *INT8_WAYS} <= rows
    told = values["conditions"]
    assert told["chosen"].partition(", ")[0] in INT8_WAYS
    assert all(f"{one}: out of tolerance" in told["refused"] for one in WAYS)
    assert [one["file"] for one in values["artifacts"]] == [Path(FILE).name, Path(INT8_FILE).name]
    words = following(outcome)
    assert words[:3] == ["predict", INT8_FILE, str(IMAGES)]
    assert f"ship {INT8_FILE} with" in outcome.err
    assert "try them with --int8" not in outcome.err
    swin("predict", INT8_FILE, IMAGES / "3", *words[3:]).assert_done()


@pytest.mark.parametrize("disturbed", [("int8", "bf16")], indirect=True)
@pytest.mark.usefixtures("disturbed")
def test_int8_out_of_tolerance_is_refused(swin: Command) -> None:
    values = swin(*DIGITS, *INT8, "--quick", "--json").assert_done().json
    assert list(hops(values)) == ["ONNX fp32", "OpenVINO fp32", "ONNX int8"]
    assert all(
        f"{one}: out of tolerance" in values["conditions"]["refused"] for one in INT8_WAYS[1:]
    )
    assert values["verdict"] == "pass"


@pytest.mark.parametrize(("words", "told"), [((), True), (("--fp32",), False)])
def test_without_int8_one_line_says_what_it_would_try(
    swin: Command, words: tuple[str, ...], *, told: bool
) -> None:
    outcome = swin(*DIGITS, "--quick", *words).assert_done()
    assert outcome.err.count("try them with --int8") == told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--int8",), "int8 needs --images DIR"),
        (("--int8", "--auto", "--images", IMAGES), "--auto is for engines"),
        (("--fp16",), "leave out --fp16"),
        (("--flavor", "tensorrt-rtx"), "--flavor is for engines"),
        (("--compute-capability", "8.9"), "--compute-capability is for engines"),
        (("--auto",), "--auto is for engines"),
        (("--auto", "--fp32"), "--auto is for engines"),
    ],
)
def test_options_of_engines_are_wrong_usage(
    swin: Command, words: tuple[object, ...], message: str
) -> None:
    outcome = swin(*DIGITS, *words)
    assert outcome.status == 2
    assert message in outcome.err
    assert not Path("engines").exists()
