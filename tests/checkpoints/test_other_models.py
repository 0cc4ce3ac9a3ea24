"""Files of other models, adapters and changed weights are told by name, and good ones are not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
import pytest
import torch
from command_line import Command
from torch import Tensor, nn
from torch.nn.utils import parametrizations

State = dict[str, Tensor]
SMALL: dict[str, Any] = {
    "img_size": 32, "window_size": 4, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2)
}  # fmt: skip
ONE = torch.ones(2, 2)
QKV = "layers.0.blocks.0.attn.qkv"


def swin_state() -> State:
    return peers.build_timm("swin", **SMALL).state_dict()


def of_timm(name: str, **sizes: Any) -> Callable[[], State]:  # noqa: ANN401 - arguments of any model
    def build() -> State:
        state: State = peers.import_peer("timm").create_model(name, **sizes).state_dict()
        return state

    return build


def of_torchvision(name: str) -> Callable[[], State]:
    def build() -> State:
        with torch.device("meta"):
            names = getattr(peers.import_peer("torchvision.models"), name)().state_dict()
        return {name: torch.ones(1) for name in names}

    return build


def with_names(*names: str) -> Callable[[], State]:
    """A state dict of these names alone."""
    return lambda: dict.fromkeys(names, ONE)


def swin_with(*names: str) -> Callable[[], State]:
    """A Swin's state dict with further names."""
    return lambda: swin_state() | dict.fromkeys(names, ONE)


def renamed(old: str, new: str) -> Callable[[], State]:
    return lambda: {name.replace(old, new): one for name, one in swin_state().items()}


def parametrized(kind: Callable[[nn.Module], nn.Module]) -> Callable[[], State]:
    def build() -> State:
        model = peers.build_timm("swin", **SMALL)
        for module in [one for one in model.modules() if isinstance(one, nn.Linear)]:
            kind(module)
        return model.state_dict()

    return build


def extractor_with_a_normed_last_stage() -> State:
    model = peers.import_peer("timm").create_model(
        "swin_tiny_patch4_window7_224", features_only=True, img_size=56, embed_dim=8,
        depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8),
    )  # fmt: skip
    parametrizations.weight_norm(model.get_submodule("layers_3.blocks.0.mlp.fc1"))
    state: State = model.state_dict()
    return state


def video() -> State:
    state = swin_state()
    weight = state["patch_embed.proj.weight"]
    return state | {"patch_embed.proj.weight": weight[:, :, None].repeat(1, 1, 2, 1, 1)}


def divided() -> State:
    return {name: torch.empty(0) for name in swin_state()}


TOLD: dict[str, tuple[Callable[[], object], str]] = {
    "swinv2-cr": (
        of_timm("swinv2_cr_tiny_224", embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8)),
        "SwinV2-CR",
    ),
    "vit": (of_timm("vit_tiny_patch16_224", depth=1), "a ViT, DeiT or BEiT"),
    "vit-no-class-token": (
        of_timm("vit_tiny_patch16_224", depth=1, class_token=False, global_pool="avg"), "a ViT"
    ),
    "convnext": (of_timm("convnext_atto", depths=(1, 1, 1, 1)), "ConvNeXt"),
    "resnet": (of_timm("resnet18"), "a ResNet"),
    "efficientnet": (of_timm("mobilenetv3_small_050"), "an EfficientNet or MobileNet"),
    "focalnet": (of_timm("focalnet_tiny_srf"), "FocalNet"),
    "gcvit": (of_timm("gcvit_xxtiny"), "GCViT"),
    "maxvit": (of_timm("maxvit_rmlp_pico_rw_256"), "MaxViT"),
    "vit-torchvision": (of_torchvision("vit_b_16"), "a ViT of torchvision"),
    "convnext-torchvision": (of_torchvision("convnext_tiny"), "ConvNeXt of torchvision"),
    "resnet-torchvision": (of_torchvision("resnet18"), "a ResNet"),
    "swinir": (renamed("layers.0.", "layers.0.residual_group."), "a Swin for restoration"),
    "monai": (with_names("swinViT.layers1.0.blocks.0.attn.qkv.weight"), "a Swin of MONAI"),
    "swin-mlp": (with_names("layers.0.blocks.0.spatial_mlp.weight"), "Swin-MLP"),
    "cswin": (with_names("stage1.0.attns.0.get_v.weight"), "CSWin"),
    "vit-transformers": (
        with_names("vit.encoder.layer.0.attention.attention.query.weight",
                   "vit.embeddings.cls_token"),
        "a ViT, DeiT, BEiT or DINO of transformers",
    ),
    "video": (video, "a Swin for video or volumes: its patches have 3 dimensions"),
    "stem": (renamed("patch_embed.proj.", "patch_embed.proj.0."), "a stack of convolutions"),
    "stem-by-name": (renamed("patch_embed.proj.", "patch_embed.conv1."), "a stack of convolutions"),
    "adapter": (
        with_names(f"base_model.model.{QKV}.lora_A.weight", f"base_model.model.{QKV}.lora_B.weight",
                   "base_model.model.head.fc.weight"),
        "an adapter (LoRA), without the model that it adapts",
    ),
    "adapter-transformers": (
        with_names("base_model.model.swin.encoder.layers.0.blocks.0.attention.self.query.lora_A"
                   ".default.weight"),
        "PeftModel.from_pretrained(model, FOLDER).merge_and_unload()",
    ),
    "adapter-of-another": (
        with_names("base_model.model.layers.0.self_attn.q_proj.lora_A.weight"), "an adapter (LoRA)"
    ),
    "loralib": (swin_with(f"{QKV}.lora_A", f"{QKV}.lora_B"), "LoRA layers that are not merged"),
    "peft-unmerged": (
        lambda: {
            f"base_model.model.{name.replace('qkv.', 'qkv.base_layer.')}": one
            for name, one in swin_with(f"{QKV}.lora_A.default.weight")().items()
        },
        "merge_and_unload",
    ),
    "peft-saved-modules": (
        renamed("head.fc.", "head.fc.modules_to_save.default."), "a model wrapped by peft"
    ),
    "bitsandbytes-8": (swin_with(f"{QKV}.SCB", f"{QKV}.weight_format"), "bitsandbytes"),
    "bitsandbytes-4": (
        swin_with(f"{QKV}.weight.quant_state.bitsandbytes__nf4"), "quantised by bitsandbytes"
    ),
    "quantised": (swin_with(f"{QKV}.qweight", f"{QKV}.qzeros"), "a quantised model"),
    "fake-quantised": (swin_with(f"{QKV}.input_quantizer._amax"), "fake quantisers"),
    "fake-quantised-torch": (swin_with(f"{QKV}.weight_fake_quant.scale"), "fake quantisers"),
    "weight-norm": (parametrized(parametrizations.weight_norm), "remove_parametrizations"),
    "weight-norm-of-one-stage": (
        extractor_with_a_normed_last_stage, "layers_3.blocks.0.mlp.fc1.parametrizations.weight"
    ),
    "spectral-norm": (parametrized(parametrizations.spectral_norm), "remove_parametrizations"),
    "old-weight-norm": (swin_with(f"{QKV}.weight_g", f"{QKV}.weight_v"), "remove_weight_norm"),
    "old-spectral-norm": (
        swin_with(f"{QKV}.weight_orig", f"{QKV}.weight_u"), "remove_spectral_norm"
    ),
    "flattened": (swin_with("layers.0._flat_param"), "FULL_STATE_DICT"),
    "divided": (divided, "zero_to_fp32.py"),
    "optimizer": (
        lambda: torch.optim.AdamW([nn.Parameter(ONE)]).state_dict(), "the state of an optimizer"
    ),
    "optimizer-in-a-list": (
        lambda: {"state": {0: {"exp_avg": ONE}}, "param_groups": [{"lr": 1}]},
        "the state of an optimizer and no weights",
    ),
    "shadow-list": (
        lambda: {"decay": 0.9, "num_updates": 3, "shadow_params": [ONE], "collected_params": None},
        "ema.copy_to(model.parameters())",
    ),
    "scheduler": (lambda: {"last_epoch": 3, "_step_count": 4, "base_lrs": [1.0]}, "scheduler"),
}  # fmt: skip


@pytest.mark.parametrize(("build", "says"), TOLD.values(), ids=TOLD.keys())
def test_what_is_no_plain_swin_is_told_by_name(
    build: Callable[[], object], says: str, swin: Command, tmp_path: Path
) -> None:
    torch.save(build(), tmp_path / "other.pth")
    outcome = swin("export", "--checkpoint", tmp_path / "other.pth", "--output", "x.onnx")
    outcome.assert_error(says)
    assert len(outcome.err) < 1500
    assert not Path("x.onnx").exists()


def test_source_that_is_given_does_not_hide_the_name(swin: Command, tmp_path: Path) -> None:
    torch.save(of_timm("vit_tiny_patch16_224", depth=1)(), tmp_path / "vit.pth")
    asked = swin("export", "--checkpoint", tmp_path / "vit.pth", "--source", "timm")
    asked.assert_error("a ViT, DeiT or BEiT")


# Names outside the encoder that would be told if they were the encoder's.
OUTSIDE = (
    "text.layers.0.self_attn.q_proj.lora_A.default.weight", "aux.qkv.SCB",
    "decoder.residual_group.x", "vit.cls_token", "vit.blocks.0.attn.qkv.weight", "other.weight_g",
    "other.weight_v", "neck.parametrizations.weight.original0", "aux.patch_embed.proj.0.weight",
    "layer1.0.conv1.weight", "layer2.0.conv1.weight", "aux.qweight",
)  # fmt: skip


def test_names_outside_the_encoder_tell_nothing(swin: Command, tmp_path: Path) -> None:
    state = {f"backbone.{name}": one for name, one in swin_state().items()}
    torch.save(state | dict.fromkeys(OUTSIDE, ONE), tmp_path / "w.pth")
    done = swin("export", "--checkpoint", tmp_path / "w.pth", "--output", "x.onnx").assert_done()
    assert f"ignored {len(OUTSIDE)} tensors outside the encoder backbone" in done.err


def test_optimizer_beside_weights_tells_nothing(swin: Command, tmp_path: Path) -> None:
    model = peers.build_timm("swin", **SMALL)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(1, 3, 32, 32)).sum().backward()
    optimizer.step()
    values = {
        "net": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "shadow_params": [ONE],
    }
    torch.save(values, tmp_path / "w.pth")
    swin("export", "--checkpoint", tmp_path / "w.pth", "--output", "x.onnx").assert_done()
