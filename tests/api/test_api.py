"""The Python API: its examples run, it says what it refuses, and the commands give the same."""

from __future__ import annotations

import contextlib
import doctest
import io
import pkgutil
import re
import shutil
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import peers
import pytest
import torch
from command_line import DIGITS, IMAGES, Command
from safetensors.torch import load_file

import swin_deploy
from exporters import errors
from exporters.spec import Precision
from swin_deploy.checkpoints.load import LoadOptions
from swin_deploy.images.labelled import find_images

EXAMPLES = [
    swin_deploy.load,
    swin_deploy.build,
    swin_deploy.check,
    swin_deploy.Model,
    swin_deploy.Model.export,
    swin_deploy.Report,
    swin_deploy.Predictor,
    swin_deploy.replace_backbone,
    swin_deploy.export_sizes,
]
# Plain values.
WITHOUT = {"Artifact", "Listener", "Prediction", "PreprocessingChoice", "Scored", "Swap"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def model() -> swin_deploy.Model:
    return swin_deploy.load("notebook-digits")


def failures(text: str, globs: dict[str, Any]) -> str:
    """What goes wrong in a text's examples; there must be some."""
    case = doctest.DocTestParser().get_doctest(text, globs, "example", None, 0)
    assert case.examples
    out = io.StringIO()
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(case, out=out.write)
    return out.getvalue()


@pytest.mark.parametrize("public", EXAMPLES, ids=lambda one: one.__qualname__)
def test_example_of_a_public_name_runs(public: Callable[..., Any], folder: Path) -> None:
    if public is swin_deploy.build:
        pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX builds engines without a GPU")
    picture = IMAGES / next(one for one in find_images(IMAGES) if one.startswith("3/"))
    globs = {"swin_deploy": swin_deploy, "example_picture": picture}
    peers.ensure_torchvision_importable()
    assert failures(public.__doc__ or "", globs) == ""


def test_page_runs_from_top_to_bottom(folder: Path) -> None:
    peers.import_peer("timm")
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX builds engines without a GPU")
    shutil.copytree(IMAGES, "swin_deploy/assets/digits/images")
    page = (Path(__file__).parent.parent.parent / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```pycon\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == page.count("```") / 2  # each is run
    assert failures("\n\n".join(blocks), {}) == ""


def test_readme_shows_code_that_runs(folder: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX builds engines without a GPU")
    torch.save(load_file(DIGITS), "swin.pt")
    shutil.copytree(IMAGES, "photos")
    shutil.copy(IMAGES / find_images(IMAGES)[0], "photo.jpg")
    page = (Path(__file__).parent.parent.parent / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(import swin_deploy\n.*?)```", page, re.DOTALL)
    found: dict[str, Any] = {}
    exec(block, found)
    assert found["engine"].path == Path("swin.engine")
    assert len(found["results"][0].top) == 5
    assert {hop.stage for hop in found["report"].parity.hops} == {"deploy", "onnx", "engine"}


def test_page_names_every_public_name() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "python.md").read_text(encoding="utf-8")
    missing = [name for name in swin_deploy.__all__ if not re.search(rf"\b{name}\b", page)]
    assert missing == []


def test_check_of_examples_notices_a_wrong_answer() -> None:
    assert "Expected:" in failures(">>> 1 + 1\n3\n", {})


def test_every_public_name_has_an_example_or_is_a_plain_value() -> None:
    errors_of = {name for name in swin_deploy.__all__ if name.endswith("Error")}
    examples: list[Any] = EXAMPLES
    with_example = {one.__name__ for one in examples}
    assert set(swin_deploy.__all__) - errors_of - WITHOUT <= with_example


def test_public_names_all_resolve_to_what_they_are_called() -> None:
    for name in swin_deploy.__all__:
        public: Any = getattr(swin_deploy, name)
        assert (public.__name__, bool(public.__doc__)) == (name, True)
    assert set(swin_deploy.__all__) <= set(dir(swin_deploy))


def test_every_error_is_public() -> None:
    known = {name for name, one in vars(errors).items() if isinstance(one, type)}
    assert known <= set(swin_deploy.__all__)


def test_no_module_hides_a_public_name() -> None:
    modules = {one.name for one in pkgutil.iter_modules(swin_deploy.__path__)}
    assert modules & set(swin_deploy.__all__) == set()


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        swin_deploy.lode  # type: ignore[attr-defined]  # noqa: B018 - that is the test
    with pytest.raises(ImportError):
        from swin_deploy import lode  # type: ignore[attr-defined]  # noqa: F401


def test_options_are_documented() -> None:
    from swin_deploy.api.engines import BuildOptions
    from swin_deploy.api.models import ExportOptions

    for options in (ExportOptions, BuildOptions):
        for name in typing.get_type_hints(options):
            assert f"        {name}: " in (options.__doc__ or "").replace("\n    ", "\n        ")
    assert all(
        f"``{name}``" in (swin_deploy.load.__doc__ or "") for name in LoadOptions.__optional_keys__
    )


def test_load_of_a_checkpoint_gives_its_weights(folder: Path) -> None:
    torch.save(load_file(DIGITS), "swin.pt")
    model = swin_deploy.load("swin.pt", img_size=112)
    assert (model.config.img_size, model.checkpoint) == (112, Path("swin.pt"))
    state = model.reference.state_dict()
    assert all(torch.equal(state[name], one) for name, one in load_file(DIGITS).items())
    assert model.deploy is model.deploy
    assert len(repr(model)) < 120


def test_load_prefers_a_path_to_a_name(folder: Path) -> None:
    Path("notebook-digits").mkdir()
    with pytest.raises(swin_deploy.CheckpointError):
        swin_deploy.load("notebook-digits")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda _: swin_deploy.load("no.pt"), "no.pt does not exist"),
        (lambda _: swin_deploy.load("notebook-digits", imgsize=56), "imgsize"),  # type: ignore[call-arg]
        (lambda _: swin_deploy.load("notebook-digits", img_size=57), "57"),
        (lambda _: swin_deploy.load("notebook-digits", variant="swin_t"), "leave variant out"),
        (lambda _: swin_deploy.load(torch.nn.Linear(1, 1)), "save the model first"),  # type: ignore[arg-type]
        (lambda _: swin_deploy.load(""), "'' is not the path"),
        (lambda _: swin_deploy.load("."), "swin.pt is not a checkpoint"),  # the only weights there
        (lambda _: swin_deploy.load("a\0b"), "is not the path"),
        (lambda _: swin_deploy.load("mine.onnx"), "was made from a checkpoint"),
        (lambda _: swin_deploy.load("notebook-digits", preprocessing="timm"), "such as"),  # type: ignore[arg-type]
        (lambda m: m.export("x.engine"), "end its name in .onnx"),
        (lambda m: m.export(""), "is not the path"),
        (lambda m: m.export("x.onnx", precision="fp61"), "precision 'fp61' is not known"),
        (lambda m: m.export("x.onnx", precison="fp16"), "option 'precison' is not known"),
        (lambda m: m.export("x.onnx", opset=16), "opset 16"),
        (lambda m: m.export("x.onnx", opset=17.0), "opset 17.0"),
        (lambda m: m.export("x.onnx", batch=0), "batch 0"),
        (lambda m: m.export("x.onnx", batch=2.0), "batch 2.0"),
        (lambda m: m.export("x.onnx", io_precision="fp16"), "needs precision fp16"),
        (lambda m: m.export("x.onnx", keep=["layers.0.mlp"]), "keep needs precision"),
        (lambda m: m.export("x.onnx", precision="fp16", keep=["nothing"]), "nothing"),
        (lambda m: m.export("mine.onnx"), "not made by swin-deploy"),
        (lambda _: swin_deploy.build("no.onnx"), "no.onnx"),
        (lambda _: swin_deploy.build("mine.onnx", precision="int8"), "int8 is for CPUs"),
        (lambda _: swin_deploy.build("mine.onnx", batch=(8, 4, 1)), "not in the order"),
        (lambda _: swin_deploy.build("mine.onnx", batch=(1, 8)), "not in the order"),  # type: ignore[arg-type]
        (lambda _: swin_deploy.build("mine.onnx", batch=-1), "batch -1"),
        (lambda _: swin_deploy.build("mine.onnx", flavor="trt"), "flavor 'trt'"),  # type: ignore[arg-type]
        (lambda _: swin_deploy.build("mine.onnx", level=3), "option 'level'"),  # type: ignore[call-arg]
        (lambda _: swin_deploy.build("mine.onnx", workspace_mib=-1), "workspace_mib -1"),
        (lambda _: swin_deploy.build("mine.onnx", optimization_level=6), "optimization_level 6"),
        (lambda _: swin_deploy.build("mine.onnx"), "mine.onnx"),
        (lambda m: swin_deploy.check(m, "no.onnx"), "no.onnx does not exist"),
        (lambda m: swin_deploy.check(m, "swin.pt"), "neither an ONNX file nor an engine"),
        (lambda m: swin_deploy.check(m, ["x.onnx"]), "is not the path"),  # type: ignore[arg-type]
        (lambda _: swin_deploy.check("notebook-digits"), "what load returns"),  # type: ignore[arg-type]
        (lambda m: swin_deploy.check(m, limit=0), "limit"),
        (lambda m: swin_deploy.check(m, batches=()), "batches"),
        (lambda m: swin_deploy.check(m, batches=(1, 0)), "batches"),
        (lambda m: swin_deploy.check(m, images="photos"), "photos"),
        (lambda m: swin_deploy.check(m, original="tinm"), "original 'tinm'"),
        (lambda m: swin_deploy.check(m, original="timm"), "--original timm"),
        (lambda m: swin_deploy.Predictor(m, img_size=112), "img size when it was loaded"),
        (lambda m: swin_deploy.Predictor(m, imgsize=112), "imgsize"),  # type: ignore[call-arg]
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line_and_nothing_is_written(
    call: Callable[[Any], object], message: str, model: swin_deploy.Model, folder: Path
) -> None:
    Path("mine.onnx").write_bytes(b"not made by swin-deploy")
    Path("swin.pt").write_bytes(b"weights")
    with pytest.raises(swin_deploy.DeployError) as info:
        call(model)
    assert message in str(info.value)
    assert "\n" not in str(info.value)
    assert {one.name for one in folder.iterdir()} == {"mine.onnx", "swin.pt"}


def test_export_gives_the_commands_file(
    swin: Command, model: swin_deploy.Model, tmp_path: Path
) -> None:
    asked = ("--precision", "fp16", "--keep-float32", "layers.0.mlp", "--batch", 2)
    swin("export", "--model", "notebook-digits", *asked, "--output", "theirs.onnx").assert_done()
    ours = model.export("ours.onnx", precision="fp16", keep=["layers.0.mlp"], batch=2)
    assert Path("ours.onnx").read_bytes() == Path("theirs.onnx").read_bytes()
    assert all(one.startswith("layers.0.mlp.") for one in ours.manifest["float32_modules"])
    assert "manifest" not in repr(ours)


def test_build_gives_the_commands_engine(built: Path, full: Path, half: Path, folder: Path) -> None:
    engine = swin_deploy.build(full, "ours.engine", precision="fp16", flavor="tensorrt-rtx")
    theirs = onnx.load(half)
    graph = Path(engine.manifest["source"]["file"])
    assert onnx.load(graph) == theirs
    assert engine.manifest["precision"] == "fp16"
    assert Path("ours.engine").stat().st_size == engine.manifest["bytes"]
    assert engine.manifest["profile"] == {"min": 1, "opt": 8, "max": 32}


def test_build_of_what_half_precision_cannot_deliver_says_why(
    full: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX builds engines without a GPU")
    missing = "swin_deploy.artifacts.engine_file.missing_precision"
    monkeypatch.setattr(missing, lambda *_: ("two kernels are float32",))
    with pytest.raises(swin_deploy.BuildError, match="two kernels are float32: not the precision"):
        swin_deploy.build(full, "ours.engine", precision="fp16", flavor="tensorrt-rtx")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("precision", [None, "fp32", "fp16", "fp8", "fp8-weights"])
def test_build_with_images_for_nothing_or_without_them_says_so(
    precision: Precision | None, full: Path, folder: Path
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX builds engines without a GPU")
    asked: dict[str, Any] = {"precision": precision, "flavor": "tensorrt-rtx"}
    if precision in ("fp8", "fp8-weights"):
        message = f"{precision} needs images .* give images= a folder"
    else:
        message = "images calibrate a float32 file for precision .*; leave them out"
        asked["images"] = IMAGES
    with pytest.raises(swin_deploy.ConfigError, match=message):
        swin_deploy.build(full, "o.engine", **asked)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("named", [8.6, [8.6], {"8.6": 1}], ids=str)
def test_build_for_what_is_no_list_of_gpus_says_so(
    named: Any,  # noqa: ANN401 - anything
    full: Path,
    folder: Path,
) -> None:
    with pytest.raises(swin_deploy.ConfigError, match="is not a list of texts; give"):
        swin_deploy.build(full, "o.engine", flavor="tensorrt-rtx", compute_capabilities=named)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("named", ["current", ("current",), ["current"]], ids=str)
def test_build_for_the_current_gpu_without_one_says_so(
    named: tuple[str, ...], full: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX builds engines without a GPU")
    monkeypatch.setattr("swin_deploy.api.engines.current_gpu", lambda: None)
    with pytest.raises(swin_deploy.MissingBackendError, match="current needs an NVIDIA GPU"):
        swin_deploy.build(full, "o.engine", flavor="tensorrt-rtx", compute_capabilities=named)
    assert list(folder.iterdir()) == []


def test_check_gives_the_commands_verdicts(
    swin: Command, model: swin_deploy.Model, full: Path
) -> None:
    small = ("--limit", 6, "--batches", "1,3", "--json")
    theirs = swin("parity", "--model", "notebook-digits", "--onnx", full, *small).assert_done().json
    seen: list[str] = []

    def follow(detail: str, _: float | None = None, /) -> None:
        seen.append(detail)

    report = swin_deploy.check(model, full, limit=6, batches=(1, 3), progress=follow)
    ours = report.to_dict()["parity"]
    assert ours == theirs
    assert report.passed
    assert any("ONNX fp32" in line for line in seen)
    assert len(repr(report)) < 120


def test_check_of_a_wrong_file_fails_and_is_no_error(
    model: swin_deploy.Model, full: Path, folder: Path
) -> None:
    graph = onnx.load(full)
    head = next(one for one in graph.graph.initializer if tuple(one.dims) == (10,))
    values = onnx.numpy_helper.to_array(head).copy()
    values[3] += 1
    head.CopyFrom(onnx.numpy_helper.from_array(values, head.name))
    onnx.save(graph, "wrong.onnx")
    report = swin_deploy.check(model, "wrong.onnx", limit=6, batches=(1, 3))
    assert (report.passed, report.verdict) == (False, "fail")
    assert [hop.passed for hop in report.parity.hops] == [True, False] if report.parity else False


def test_predictor_takes_what_load_gives(model: swin_deploy.Model, full: Path) -> None:
    pictures = [IMAGES / one for one in find_images(IMAGES)[:4]]
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(swin_deploy.Predictor(model))(pictures)
        theirs = stack.enter_context(swin_deploy.Predictor(full))(pictures)
    for one, other in zip(ours, theirs, strict=True):
        assert [scored.label for scored in one.top] == [scored.label for scored in other.top]
        np.testing.assert_allclose(one.outputs["logits"], other.outputs["logits"], atol=1e-4)


def test_predictor_of_a_model_takes_class_names(model: swin_deploy.Model, folder: Path) -> None:
    Path("names.txt").write_text("".join(f"digit {n}\n" for n in range(10)))
    picture = IMAGES / find_images(IMAGES)[0]
    with swin_deploy.Predictor(model, classes="names.txt") as predict:
        assert predict(picture)[0].top[0].label.startswith("digit ")
