"""A Swin inside somebody's model is replaced, and the model gives the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import composites
import detector_libraries
import peers
import pytest
import swaps
import torch
from conftest import REJECTED
from torch import Tensor, nn

import swin_deploy
from exporters.spec import Runtime
from swin_deploy.config.sizes import Size
from swin_deploy.deploy.fold import fold
from swin_deploy.deploy.model import DeployModel
from swin_deploy.parity.tolerances import tolerance_for
from swin_deploy.swap import replace
from swin_deploy.swap.prove import compare_outputs
from swin_deploy.swap.structures import named_tensors

Build = Callable[[], nn.Module]
LIMIT = 5e-4  # Swin V2 of 100 as a temperature; others need 1e-4


def images(*size: int, batch: int = 2) -> Tensor:
    rows, columns = size * 2 if len(size) == 1 else size
    generator = torch.Generator().manual_seed(7)
    return torch.randn(batch, 3, rows, columns, generator=generator)


def assert_same(swap: swin_deploy.Swap, original: nn.Module, *inputs: Any) -> None:  # noqa: ANN401
    """Compare by a rule of the test's own, on inputs that the proof has not seen."""
    with torch.no_grad():
        ours, theirs = named_tensors(swap.model(*inputs)), named_tensors(original(*inputs))
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        scale = value.double().square().mean().sqrt() if value.is_floating_point() else 1.0
        assert ours[name].shape == value.shape
        worst = (ours[name].double() - value.double()).abs().max() / scale
        assert worst < LIMIT, name


def holds_deploy_model(model: nn.Module) -> bool:
    return any(isinstance(one, DeployModel) for one in model.modules())


def alone(name: str) -> nn.Module:
    """One of transformers' Swins by itself, as a user builds it."""
    library = peers.import_peer("transformers")
    kind = getattr(library, name)
    fields = {**peers.FOUR_STAGES, "window_size": 2, "image_size": 64}
    return peers.trained_like(kind(kind.config_class(**fields, out_features=peers.STAGES)))


OF_TRANSFORMERS = (
    *("upernet", "upernet-v2", "mask2former", "maskformer", "dpt-v2", "backbone", "backbone-v2"),
    *("donut-encoder", "classifier"),
)
WHOLE: dict[str, tuple[Build, int | tuple[int, int]]] = {
    name: (composites.COMPOSITES[name].build, 64) for name in OF_TRANSFORMERS
}
WHOLE |= {
    "swinv2-model": (lambda: alone("Swinv2Model"), 64),
    "maskformer-swin-model": (lambda: alone("MaskFormerSwinModel"), 64),
    "maskformer-swin-backbone": (lambda: alone("MaskFormerSwinBackbone"), 64),
    "upernet-padded": (composites.COMPOSITES["upernet"].build, (72, 104)),
    "timm": (lambda: swaps.timm_classifier("swin"), 64),
    "timm-v2": (lambda: swaps.timm_classifier("swinv2"), 64),
    "timm-features": (swaps.timm_segmenter, 64),
    "timm-features-padded": (lambda: swaps.timm_segmenter(image=(72, 96)), (72, 96)),
    "timm-features-dynamic": (
        lambda: swaps.timm_segmenter(dynamic_img_size=True),
        (80, 104),
    ),
    "timm-features-v2": (lambda: swaps.timm_segmenter("swinv2_tiny_window8_256"), 64),
    "torchvision": (lambda: swaps.torchvision_classifier("swin"), 64),
    "torchvision-v2": (lambda: swaps.torchvision_classifier("swinv2"), 64),
    "torchvision-padded": (lambda: swaps.torchvision_classifier("swin"), (72, 101)),
    "mmdet": (lambda: swaps.detector("mmdet"), (72, 100)),
    "mmseg": (lambda: swaps.detector("mmseg"), 64),
    "birefnet": (lambda: swaps.detector("transparent_background"), (50, 70)),
    "mmpretrain": (detector_libraries.build_mmpretrain, 64),
    "mmpretrain-maps": (lambda: detector_libraries.build_mmpretrain(out_indices=(0, 1, 2)), 64),
    "mmpretrain-v2-maps": (
        lambda: detector_libraries.build_mmpretrain_v2(out_indices=(1, 2)),
        64,
    ),
    "mmpretrain-v2": (detector_libraries.build_mmpretrain_v2, 64),
}


@pytest.mark.parametrize(("build", "size"), WHOLE.values(), ids=WHOLE.keys())
def test_replace_backbone_gives_what_the_model_gives(
    build: Build, size: int | tuple[int, int]
) -> None:
    model = build()
    before = copy.deepcopy(model.state_dict())
    swap = swin_deploy.replace_backbone(model, size)
    assert swap.passed
    assert swap.sizes == (Size.of(size),)
    assert holds_deploy_model(swap.model)
    assert not holds_deploy_model(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert_same(swap, model, images(*(size if isinstance(size, tuple) else (size,))))


def test_replace_backbone_leaves_torch_compile_off_and_says_so() -> None:
    model = swaps.timm_segmenter()
    parts: Any = copy.deepcopy(model)
    parts.backbone = torch.compile(parts.backbone)
    whole: Any = torch.compile(parts)
    swap = swin_deploy.replace_backbone(whole, 64)
    assert swap.passed
    assert holds_deploy_model(swap.model)
    assert "torch.compile is left off" in swap.notes[0]
    assert_same(swap, model, images(64))
    assert not any("compile" in note for note in swin_deploy.replace_backbone(model, 64).notes)


def test_replace_backbone_keeps_what_others_read() -> None:
    model: Any = composites.COMPOSITES["backbone"].build()
    new: Any = swin_deploy.replace_backbone(model, 64).model
    for name in ("channels", "out_features", "out_indices", "stage_names", "num_features"):
        assert getattr(new, name) == getattr(model, name)
    assert new.config is model.config
    assert (new.dtype, new.device) == (model.dtype, model.device)
    extractor: Any = swaps.timm_segmenter().backbone
    found: Any = swin_deploy.replace_backbone(extractor, 64).model
    assert found.feature_info.channels() == extractor.feature_info.channels()
    assert not found.train().training


def test_replace_backbone_gives_tuples_where_they_are_asked_for() -> None:
    model: Any = composites.COMPOSITES["classifier"].build().swin
    new: Any = swin_deploy.replace_backbone(model, 64).model
    batch = images(64)
    ours, theirs = new(batch, return_dict=False), model(batch, return_dict=False)
    assert isinstance(ours, tuple)
    assert [one.shape for one in ours] == [one.shape for one in theirs]
    with pytest.raises(swin_deploy.ConfigError, match="no output_hidden_states"):
        new(batch, output_hidden_states=True)


def test_replace_backbone_serves_the_methods_of_timm() -> None:
    model: Any = peers.build_timm("swin")
    new: Any = swin_deploy.replace_backbone(model, 64).model
    batch = images(64)
    features = model.forward_features(batch)
    assert torch.allclose(new.forward_features(batch), features, atol=1e-4)
    pooled = model.forward_head(features, pre_logits=True)
    assert torch.allclose(new.forward_head(features, pre_logits=True), pooled)


@pytest.mark.parametrize("name", ["donut", "swin-reader", "grounding-dino"])
def test_replace_backbone_takes_inputs_of_any_form(name: str) -> None:
    model = composites.COMPOSITES[name].build()
    words = "input_ids" if "dino" in name else "decoder_input_ids"
    inputs = {"pixel_values": images(128, batch=1), words: torch.tensor([[1, 5, 7, 2]])}
    with pytest.raises(swin_deploy.ConfigError, match="in Python with inputs="):
        swin_deploy.replace_backbone(model, 128)
    swap = swin_deploy.replace_backbone(model, inputs=inputs)
    assert swap.passed
    assert swap.sizes == (Size(128, 128),)
    assert any(one.of == type(model).__name__ for one in swap.errors)


def test_replace_backbone_takes_images_with_masks() -> None:
    model = swaps.Grounded().eval()
    mask = torch.zeros(2, 72, 100, dtype=torch.bool)
    mask[:, 50:] = True
    swap = swin_deploy.replace_backbone(model, inputs=(images(72, 100), mask))
    assert swap.sizes == (Size(72, 100),)
    assert_same(swap, model, images(72, 100), mask.flip(1))


def test_replace_backbone_shares_weights_among_sizes() -> None:
    model = swaps.TwoScales().eval()
    with pytest.raises(
        swin_deploy.ConfigError, match=r"128x128, 64x64, not only of 128x128; name every"
    ):
        swin_deploy.replace_backbone(model, 128)
    one = swin_deploy.replace_backbone(detector_libraries.build_transparent_background(), 128)
    swap = swin_deploy.replace_backbone(model, [128, 64])
    assert swap.sizes == (Size(128, 128), Size(64, 64))
    assert_same(swap, model, images(128))
    assert parameters(swap.model) < 1.2 * parameters(one.model)
    assert swin_deploy.replace_backbone(model, inputs=images(128)).sizes == swap.sizes


def parameters(model: nn.Module) -> int:
    return sum(one.numel() for one in model.parameters())


def test_replace_backbone_refuses_another_size_at_the_call() -> None:
    new = swin_deploy.replace_backbone(swaps.detector("mmdet"), (72, 100)).model
    with pytest.raises(swin_deploy.ConfigError, match="replaced for images of 72x100, not 64x64"):
        new(images(64))


def test_replace_backbone_chooses_among_several() -> None:
    model = swaps.Two().eval()
    with pytest.raises(swin_deploy.CheckpointError, match="say which with where='first' or"):
        swin_deploy.replace_backbone(model, 64)
    swap = swin_deploy.replace_backbone(model, 64, where="second")
    assert swap.where == "second"
    assert holds_deploy_model(swap.model.get_submodule("second"))
    assert swap.model.get_submodule("first") is model.first
    with pytest.raises(swin_deploy.CheckpointError, match="no Swin at third: it has"):
        swin_deploy.replace_backbone(model, 64, where="third")


class Unused(nn.Module):
    """A model that holds its Swin in a list, which is not one of its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.swin = peers.build_timm("swin")
        self.hidden = [self.swin]

    def forward(self, batch: Tensor) -> Tensor:
        answer: Tensor = self.hidden[0](batch)
        return answer


class Random(swaps.Segmenter):
    """A segmenter whose functional dropout stays on."""

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        return {"masks": torch.dropout(super().forward(batch)["masks"], 0.5, train=True)}


class Endless(swaps.Segmenter):
    """A segmenter that divides by zero."""

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        return {"masks": super().forward(batch)["masks"] / 0 * 0}


class Wordless(swaps.Segmenter):
    """A segmenter that gives words only."""

    def forward(self, batch: Tensor) -> Any:  # noqa: ANN401 - no tensors
        super().forward(batch)
        return ["cat", None]


def _as_class(kind: type[nn.Module]) -> nn.Module:
    model = swaps.timm_segmenter()
    model.__class__ = kind
    return model


class Packed(nn.Linear):
    """A layer with an entry in its state that is no tensor, as quantized ones have."""

    def get_extra_state(self) -> str:
        return "packed"


def _quantized() -> nn.Module:
    model = swaps.timm_segmenter()
    next(one for one in model.modules() if isinstance(one, nn.Linear)).__class__ = Packed
    return model


REFUSED: dict[str, tuple[Build, object, str]] = {
    "none": (lambda: nn.Linear(2, 2).eval(), 64, "has no Swin of a known class"),
    "training": (lambda: peers.build_timm("swin").train(), 64, "is in training mode"),
    "half": (lambda: peers.build_timm("swin").half(), 64, "call float"),
    "size": (lambda: peers.build_timm("swin"), 96, "does not run on these inputs"),
    "no size": (lambda: peers.build_timm("swin"), None, "give image_size, or inputs"),
    "zero": (lambda: peers.build_timm("swin"), 0, "image_size 0: a side in pixels"),
    "text": (lambda: peers.build_timm("swin"), "64", "image_size '64'"),
    "three": (lambda: peers.build_timm("swin"), (3, 64, 64), r"image_size \(3, 64, 64\)"),
    "empty": (lambda: peers.build_timm("swin"), [], "image_size None"),
    "meta": (lambda: peers.build_timm("swin").to("meta"), 64, "no plain numbers in patch_embed"),
    "quantized": (_quantized, 64, "no plain numbers in .*it is quantized"),
    "random": (lambda: _as_class(Random), 64, "gives 'masks' off by .* RMS in a second run"),
    "not finite": (lambda: _as_class(Endless), 64, "gives 'masks' off by inf RMS"),
    "no tensors": (lambda: _as_class(Wordless), 64, "gives no tensors"),
    "hidden": (lambda: Unused().eval(), 64, "did not use the replacement"),
}


def test_named_tensors_keeps_those_whose_names_are_the_same() -> None:
    one, other = torch.zeros(1), torch.ones(1)
    found = named_tensors({"a": {"b": one}, "a_b": other})
    assert list(found) == ["a_b", "a_b_"]
    assert found["a_b_"] is other


def test_compare_outputs_holds_complex_numbers_to_the_limit_of_real_ones() -> None:
    value = torch.complex(torch.ones(4), torch.arange(4.0))
    limit = tolerance_for("original", "fp32", family="swin")
    (equal,) = compare_outputs(value * (1 + 1e-6), value, limit, of="x")
    (other,) = compare_outputs(value.conj().resolve_conj(), value, limit, of="x")
    assert equal.passed
    assert not other.passed


@pytest.mark.parametrize(("build", "size", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_replace_backbone_refuses_in_one_line(build: Build, size: Any, message: str) -> None:  # noqa: ANN401
    with pytest.raises(swin_deploy.DeployError, match=message) as raised:
        swin_deploy.replace_backbone(build(), size)
    assert "\n" not in str(raised.value)


def test_replace_backbone_refuses_what_is_not_a_module() -> None:
    with pytest.raises(swin_deploy.ConfigError, match="is not a module"):
        swin_deploy.replace_backbone("swin.pt", 64)  # type: ignore[arg-type]


def test_replace_backbone_names_a_swin_in_an_unknown_class() -> None:
    holder = nn.Module()
    holder.features = peers.build_torchvision("swin").features
    with pytest.raises(swin_deploy.CheckpointError, match="weights of one at the top, in a class"):
        swin_deploy.replace_backbone(holder.eval(), 64)


@pytest.mark.parametrize("part", ["attention.qkv.weight", "mlp.0.weight", "linear.weight"])
def test_replace_backbone_raises_where_one_weight_differs(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:

    def wrong(reference: Any, runtime: Runtime) -> nn.Module:  # noqa: ANN401 - a reference
        model = fold(reference, runtime)
        value = next(one for name, one in model.named_parameters() if name.endswith(part))
        with torch.no_grad():
            value[0] += 100 * REJECTED
        return model

    monkeypatch.setattr(replace, "fold", wrong)
    with pytest.raises(swin_deploy.ComparisonError, match=r"is not equal: .* RMS, 0.0001 allowed"):
        swin_deploy.replace_backbone(swaps.timm_segmenter(), 64)


def test_replace_backbone_raises_where_the_library_differs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = swaps.timm_segmenter(always_partition=True)
    assert swin_deploy.replace_backbone(model, 64).passed
    for block in model.backbone.layers_2.blocks:  # type: ignore[union-attr]
        monkeypatch.setattr(block, "shift_size", (1, 1))
    with pytest.raises(swin_deploy.ComparisonError, match="is not equal"):
        swin_deploy.replace_backbone(model, 64)
