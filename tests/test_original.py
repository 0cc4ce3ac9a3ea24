"""The reference against the library's own model, loaded by the library from the user's file."""

import copy
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
import pytest
import torch
from command_line import Command
from test_sources_backbones import build_maskformer
from torch import Tensor, nn

from exporters.errors import ComparisonError
from swin_deploy.check import reference_outputs
from swin_deploy.checkpoints import huggingface, known, sources, weights
from swin_deploy.inputs import seeded_images
from swin_deploy.load import LoadedModel, load_model
from swin_deploy.original.build import build_original, original_library
from swin_deploy.parity import Hop, ParityReport
from swin_deploy.proof import Made, judge_original, make_report
from swin_deploy.reference import Reference
from swin_deploy.report import write_report
from swin_deploy.report.from_json import read_report
from swin_deploy.report.schema import first_problem

Asked = dict[str, Any]
LIBRARIES = ("timm", "torchvision", "transformers")
TINY: Asked = {"embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2)}
V2 = {"window_size": 4, "img_size": 64}


def hop_of(loaded: LoadedModel) -> Hop:
    """The hop of the original, on noise."""
    images = (seeded_images(loaded.config, count=3),)
    outputs = reference_outputs(loaded, images, precisions=("fp32",))
    library = original_library(loaded, "auto")
    (hop,) = judge_original(loaded, outputs, library, progress=lambda message: None)
    return hop


def changed(loaded: LoadedModel, change: Callable[[Reference], object]) -> LoadedModel:
    """The same with a reference that is not what the file holds."""
    with torch.no_grad():
        change(loaded.reference)
    return loaded


# Files and folders of every source, each as ``write(folder) -> path``.


def timm_file(family: str, suffix: str = ".pth") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        return peers.saved(peers.build_timm(family, **TINY).state_dict(), folder / f"w{suffix}")

    return write


def timm_folder(family: str, **arguments: Any) -> Callable[[Path], Path]:  # noqa: ANN401
    def write(folder: Path) -> Path:
        timm = peers.import_peer("timm")
        name = {"swin": "swin_tiny_patch4_window7_224", "swinv2": "swinv2_tiny_window8_256"}[family]
        fields = {"img_size": 64, "window_size": 4, "num_classes": 10, **TINY, **arguments}
        model = peers.trained_like(timm.create_model(name, **fields))
        timm.models.save_for_hf(model, str(folder), model_args=fields, safe_serialization=True)
        return folder

    return write


def timm_wrapper(folder: Path) -> Path:
    """A folder as transformers' TimmWrapper saves it."""
    timm_folder("swin")(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "model.safetensors").unlink()
    model = peers.build_timm("swin", **TINY)
    state = {f"timm_model.{name}": value for name, value in model.state_dict().items()}
    peers.saved(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "timm_wrapper"}))
    return folder


def authors_file(family: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        model = peers.build_timm(family, **TINY)
        torch.save({"model": peers.microsoft_state(model)}, folder / "swin.pth")
        return folder / "swin.pth"

    return write


def torchvision_file(family: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        model = peers.build_torchvision(family, **TINY)
        return peers.saved(model.state_dict(), folder / "tv.pth")

    return write


def hf_folder(family: str, kind: str, **sizes: Any) -> Callable[[Path], Path]:  # noqa: ANN401
    def write(folder: Path) -> Path:
        peers.build_huggingface(family, kind, **TINY, **sizes).save_pretrained(folder)
        return folder

    return write


def maskformer(folder: Path) -> Path:
    build_maskformer().save_pretrained(folder)
    return folder


def mask2former(folder: Path) -> Path:
    library = peers.import_peer("transformers")
    backbone = library.SwinConfig(
        embed_dim=16, depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8], window_size=2, image_size=64,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = library.Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32,
        encoder_feedforward_dim=16, encoder_layers=1, decoder_layers=1, num_attention_heads=2,
        dim_feedforward=16, num_queries=4,
    )  # fmt: skip
    peers.trained_like(library.Mask2FormerForUniversalSegmentation(config)).save_pretrained(folder)
    return folder


def donut(folder: Path) -> Path:
    library = peers.import_peer("transformers")
    encoder = peers.build_huggingface("donut", "Model", **TINY)
    words = library.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        vocab_size=20, is_decoder=True, add_cross_attention=True,
    )  # fmt: skip
    decoder = library.BertLMHeadModel(words)
    library.VisionEncoderDecoderModel(encoder=encoder, decoder=decoder).save_pretrained(folder)
    return folder


def ema_file(folder: Path) -> Path:
    raw = peers.build_timm("swin", **TINY)
    ema = peers.trained_like(peers.build_timm("swin", **TINY), seed=1)
    values = {"state_dict": raw.state_dict(), "state_dict_ema": ema.state_dict(), "epoch": 3}
    torch.save(values, folder / "model_best.pth.tar")
    return folder / "model_best.pth.tar"


def own_ema_file(folder: Path) -> Path:
    """Keys that timm does not know, a counter, and a prefix."""
    raw = peers.build_timm("swin", **TINY)
    ema = peers.trained_like(peers.build_timm("swin", **TINY), seed=1)
    states = [
        {f"module.net.{name}": value for name, value in model.state_dict().items()}
        for model in (raw, ema)
    ]
    torch.save(
        {"net": states[0], "ema": {"n_averaged": torch.tensor(3), **states[1]}}, folder / "a.pt"
    )
    return folder / "a.pt"


def compiled_file(start: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        model = peers.build_timm("swin", **TINY)
        state = {f"{start}{name}": value for name, value in model.state_dict().items()}
        return peers.saved(state, folder / "compiled.pth")

    return write


def references_file(folder: Path) -> Path:
    """timm's weights in the layout of torchvision's train.py."""
    model = peers.build_timm("swin", **TINY)
    average = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"model_ema": {"n_averaged": torch.tensor(3), **average}}, folder / "b.pth")
    return folder / "b.pth"


def torchvision_ema_file(folder: Path) -> Path:
    model = peers.build_torchvision("swin", **TINY)
    ema = peers.trained_like(peers.build_torchvision("swin", **TINY), seed=1)
    state = {f"module.{name}": value for name, value in ema.state_dict().items()}
    average = {"n_averaged": torch.tensor(2), **state}
    torch.save({"model": model.state_dict(), "model_ema": average}, folder / "checkpoint.pth")
    return folder / "checkpoint.pth"


SIZE = {"img_size": 64}
CLASSIFIER = "ForImageClassification"
FILES: dict[str, tuple[Callable[[Path], Path], Asked]] = {
    "timm-file": (timm_file("swin"), SIZE),
    "timm-safetensors": (timm_file("swin", ".safetensors"), SIZE),
    "timm-v2-file": (timm_file("swinv2"), V2),
    "timm-folder": (timm_folder("swin"), {}),
    "timm-v2-folder": (timm_folder("swinv2"), {}),
    "timm-folder-larger": (timm_folder("swin"), {"img_size": 128}),
    "timm-folder-window": (timm_folder("swin"), {"img_size": 128, "window_size": 8}),
    "timm-v2-folder-window": (timm_folder("swinv2"), {"img_size": 128, "window_size": 8}),
    "timm-always-partition": (timm_folder("swin", always_partition=True, img_size=32), {}),
    "timm-windows": (timm_folder("swin", window_size=((4, 4), (8, 8)), img_size=128), {}),
    "timm-ratio": (timm_folder("swin", mlp_ratio=2.6), {}),
    "timm-no-bias": (timm_folder("swin", qkv_bias=False), {}),
    "timm-wrapper": (timm_wrapper, {}),
    "timm-ema": (ema_file, SIZE),
    "timm-ema-raw": (ema_file, {**SIZE, "weights": "raw"}),
    "timm-ema-key": (ema_file, {**SIZE, "weights": "state_dict"}),
    "timm-own-ema": (own_ema_file, SIZE),
    "timm-compiled": (compiled_file("_orig_mod."), SIZE),
    "timm-compiled-parallel": (compiled_file("module._orig_mod."), SIZE),
    "timm-inside": (compiled_file("model.backbone."), SIZE),
    "timm-references": (references_file, SIZE),
    "authors-file": (authors_file("swin"), {}),
    "authors-v2-file": (authors_file("swinv2"), {}),
    "torchvision": (torchvision_file("swin"), SIZE),
    "torchvision-v2": (torchvision_file("swinv2"), SIZE),
    "torchvision-ema": (torchvision_ema_file, SIZE),
    "hf": (hf_folder("swin", "ForImageClassification"), {}),
    "hf-v2": (hf_folder("swinv2", "ForImageClassification"), {}),
    "hf-larger": (hf_folder("swin", "ForImageClassification"), {"img_size": 128}),
    "hf-v2-larger": (hf_folder("swinv2", CLASSIFIER, window_size=16), {"img_size": 128}),
    "hf-encoder": (hf_folder("swin", "Model"), {}),
    "hf-v2-encoder": (hf_folder("swinv2", "Model"), {}),
    "hf-masked": (hf_folder("swin", "ForMaskedImageModeling", encoder_stride=8), {}),
    "hf-backbone": (hf_folder("swin", "Backbone", out_features=["stage1", "stage2"]), {}),
    "hf-v2-backbone": (hf_folder("swinv2", "Backbone", out_features=["stage1"]), {}),
    "hf-donut": (donut, {}),
    "hf-maskformer": (maskformer, {}),
    "hf-maskformer-larger": (maskformer, {"img_size": 128}),
    "hf-mask2former": (mask2former, {}),
}  # fmt: skip


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
    images = torch.ones(1, 3, loaded.config.img_size, loaded.config.img_size)
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
    block.shift_size = 0
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
    config = dataclasses.replace(loaded.config, always_shift=False)
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
    parity = ParityReport("m", "w", "PyTorch", {}, None, (hop,))
    written = write_report(make_report(loaded, Made(), parity=parity, bench=None), tmp_path / "r")
    again = read_report(tmp_path / "r" / "report.json")
    assert again.parity == parity
    for path in written:
        assert "the output has shape" in " ".join(path.read_text().split())


def old_reading(patch: pytest.MonkeyPatch) -> None:
    """MaskFormer's Swin as it was read before: its norms outside, no shift in its last stage."""
    dialects = tuple(one for one in known.DIALECTS if one is not huggingface.MASKFORMER_DIALECT)
    for module in (sources, weights):
        patch.setattr(module, "DIALECTS", dialects)
    facts = huggingface.facts
    patch.setattr(
        huggingface,
        "facts",
        lambda *a, **k: dataclasses.replace(facts(*a, **k), always_shift=False),
    )


def test_parity_catches_maskformers_old_reading(
    swin: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("parity", "--checkpoint", maskformer(tmp_path / "mf"), "--batches", "1", "--report")
    good = swin(*command, "good", "--original", "huggingface").assert_done()
    assert "original (transformers)" in good.out
    old_reading(monkeypatch)
    wrong = swin(*command, "wrong", "--original", "huggingface")
    assert wrong.status == 1
    assert "original (transformers) failed on" in " ".join(wrong.out.split())
    swin(*command, "unseen", "--original", "none").assert_done()
    for folder, passed in (("good", True), ("wrong", False)):
        report = json.loads(Path(folder, "report.json").read_text())
        assert first_problem(report) == ""
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


# Not run: always one line, never a verdict.


@pytest.mark.parametrize("name", ["timm-folder", "torchvision", "hf"])
def test_library_that_is_not_installed_is_not_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, asked = FILES[name]
    loaded = load_model(None, write(tmp_path), **asked)
    library = original_library(loaded, "auto")
    for module in [one for one in sys.modules if one.split(".")[0] == library]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, library, None)
    hop = hop_of(loaded)
    assert hop.passed is None
    assert f"pip install {library}" in hop.not_run


class SurpriseError(Exception):
    """What no library is known to raise."""


@pytest.mark.parametrize(
    "raised", [SurpriseError("boo\nhoo"), KeyError("x"), AssertionError()], ids=repr
)
def test_library_whose_import_raises_anything_is_not_run(
    raised: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, asked = FILES["torchvision"]
    loaded = load_model(None, write(tmp_path), **asked)
    folder = tmp_path / "torchvision"
    folder.mkdir()
    (folder / "__init__.py").write_text("import test_original as t\nraise t.RAISED")
    monkeypatch.setattr(sys.modules[__name__], "RAISED", raised, raising=False)
    for module in [one for one in sys.modules if one.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(tmp_path)
    hop = hop_of(loaded)
    assert hop.passed is None
    assert hop.not_run.startswith("torchvision does not load (")
    assert "\n" not in hop.not_run


def break_config(**change: Any) -> Callable[[Path], object]:  # noqa: ANN401
    def apply(path: Path) -> None:
        config = path / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | change))

    return apply


def shard(path: Path) -> None:
    """timm does not know indices of parts."""
    state = torch.load(path, weights_only=True)
    index = {"weight_map": dict.fromkeys(state, "part.safetensors")}
    peers.saved(state, path.parent / "part.safetensors")
    (path.parent / "model.safetensors.index.json").write_text(json.dumps(index))
    path.unlink()


NOT_RUN: dict[str, tuple[str, Callable[[Path], object], Asked, str]] = {
    "hf-no-class": ("hf", break_config(architectures=["SwinForAll"]), {}, "no model SwinForAll"),
    "hf-no-architectures": ("hf", break_config(architectures=None), {}, "no model for it"),
    "hf-window": ("hf", lambda path: None, {"window_size": 8}, "no way to other windows"),
    "torchvision-window": (
        "torchvision", lambda path: None, {"window_size": 8}, "no way to other windows",
    ),
    "authors-window": (
        "authors-file", lambda path: None, {"window_size": 8}, "resizes the tables of biases",
    ),
    "hf-backbone-tokens": (
        "hf-backbone", lambda path: None, {"output": "tokens"}, "gives stage maps, not tokens",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "spoil", "asked", "says"), NOT_RUN.values(), ids=NOT_RUN.keys())
def test_form_that_the_library_has_not_is_not_run(
    name: str, spoil: Callable[[Path], object], asked: Asked, says: str, tmp_path: Path
) -> None:
    write, usual = FILES[name]
    path = write(tmp_path)
    spoil(path)
    hop = hop_of(load_model(None, path, **{**usual, **asked}))
    assert hop.passed is None
    assert says in hop.not_run


def test_sharded_weights_of_timm_are_not_run(tmp_path: Path) -> None:
    shard(timm_file("swin")(tmp_path))
    hop = hop_of(load_model(None, tmp_path, img_size=64))
    assert "timm reads no weights that are split" in hop.not_run


def test_huggingface_file_alone_is_not_run(tmp_path: Path) -> None:
    model = peers.build_huggingface("swin", **TINY)
    path = peers.saved(model.state_dict(), tmp_path / "own.pth")
    hop = hop_of(load_model(None, path, img_size=64))
    assert "from a folder with a config.json, and own.pth is a file alone" in hop.not_run


def test_encoder_that_transformers_would_start_anew_is_not_run(tmp_path: Path) -> None:
    """A classifier's folder whose config says backbone: its norms would be random."""
    hf_folder("swin", "ForImageClassification")(tmp_path)
    break_config(architectures=["SwinBackbone"], out_features=["stage1"], out_indices=[1])(tmp_path)
    hop = hop_of(load_model(None, tmp_path, output="stages"))
    assert "transformers misses hidden_states_norms.stage1" in hop.not_run


def test_timm_folder_that_timm_cannot_load_is_not_run_with_its_first_reason(tmp_path: Path) -> None:
    timm_folder("swin")(tmp_path)
    state: dict[str, Tensor] = peers.build_timm("swin", **TINY).state_dict()
    (tmp_path / "model.safetensors").unlink()
    peers.saved({"mask_token": torch.ones(1), **state}, tmp_path / "model.safetensors")
    hop = hop_of(load_model(None, tmp_path))
    assert hop.not_run.startswith("timm cannot build or run the model (RuntimeError: Error(s) in")
    assert "mask_token" in hop.not_run


def test_random_weights_and_the_notebook_have_no_original(swin: Command) -> None:
    for name in ("swin_tiny_patch4_window7_224", "notebook-digits"):
        loaded = load_model(name)
        assert original_library(loaded, "auto") == ""
        with pytest.raises(ComparisonError, match="--original timm cannot read"):
            original_library(loaded, "timm")
    swin("parity", "--model", "notebook-digits", "--original", "timm").assert_error(
        "notebook-digits has a checkpoint of notebook, which --original timm cannot read"
    )


def test_another_library_is_refused_before_the_work(swin: Command, tmp_path: Path) -> None:
    path = timm_file("swin")(tmp_path)
    for command in ("parity", "run"):
        outcome = swin(command, "--checkpoint", path, "--original", "huggingface")
        outcome.assert_error("a checkpoint of timm, which --original huggingface cannot read")
    assert not Path("engines").exists()
    assert swin("parity", "--checkpoint", path, "--original", "keras").status == 2
