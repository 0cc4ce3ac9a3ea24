"""``plan``, ``parity`` and ``bench`` over a manifest of sizes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import several_sizes
from command_line import IMAGES, Command
from several_sizes import STEM

import swin_deploy
from exporters.spec import Precision

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX builds engines without a GPU")
PARITY = ("parity", "--model", "notebook-digits", "--limit", "2", "--batches", "1")


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of both sizes, with engines."""
    path = several_sizes.export_digits(tmp_path_factory.mktemp("sizes"))
    swin_deploy.build(path, precision="fp16", flavor="tensorrt-rtx")
    return path


@pytest.fixture
def half(sizes: Path) -> Path:
    return sizes.with_name(sizes.name.replace("fp32", "fp16"))


def test_export_and_build_of_sizes_say_the_folded_norms(swin: Command, tmp_path: Path) -> None:
    asked = [word for side in several_sizes.SIDES for word in ("--image-size", str(side))]
    for precision, folded in (("fp32", False), ("fp16", True)):
        path = tmp_path / f"{precision}-sizes.json"
        words = ("--model", "notebook-digits", *asked, "--precision", precision, "--output", path)
        done = swin("export", *words).assert_done()
        assert ("norms folded into 4 of 4 MLPs" in done.err) == folded
    single = tmp_path / "fp32-sizes.json"
    built = swin("build-trt", single, "--fp16", "--batch", "1").assert_done()
    assert "norms folded into 4 of 4 MLPs" in built.err


def test_plan_shows_every_size(half: Path, swin: Command) -> None:
    done = swin("plan", half).assert_done()
    assert [line for line in done.out.splitlines() if " px: " in line] == [
        f"{side} px: {half.parent / STEM.replace('fp32', 'fp16')}-{side}.engine"
        for side in several_sizes.SIDES
    ]
    found = swin("plan", half, "--json").assert_done().json["sizes"]
    assert found["112"]["bytes_moved"] > 3 * found["56"]["bytes_moved"]
    one = swin("plan", half, "--image-size", "56", "--json").assert_done().json
    assert one == {name: value for name, value in found["56"].items() if name != "file"}


def test_plan_of_sizes_without_engines_plans_the_onnx_files(sizes: Path, swin: Command) -> None:
    done = swin("plan", sizes, "--image-size", "56", "--fp16", "--json").assert_done()
    assert done.json["fused_attention"] == 4


def test_plan_of_a_damaged_manifest_says_so(sizes: Path, tmp_path: Path, swin: Command) -> None:
    broken = tmp_path / "x-sizes.json"
    broken.write_bytes(sizes.read_bytes()[:300])
    swin("plan", broken).assert_error(f"{broken} is not JSON")
    broken.write_text("{}", encoding="utf-8")
    swin("plan", broken).assert_error("is no manifest of sizes")


def test_plan_in_float16_takes_the_onnx_files_where_engines_are_built_too(
    half: Path, swin: Command
) -> None:
    engine = swin("plan", half, "--image-size", "56", "--json").assert_done().json
    graph = swin("plan", half, "--image-size", "56", "--fp16", "--json").assert_done().json
    assert graph["fused_attention"] == engine["fused_attention"] == 4


REFUSED = {
    "plan-twice": (("plan", "H", "--image-size", "56", "--image-size", "112"), 2, "takes one size"),
    "parity-twice": (
        (*PARITY, "--onnx", "F", "--image-size", "56", "--image-size", "112"),
        2,
        "this command takes one size, and 56, 112 are given",
    ),
    "too-large": (("export", "--image-size", "65537", "--pad-to", "32"), 2, "1 to 65,536"),
    "not-a-report": (("report", "F"), 3, "is a manifest (sizes), and no report"),
    "same-rounded": (
        (
            "export",
            "--model",
            "notebook-digits",
            "--image-size",
            "56",
            "--image-size",
            "50",
            "--pad-to",
            "28",
        ),
        2,
        "--image-size 56 and 50 are both 56 with --pad-to 28",
    ),
    "other-outputs": (
        (*PARITY, "--onnx", "O", "--image-size", "56", "--outputs", "features"),
        3,
        "output the default, not features",
    ),
    "fp8": (("build-trt", "F", "--fp8", "--images", IMAGES), 3, "opset is 17, and FP8 needs 19"),
    "images": (("build-trt", "F", "--fp16", "--images", IMAGES), 2, "and nothing here"),
    "two": (("plan", "H", "F"), 2, "has the sizes 112, 56, and one is needed here"),
    "svg": (("plan", "H", "--svg", "x.svg"), 2, "add --image-size"),
    "blocks": (("plan", "H", "--blocks"), 2, "add --image-size"),
    "no-set": (("plan", "O", "--image-size", "56"), 2, "is none"),
    "no-size": (("plan", "H", "--image-size", "64"), 3, "its sizes are 112, 56"),
    "report": ((*PARITY, "--onnx", "F", "--report", "r"), 2, "--report is of one size"),
    "bench-report": (("bench", "--onnx", "F", "--report", "r"), 2, "--report is of one size"),
    "mixed": ((*PARITY, "--onnx", "F", "--onnx", "O"), 2, "is of one size"),
    "no-engines": ((*PARITY, "--engine", "F"), 3, "has no engine for 112 px"),
    "parity-size": ((*PARITY, "--onnx", "F", "--image-size", "168"), 3, "its sizes are 112, 56"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_command_that_takes_one_size_says_so(
    sizes: Path, half: Path, swin: Command, case: str
) -> None:
    words, status, message = REFUSED[case]
    files = {"F": sizes, "H": half, "O": sizes.parent / f"{STEM}-56.onnx"}
    done = swin(*(files.get(str(word), word) for word in words))
    assert (done.status, done.out) == (status, "")
    assert message in done.err
    assert "Traceback" not in done.err


def test_parity_compares_every_size(sizes: Path, half: Path, swin: Command) -> None:
    words = ("--onnx", sizes, "--engine", half)
    done = swin(*PARITY, *words, "--json")
    found = done.json["sizes"]
    for side in several_sizes.SIDES:
        hops = {hop["name"]: hop for hop in found[str(side)]["hops"]}
        assert hops["ONNX fp32"]["passed"]
        assert hops["engine fp16"]["not_run"] or hops["engine fp16"]["passed"]
    one = swin(*PARITY, *words, "--image-size", "56", "--report", "r").assert_done()
    assert "56 px\n" in one.out
    assert "pass" in json.loads(Path("r/report.json").read_text())["verdict"]


def test_check_takes_the_files_of_the_models_size(sizes: Path) -> None:
    model = swin_deploy.load("notebook-digits")
    report = swin_deploy.check(model, sizes, limit=2, batches=1)
    assert [artifact.file for artifact in report.artifacts] == [f"{STEM}-56.onnx"]
    other = swin_deploy.load("notebook-digits", img_size=168)
    with pytest.raises(swin_deploy.ConfigError, match="its sizes are 112, 56"):
        swin_deploy.check(other, sizes)


def test_bench_measures_every_size(sizes: Path, swin: Command) -> None:
    words = ("--model", "notebook-digits", "--onnx", sizes, "--seconds", "1", "--batch", "1")
    done = swin("bench", *words, "--against", "eager", "--json").assert_done()
    found = done.json["sizes"]
    assert {side: one["img_size"] for side, one in found.items()} == {"112": 112, "56": 56}


@pytest.mark.parametrize(
    ("precision", "message"),
    [("fp8", "fp8 needs images to calibrate on"), ("fp16", r"images calibrate .* nothing here")],
)
def test_build_of_sizes_with_the_wrong_images_says_so(
    precision: Precision, message: str, sizes: Path
) -> None:
    before = sorted(sizes.parent.iterdir())
    images = None if precision == "fp8" else IMAGES
    with pytest.raises(swin_deploy.ConfigError, match=message):
        swin_deploy.build(sizes, precision=precision, images=images, flavor="tensorrt-rtx")
    assert sorted(sizes.parent.iterdir()) == before
