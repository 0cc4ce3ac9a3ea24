"""``swin-deploy export-model``: whole models, compared before they are written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import composites
import onnx
import peers
import pytest
from command_line import Command
from exported import needs_rtx

from exporters.artifact import read_manifest
from exporters.to_onnx import export_any
from swin_deploy.swap import whole_onnx

FACTORY = """
import swaps
import torch
from torch import nn

def build():
    return swaps.timm_segmenter()

def fixed():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = swaps.timm_segmenter()

        def forward(self, images):
            if len(images) != 1:
                raise ValueError("one image only")
            return self.inner(images)

    return Fixed()

def looking():
    whole = swaps.timm_segmenter()

    class Looking(type(whole.backbone)):
        def forward(self, images):
            if images.sum().item() > 1e9:
                raise ValueError("too bright")
            return super().forward(images)

    whole.backbone.__class__ = Looking
    return whole

def of_two():
    class OfTwo(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = swaps.timm_segmenter()

        def forward(self, images, factor):
            return self.inner(images * factor)

    return OfTwo()

def printing():
    print("a factory's text")
    whole = swaps.timm_segmenter()

    class Printing(type(whole)):
        def forward(self, images):
            print("a model's text")
            return {"same": images, **super().forward(images)}

    whole.__class__ = Printing
    return whole

def complex():
    whole = swaps.timm_segmenter()

    class Complex(type(whole)):
        def forward(self, images):
            return torch.view_as_complex(torch.stack(2 * [super().forward(images)["masks"]], -1))

    whole.__class__ = Complex
    return whole

def silent():
    raise ValueError

def fails():
    raise KeyError("weights")

def number():
    return 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with a module of factories."""
    peers.import_peer("timm")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("my_models.py").write_text(FACTORY, encoding="utf-8")
    yield tmp_path
    import sys

    sys.modules.pop("my_models", None)


def test_export_model_writes_what_a_factory_gives(here: Path, swin: Command) -> None:
    size = ("--image-size", "50", "--pad-to", "32")
    done = swin("export-model", "my_models:build", *size, "--json").assert_done()
    assert "runs the code of my_models" in done.err
    assert "image size 50 padded to 64, multiples of 32" in done.err
    assert done.json["passed"]
    assert done.json["sizes"] == [[64, 64]]
    assert {one["of"] for one in done.json["errors"]} >= {"Segmenter", "ONNX, batch 3"}
    graph = onnx.load(here / done.json["path"])
    assert [value.name for value in graph.graph.output] == ["masks"]
    assert graph.opset_import[0].version == 18
    assert read_manifest(here / done.json["path"])["batch"] == "dynamic"


def test_export_model_for_cpus_is_equal_and_says_so(here: Path, swin: Command) -> None:
    source, size = "my_models:build", ("--image-size", "64")
    outcome = swin("export-model", source, *size, "--for", "cpu", "--json").assert_done()
    assert (outcome.json["for"], outcome.json["passed"]) == ("cpu", True)
    path = Path("engines/my_models-build-swapped-cpu.onnx")
    assert read_manifest(path)["for"] == "cpu"
    assert "Einsum" not in {node.op_type for node in onnx.load(path).graph.node}


def test_export_model_opens_a_folder_of_transformers(here: Path, swin: Command) -> None:
    model: object = composites.COMPOSITES["upernet"].build()
    model.save_pretrained("upernet")  # type: ignore[attr-defined]
    done = swin(
        "export-model", "upernet", "--image-size", "72x104", "--batch", "1", "--output", "u.onnx"
    ).assert_done()
    assert "UperNetForSemanticSegmentation" in done.out
    assert "batch 1" in done.out
    assert "Loading weights" not in done.err  # transformers' progress bar
    assert "preprocessing" not in done.err  # it takes tensors, and there is no such option
    assert "next: swin-deploy plan u.onnx" in done.err


def test_export_model_writes_the_unmodified_model_beside_it(here: Path, swin: Command) -> None:
    arguments = ("--image-size", "64", "--batch", "1", "--output", "a.onnx", "--original", "b.onnx")
    done = swin("export-model", "my_models:build", *arguments).assert_done()
    assert "next: swin-deploy plan a.onnx b.onnx --fp16" in done.err
    ours, theirs = (onnx.load(here / name).graph for name in ("a.onnx", "b.onnx"))
    assert [one.name for one in ours.output] == [one.name for one in theirs.output] == ["masks"]
    assert len(ours.node) < len(theirs.node)


def test_export_model_goes_on_where_the_unmodified_model_is_not_exported(
    here: Path, swin: Command
) -> None:
    """Its Swin looks at the images' values, which the replacement does not."""
    arguments = ("--image-size", "64", "--batch", "1", "--output", "a.onnx", "--original", "b.onnx")
    done = swin("export-model", "my_models:looking", *arguments).assert_done()
    assert "b.onnx is not written: the unmodified model fails: PyTorch could not export" in done.err
    assert "next: swin-deploy plan a.onnx --fp16" in done.err
    assert not (here / "b.onnx").exists()


def test_export_model_takes_a_model_whose_attention_is_pytorchs_fused(
    here: Path, swin: Command
) -> None:
    """At one image its strides were beyond PyTorch's exporter."""
    model: object = composites.COMPOSITES["upernet"].build()
    model.save_pretrained("upernet")  # type: ignore[attr-defined]
    arguments = ("--image-size", "64", "--batch", "1", "--output", "a.onnx", "--original", "b.onnx")
    done = swin("export-model", "upernet", *arguments).assert_done()
    assert "next: swin-deploy plan a.onnx b.onnx --fp16" in done.err


@needs_rtx
@pytest.mark.parametrize("name", ["upernet", "maskformer"])
def test_exported_models_are_planned_and_built_in_half_precision(
    name: str, here: Path, swin: Command
) -> None:
    """MaskFormer has its Swin's last map as an output, and a convolution reads it, too."""
    model: object = composites.COMPOSITES[name].build()
    model.save_pretrained(name)  # type: ignore[attr-defined]
    arguments = ("--image-size", "64", "--batch", "1", "--output", "a.onnx", "--original", "b.onnx")
    swin("export-model", name, *arguments).assert_done()
    built = swin("build-trt", "a.onnx", "--fp16", "--json").assert_done().json
    assert built["precision"] == "fp16"
    assert built["plan"]["float32_compute"] == []
    assert read_manifest(here / built["path"])["source"]["file"].endswith("-fp16.onnx")
    both = swin("plan", "a.onnx", "b.onnx", "--fp16").assert_done()
    assert "a.onnx" in both.out
    assert "b.onnx" in both.out


@needs_rtx
def test_exported_model_in_bfloat16_needs_the_opset_that_has_it(here: Path, swin: Command) -> None:
    arguments = ("export-model", "my_models:build", "--image-size", "64", "--batch", "1")
    for opset in (18, 22):
        swin(*arguments, "--opset", opset, "--output", f"a{opset}.onnx").assert_done()
    refused = swin("build-trt", "a18.onnx", "--bf16")
    refused.assert_error("use --fp16, or export it at opset 22 or later, not 18")
    assert not (here / "engines").exists()
    built = swin("build-trt", "a22.onnx", "--bf16", "--json").assert_done().json
    assert (built["precision"], built["plan"]["float32_compute"]) == ("bf16", [])


def test_export_model_writes_to_two_different_files(here: Path, swin: Command) -> None:
    arguments = ("--image-size", "64", "--output", "a.onnx", "--original", "./a.onnx")
    swin("export-model", "my_models:build", *arguments).assert_error("are the same file")


def test_export_model_keeps_prints_out_of_results_and_takes_images_as_outputs(
    here: Path, swin: Command
) -> None:
    arguments = ("--image-size", "64", "--batch", "1", "--output", "a.onnx", "--json")
    done = swin("export-model", "my_models:printing", *arguments).assert_done()
    assert done.json["passed"]
    assert "a factory's text" in done.err
    assert "a model's text" in done.err
    graph = onnx.load(here / "a.onnx").graph
    assert [one.name for one in graph.input] == ["images"]
    assert [one.name for one in graph.output] == ["same", "masks"]


def test_export_model_of_a_complex_output_says_what_to_return(here: Path, swin: Command) -> None:
    refused = swin("export-model", "my_models:complex", "--image-size", "64", "--batch", "1")
    assert refused.status == 3
    assert "output 'output' is complex" in refused.err
    assert not list(here.glob("engines/*.onnx"))


def test_export_model_of_other_inputs_says_what_to_do(here: Path, swin: Command) -> None:
    refused = swin("export-model", "my_models:of_two", "--image-size", "64")
    refused.assert_error("replace_backbone in Python with inputs=")
    assert "export its model with torch.onnx.export" in refused.err


def test_export_model_says_where_the_batch_is_fixed(here: Path, swin: Command) -> None:
    done = swin("export-model", "my_models:fixed", "--image-size", "64", "--json").assert_done()
    assert "the file takes one image a call" in done.err
    assert done.json["batch"] == 1


def test_export_model_writes_nothing_where_an_output_differs(
    here: Path, swin: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*args: object, **named: object) -> onnx.ModelProto:
        graph = export_any(*args, **named)  # type: ignore[arg-type]
        tensor = next(one for one in graph.graph.initializer if len(one.dims) == 4)
        values = onnx.numpy_helper.to_array(tensor) * 1.01
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype("float32"), tensor.name))
        return graph

    monkeypatch.setattr(whole_onnx, "export_any", wrong)
    done = swin("export-model", "my_models:build", "--image-size", "64")
    assert done.status == 1
    assert "FAIL" in done.out
    assert "no file is written" in done.err
    assert not list(here.glob("engines/*.onnx"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("my_models:fails", "my_models:fails gives no model: KeyError: 'weights'"),
        ("my_models:silent", "my_models:silent gives no model: ValueError\n"),
        ("my_models:number", "a torch.nn.Module is needed"),
        ("my_models:absent", "AttributeError"),
        ("no_such_module:build", "ModuleNotFoundError"),
        (".", "is neither MODULE:FACTORY nor a folder with a config.json"),
    ],
)
def test_export_model_refuses_in_one_line(
    source: str, message: str, here: Path, swin: Command
) -> None:
    refused = swin("export-model", source, "--image-size", "64")
    refused.assert_error(message.rstrip())
    assert message in refused.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("absent", "--image-size", "64"),
        ("my_models:build",),
        ("my_models:build", "--image-size", "64", "--opset", "17"),
        ("my_models:build", "--image-size", "64", "--image-size", "64x64"),
        ("my_models:build", "--image-size", "60", "--image-size", "62", "--pad-to", "32"),
        ("my_models:build", "--image-size", "64", "--output", "model.engine"),
    ],
)
def test_export_model_refuses_wrong_usage(
    arguments: tuple[str, ...], here: Path, swin: Command
) -> None:
    assert swin("export-model", *arguments).status == 2


def test_factory_named_by_its_file_is_told_its_module(swin: Command) -> None:
    refused = swin("export-model", "my_models.py:build", "--image-size", 64)
    assert refused.status == 2
    assert "name its module: my_models:build" in refused.err
