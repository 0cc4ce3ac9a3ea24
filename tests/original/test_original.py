"""The reference against the library's own model, loaded by the library from the user's file."""

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Command
from original_files import FILES, Asked, ema_file, hop_of, maskformer
from torch import nn

from swin_deploy.candidates import Made
from swin_deploy.checkpoints import huggingface, weights
from swin_deploy.checkpoints import read as sources
from swin_deploy.checkpoints.dialect import CheckpointHints
from swin_deploy.checkpoints.load import LoadedModel, load_model
from swin_deploy.config import Size
from swin_deploy.original.build import build_original, original_library
from swin_deploy.parity import ParityReport
from swin_deploy.reference import Reference
from swin_deploy.report.from_json import read_report
from swin_deploy.report.make import make_report
from swin_deploy.report.write import write_report

LIBRARIES = ("timm", "torchvision", "transformers")


def changed(loaded: LoadedModel, change: Callable[[Reference], object]) -> LoadedModel:
    """The same with a reference that is not what the file holds."""
    with torch.no_grad():
        change(loaded.reference)
    return loaded


@pytest.mark.parametrize(("write", "asked"), FILES.values(), ids=FILES.keys())
def test_reference_equals_the_librarys_own_model(
    write: Callable[[Path], Path], asked: Asked, tmp_path: Path
) -> None:
    hop = hop_of(load_model(None, write(tmp_path), **asked))
    assert hop.not_run == ""
    assert hop.passed, hop
    assert hop.stage == "original"
    assert any(hop.backend.startswith(f"{library} ") for library in LIBRARIES)


OUTPUTS = [
    *((name, output) for name in ("timm-folder", "timm-v2-file", "torchvision", "torchvision-v2",
                                  "hf", "hf-v2", "authors-file")
      for output in ("features", "stages", "tokens")),
    ("hf-donut", "features"), ("hf-donut", "stages"), ("hf-encoder", "stages"),
    ("hf-masked", "features"), ("hf-v2-encoder", "tokens"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "output"), OUTPUTS)
def test_every_output_equals_the_librarys_own(name: str, output: Any, tmp_path: Path) -> None:  # noqa: ANN401
    write, asked = FILES[name]
    hop = hop_of(load_model(None, write(tmp_path), output=output, **asked))
    assert hop.passed, hop


@pytest.mark.parametrize("name", ["timm-folder", "torchvision", "hf", "hf-maskformer"])
def test_copy_of_the_original_runs_by_itself(name: str, tmp_path: Path) -> None:
    """A runner moves a copy to the GPU where there is one; nothing may stay with the source."""
    write, asked = FILES[name]
    loaded = load_model(None, write(tmp_path), **asked)
    assert loaded.reading is not None
    module = build_original(loaded.config, loaded.reading, original_library(loaded, "auto"))
    images = torch.ones(1, 3, *loaded.config.image)
    with torch.no_grad():
        wanted = module(images)
        own = copy.deepcopy(module)
        for parameter in module.parameters():
            parameter.zero_()
        assert all(torch.equal(a, b) for a, b in zip(own(images), wanted, strict=True))
        assert not torch.equal(module(images)[0], wanted[0])


# Faults of the reading, which parity of the deploy model cannot see.


def swap_query_and_key(reference: Reference) -> None:
    qkv = reference.get_submodule("layers.0.blocks.1.attn.qkv")
    for value in qkv.parameters():
        query, key, rest = value.chunk(3)
        value.copy_(torch.cat([key, query, rest]))


def drop_norm(name: str) -> Callable[[Reference], None]:
    def change(reference: Reference) -> None:
        norm = reference.get_submodule(name)
        for parameter, value in (("weight", 1.0), ("bias", 0.0)):
            getattr(norm, parameter).fill_(value)

    return change


def drop_bias(reference: Reference) -> None:
    reference.get_parameter("layers.1.blocks.0.attn.qkv.bias").zero_()


def other_shift(reference: Reference) -> None:
    block: Any = reference.get_submodule("layers.0.blocks.1")
    block.shift_size = Size(0, 0)
    block.attn_mask = None


def swap_merge(reference: Reference) -> None:
    weight = reference.get_parameter("layers.0.downsample.reduction.weight")
    first, second, third, fourth = weight.chunk(4, dim=1)
    weight.copy_(torch.cat([first, third, second, fourth], dim=1))


def other_epsilon(reference: Reference) -> None:
    for module in reference.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-3


FAULTS: dict[str, tuple[str, Callable[[Reference], object]]] = {
    "swapped-query-and-key": ("hf", swap_query_and_key),
    "swapped-in-timm": ("timm-folder", swap_query_and_key),
    "swapped-in-torchvision": ("torchvision", swap_query_and_key),
    "dropped-norm": ("hf", drop_norm("layers.0.blocks.0.norm1")),
    "dropped-stage-norm": ("hf-maskformer", drop_norm("norm0")),
    "dropped-final-norm": ("timm-file", drop_norm("norm")),
    "dropped-bias": ("timm-file", drop_bias),
    "no-shift": ("timm-folder", other_shift),
    "no-shift-in-hf": ("hf", other_shift),
    "merge-row-by-row": ("authors-file", swap_merge),
    "epsilon": ("hf", other_epsilon),
}


@pytest.mark.parametrize(("name", "fault"), FAULTS.values(), ids=FAULTS.keys())
def test_wrong_reading_fails(
    name: str, fault: Callable[[Reference], object], tmp_path: Path
) -> None:
    write, asked = FILES[name]
    loaded = load_model(None, write(tmp_path), **asked)
    assert hop_of(loaded).passed
    hop = hop_of(changed(loaded, fault))
    assert hop.passed is False
    assert hop.not_run == ""
    assert "computes something else from the same file" in hop.located


def test_shift_where_one_window_covers_the_map_fails(tmp_path: Path) -> None:
    write, asked = FILES["hf-maskformer"]
    loaded = load_model(None, write(tmp_path), **asked)
    config = dataclasses.replace(loaded.config, window_rule="timm")
    reference = type(loaded.reference)(config).eval()
    reference.load_state_dict(loaded.reference.state_dict())
    hop = hop_of(dataclasses.replace(loaded, config=config, reference=reference))
    assert hop.passed is False
    assert {result.inputs for result in hop.results if not result.passed} >= {"seeded, stage4"}


def test_raw_weights_instead_of_the_average_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read as before: the usual key first, whatever else the file holds."""
    path = ema_file(tmp_path)
    monkeypatch.setattr(weights, "AVERAGED", frozenset())
    monkeypatch.setattr(weights, "ORDER", ("state_dict", "model"))
    loaded = load_model(None, path, img_size=64)
    assert loaded.weights_key == "state_dict"
    assert hop_of(loaded).passed is False


def test_other_number_of_classes_fails(tmp_path: Path) -> None:
    """Outputs of another shape are no reason to give up: they are not the same model."""
    write, asked = FILES["hf"]
    loaded = load_model(None, write(tmp_path), **asked)
    config = dataclasses.replace(loaded.config, num_classes=9)
    reference: Any = type(loaded.reference)(config).eval()
    hop = hop_of(dataclasses.replace(loaded, config=config, reference=reference))
    assert hop.passed is False
    assert "the output has shape [3, 10], the reference [3, 9]" in hop.located
    parity = ParityReport("m", "w", "PyTorch", (), None, (hop,))
    written = write_report(make_report(loaded, Made(), parity=parity, bench=None), tmp_path / "r")
    again = read_report(tmp_path / "r" / "report.json")
    assert again.parity == parity
    for path in written:
        assert "the output has shape" in " ".join(path.read_text().split())


def old_reading(patch: pytest.MonkeyPatch) -> None:
    """MaskFormer's Swin as it was read before: its norms outside, no shift in its last stage."""

    def facts(*args: Any, **named: Any) -> CheckpointHints:  # noqa: ANN401
        return dataclasses.replace(huggingface.facts(*args, **named), always_shift=False)

    dialects = tuple(
        dataclasses.replace(one, hints=facts)
        for one in huggingface.DIALECTS
        if one is not huggingface.MASKFORMER_DIALECT
    )
    for module in (sources, weights):
        patch.setattr(module, "DIALECTS", dialects)


def test_parity_catches_maskformers_old_reading(
    swin: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("parity", "--checkpoint", maskformer(tmp_path / "mf"), "--batches", "1", "--report")
    good = swin(*command, "good", "--original", "huggingface").assert_done()
    assert "original (transformers)" in good.out
    old_reading(monkeypatch)
    wrong = swin(*command, "wrong", "--original", "huggingface")
    assert wrong.status == 1
    assert wrong.out.startswith("Parity: Not equal: original (transformers)")
    swin(*command, "unseen", "--original", "none").assert_done()
    for folder, passed in (("good", True), ("wrong", False)):
        read_report(Path(folder, "report.json"))
        report = json.loads(Path(folder, "report.json").read_text())
        first, deploy, *_ = report["parity"]["hops"]
        assert (first["stage"], first["passed"]) == ("original", passed)
        assert (deploy["stage"], deploy["passed"]) == ("deploy", True)


def test_run_compares_with_the_original_by_default(swin: Command, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX builds engines without a GPU")
    path = ema_file(tmp_path)
    small = ("--batch", 1, "--bench-seconds", 1, "--fp32", "--image-size", 64)
    swin("run", "--checkpoint", path, *small).assert_done()
    hops = json.loads(Path("report/report.json").read_text())["parity"]["hops"]
    assert [hop["stage"] for hop in hops] == ["original", "deploy", "onnx", "engine"]
    assert hops[0]["passed"]
    assert hops[0]["file"] == "model_best.pth.tar"
