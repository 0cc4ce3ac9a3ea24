"""What Triton's interpreter makes of the kernel, as JSON; to be run with TRITON_INTERPRET=1.

Triton decides when it is imported whether it compiles or interprets, so this is a process of its
own. Each part is printed by ``python window_interpreter.py PART``.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from dataclasses import replace

import torch
from families import CONFIGS, trained_like
from torch import Tensor, nn

from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.checkpoints.preprocessors import library_steps
from swin_deploy.config import Size, StageSpec
from swin_deploy.config.windows import shifted_window_mask
from swin_deploy.deploy.fold import fold
from swin_deploy.deploy.fold_parts import score_bias, split_heads
from swin_deploy.deploy.model import WindowAttention
from swin_deploy.images.sets import seeded_images
from swin_deploy.parity.run import check_parity, reference_outputs
from swin_deploy.runners.fused import FusedAttention, fuse, fused_blocks

BATCH = 3
WINDOWS = {7: 14, 8: 16, 12: 24, 16: 32}  # window side to token map side
V1 = replace(CONFIGS["swin"], embed_dim=32, num_heads=(2, 2))
MODELS = {
    "V1": V1,
    "V1, one head": replace(V1, num_heads=(1, 2)),
    "S3": replace(V1, img_size=112, window_size=(14, 7)),
    "notebook": replace(CONFIGS["notebook"], embed_dim=32, num_heads=(2, 4)),
    "V2": replace(CONFIGS["swinv2"], embed_dim=32, num_heads=(1, 4)),
}  # fmt: skip


def error(actual: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest value."""
    return float((actual.double() - expected.double()).abs().max() / expected.double().abs().max())


def block(window: int, heads: int, *, masked: bool, cosine: bool) -> WindowAttention:
    """Window attention with random weights, folded or not from a reference."""
    torch.manual_seed(window + heads)
    dim = 16 * heads
    sides = (WINDOWS[window], window, window // 2)
    resolution, size, shift = map(Size.square, sides)
    stage = StageSpec(resolution, dim, 2, heads, size, shift)
    mask = shifted_window_mask(stage) if masked else None
    temperature = torch.linspace(5, 100, heads)[:, None, None] if cosine else None
    return WindowAttention(
        nn.Linear(dim, 3 * dim),
        nn.Linear(dim, dim),
        bias=score_bias(torch.randn(heads, window**2, window**2), mask, stage),
        heads=split_heads(stage, temperature),
        num_tokens=stage.resolution.area,
    )


def blocks() -> dict[str, float]:
    """Errors of single blocks, by window, heads, mask, kind and precision."""
    found = {}
    for window in WINDOWS:
        for heads, masked, cosine in [(1, True, False), (2, False, False), (2, True, True)]:
            plain = block(window, heads, masked=masked, cosine=cosine)
            tokens = torch.randn(WINDOWS[window] ** 2, BATCH, 16 * heads)
            expected = plain(tokens)
            kind = f"window {window}, {heads} heads" + ", V2" * cosine + ", masked" * masked
            for dtype in (torch.float32, torch.float16):  # it multiplies the bits of bfloat16
                fused = FusedAttention(copy.deepcopy(plain)).to(dtype)
                name = f"{kind}, {str(dtype).removeprefix('torch.')}"
                found[name] = error(fused(tokens.to(dtype)), expected)
    return found


def models() -> dict[str, object]:
    """Errors of whole models, and how many of their blocks have the kernel."""
    found: dict[str, object] = {}
    for name, config in MODELS.items():
        deploy = fold(trained_like(config))
        before = {key: value.clone() for key, value in deploy.state_dict().items()}
        fused = fuse(deploy)
        images = torch.from_numpy(seeded_images(config, count=2).images)
        untouched = all(torch.equal(value, before[key]) for key, value in deploy.named_buffers())
        found[name] = {
            "error": error(fused(images), deploy(images)),
            "blocks": fused_blocks(fused),
            "untouched": untouched and fused_blocks(deploy)[0] == 0,
            "tables": [len(m.table) for m in fused.modules() if isinstance(m, FusedAttention)],
        }
    return found


def other_bias(attention: FusedAttention) -> None:
    attention.table[:, 0, 5, 3] += 0.1


def other_mask(attention: FusedAttention) -> None:
    attention.kind.copy_(attention.kind.roll(1))


def other_heads(attention: FusedAttention) -> None:
    attention.table.copy_(attention.table.roll(1, dims=1))


def other_stride(attention: FusedAttention) -> None:
    """Rows image by image, where the kernel expects them place by place."""
    attention.qkv.register_forward_hook(lambda _, __, qkv: qkv.transpose(0, 1).reshape(qkv.shape))


FAULTS: dict[str, Callable[[FusedAttention], None]] = {
    "bias": other_bias, "mask": other_mask, "heads": other_heads, "stride": other_stride,
}  # fmt: skip


def verdicts() -> dict[str, bool | None]:
    """What parity finds of the right kernel, and of each fault in one block."""
    config = MODELS["V1"]
    model = LoadedModel("tiny", config, trained_like(config), None, "", library_steps(config))
    images = (seeded_images(config, count=2),)
    outputs = reference_outputs(model, images, precisions=["fp32"])
    found = {}
    for name, fault in {"none": lambda _: None, **FAULTS}.items():
        fused = fuse(fold(model.reference))
        attentions = [m for m in fused.modules() if isinstance(m, FusedAttention)]
        fault(attentions[1])  # shifted: its windows differ
        found[name] = check_parity(model, outputs, fused, batches=(2,)).hops[0].passed
    return found


if __name__ == "__main__":
    with torch.no_grad():
        print(json.dumps({"blocks": blocks, "models": models, "verdicts": verdicts}[sys.argv[1]]()))
