import copy
import dataclasses
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from conftest import (
    FLOAT32_TOLERANCE,
    REJECTED,
    TINY,
    TINY_WITH_HEAD,
    build_reference,
    golden_reference,
    golden_run,
    rms_error,
    seeded_images,
)
from torch import Tensor, nn

from exporters.spec import Runtime
from swin_deploy.config import SwinConfig, notebook_config
from swin_deploy.deploy.fold import fold
from swin_deploy.deploy.fold_parts import MASKED_FINITE
from swin_deploy.deploy.model import (
    DeployModel,
    PatchMerge,
    PositionBias,
    Reorder,
    SwinBlock,
    WindowMask,
)
from swin_deploy.reference.notebook import NotebookSwin


def sized(
    img_size: int | tuple[int, int],
    window_size: int = 7,
    depths: tuple[int, ...] = (2, 2),
    patch_size: int = 4,
) -> SwinConfig:
    """16 channels, in 2 heads of 8 and twice as many in each later stage."""
    return SwinConfig(
        img_size=img_size,
        patch_size=patch_size,
        window_size=window_size,
        embed_dim=16,
        depths=depths,
        num_heads=tuple(2 << stage for stage in range(len(depths))),
    )


SIZES = {
    "tiny": TINY,
    "one-stage-one-window": sized(28, depths=(2,)),
    "one-stage-four-windows": sized(56, depths=(2,)),
    "one-stage-four-blocks": sized(56, depths=(4,)),
    "two-stages-of-windows": sized(112),
    "two-stages-deep": sized(56, depths=(4, 6)),
    "three-stages": sized(112, depths=(2, 2, 2)),
    "four-stages": sized(224, depths=(2, 2, 2, 2)),
    "four-stages-448px": sized(448, depths=(2, 2, 2, 2)),
    "window-1": sized(16, window_size=1),
    "window-2": sized(32, window_size=2),
    "window-3": sized(48, window_size=3),
    "window-4": sized(64, window_size=4),
    "window-4-one-window": sized(32, window_size=4),
    "window-5": sized(40, window_size=5),
    "window-8": sized(128, window_size=8),
    "window-12": sized(96, window_size=12),
    "patch-2": sized(56, patch_size=2),
    "patch-8": sized(112, patch_size=8),
    "one-head": dataclasses.replace(TINY, num_heads=(1, 1)),
    "one-head-window-12": dataclasses.replace(sized(96, window_size=12), num_heads=(1, 2)),
    "heads-of-four-channels": dataclasses.replace(TINY, num_heads=(4, 8)),
    "heads-of-32-channels": notebook_config(img_size=56, embed_dim=64, depths=(2, 2)),
    "classifier": TINY_WITH_HEAD,
    "classifier-one-class": dataclasses.replace(TINY, num_classes=1),
    "classifier-window-4": dataclasses.replace(sized(64, window_size=4), num_classes=10),
    "mlp-ratio-2": dataclasses.replace(TINY, mlp_ratio=2.0),
    "mlp-ratio-2.5": dataclasses.replace(TINY, mlp_ratio=2.5),
    "notebook-swin-t": SwinConfig(),
}


@pytest.mark.parametrize("config", SIZES.values(), ids=SIZES.keys())
@torch.no_grad()
def test_fold_equals_the_reference(config: SwinConfig) -> None:
    reference = build_reference(config)
    images = seeded_images(config, batch=1 if max(config.image) > 112 else 2)
    expected = reference(images)
    for runtime in get_args(Runtime):
        assert rms_error(fold(reference, runtime)(images), expected) < FLOAT32_TOLERANCE


@pytest.mark.parametrize(
    "config",
    [config for config in SIZES.values() if max(config.image) <= 112],
    ids=[name for name, config in SIZES.items() if max(config.image) <= 112],
)
@torch.no_grad()
def test_fold_equals_the_reference_more_closely_in_float64(config: SwinConfig) -> None:
    reference = build_reference(config)
    images = seeded_images(config).double()
    deploy = fold(reference).double()
    # What is left is the rounding to float32 of the weights that take up scale, norm and bias.
    assert rms_error(deploy(images), reference.double()(images)) < FLOAT32_TOLERANCE / 30


@pytest.mark.parametrize("img_size", [112, 56])
@torch.no_grad()
def test_fold_equals_the_recorded_output(img_size: int) -> None:
    recorded = golden_run(img_size)
    deploy = fold(golden_reference(img_size))
    assert rms_error(deploy(recorded["x"]), recorded["y"]) < FLOAT32_TOLERANCE


def blocks(deploy: DeployModel) -> list[SwinBlock]:
    return [layer for layer in deploy.layers if isinstance(layer, SwinBlock)]


def nudge_one_bias_entry(deploy: DeployModel) -> None:
    bias = blocks(deploy)[0].attention.bias
    assert isinstance(bias, PositionBias)
    bias.bias[0, 0, 3, 2] += 1.0


def swap_two_windows(deploy: DeployModel) -> None:
    index = reordering(blocks(deploy)[1].reorder_before).index.view(TINY.stages[0].window_area, -1)
    index[:, [0, 3]] = index[:, [3, 0]]


def swap_two_tokens_of_the_merge(deploy: DeployModel) -> None:
    (merge,) = (layer for layer in deploy.layers if isinstance(layer, PatchMerge))
    index = reordering(merge.reorder_before).index
    index[[1, 2]] = index[[2, 1]]


def masking(block: SwinBlock) -> WindowMask:
    """The mask of a shifted block, which does hide something."""
    assert isinstance(block.attention.bias, nn.Sequential)
    mask = block.attention.bias[1]
    assert isinstance(mask, WindowMask)
    assert float(mask.by_windows().min()) <= MASKED_FINITE
    return mask


def drop_one_mask(deploy: DeployModel) -> None:
    drop(masking(blocks(deploy)[1]))


def drop(mask: WindowMask) -> None:
    for part in (mask.rows, mask.columns):
        if part is not None:
            part.zero_()


def drop_the_mask_of_the_only_window(deploy: DeployModel) -> None:
    mask = masking(blocks(deploy)[3])
    assert mask.windows == (1, 1)
    drop(mask)


def drop_the_mask_of_one_row_of_windows(deploy: DeployModel) -> None:
    mask = masking(blocks(deploy)[1])
    assert mask.rows is not None
    assert mask.windows == (2, 2)
    mask.rows[-1] = 0.0


def swap_the_masks_of_two_columns_of_windows(deploy: DeployModel) -> None:
    mask = masking(blocks(deploy)[1])
    assert mask.columns is not None
    mask.columns[:, [0, 1]] = mask.columns[:, [1, 0]]


def swap_query_and_key(deploy: DeployModel) -> None:
    for value in blocks(deploy)[0].attention.qkv.parameters():
        query, key, rest = value.split(TINY.embed_dim)
        value.copy_(torch.cat([key, query, rest]))


def scale_twice(deploy: DeployModel) -> None:
    for value in blocks(deploy)[0].attention.qkv.parameters():
        value[: TINY.embed_dim] *= (TINY.embed_dim // TINY.num_heads[0]) ** -0.5


def remove_displacement(deploy: DeployModel) -> None:
    blocks(deploy)[1].reorder_branch = nn.Identity()


def remove_relu(deploy: DeployModel) -> None:
    deploy.embed = nn.Sequential(*list(deploy.embed)[:2])


def leave_window_order(deploy: DeployModel) -> None:
    for passed in deploy.heads:
        deploy.heads[passed] = nn.Identity()


def reordering(module: nn.Module) -> Reorder:
    assert isinstance(module, Reorder)
    return module


MUTATIONS = [
    nudge_one_bias_entry,
    swap_two_windows,
    swap_two_tokens_of_the_merge,
    drop_one_mask,
    drop_the_mask_of_the_only_window,
    drop_the_mask_of_one_row_of_windows,
    swap_the_masks_of_two_columns_of_windows,
    swap_query_and_key,
    scale_twice,
    remove_displacement,
    remove_relu,
    leave_window_order,
]


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
@torch.no_grad()
def test_mutated_fold_is_rejected(
    mutate: Callable[[DeployModel], None], tiny_reference: NotebookSwin, tiny_images: Tensor
) -> None:
    deploy, expected = fold(tiny_reference), tiny_reference(tiny_images)
    assert rms_error(deploy(tiny_images), expected) < FLOAT32_TOLERANCE
    mutate(deploy)
    assert rms_error(deploy(tiny_images), expected) > REJECTED


@torch.no_grad()
def test_fold_leaves_the_reference_as_it_was(
    tiny_reference: NotebookSwin, tiny_images: Tensor
) -> None:
    tiny_reference.train()
    before = copy.deepcopy(tiny_reference.state_dict())
    trainable = [value.requires_grad for value in tiny_reference.parameters()]
    fold(tiny_reference)
    after = tiny_reference.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert [value.requires_grad for value in tiny_reference.parameters()] == trainable
    assert tiny_reference.training


def storages(model: nn.Module) -> set[int]:
    return {value.untyped_storage().data_ptr() for value in model.state_dict().values()}


@pytest.mark.parametrize("config", [TINY, TINY_WITH_HEAD], ids=["tokens", "logits"])
@torch.no_grad()
def test_fold_owns_its_weights(config: SwinConfig) -> None:
    reference, images = build_reference(config), seeded_images(config)
    deploy = fold(reference)
    assert not storages(deploy) & storages(reference)
    expected = deploy(images)
    for value in reference.parameters():
        value.add_(1.0)
    assert torch.equal(deploy(images), expected)
    changed = reference(images)
    for value in deploy.state_dict().values():
        value.zero_()
    assert torch.equal(reference(images), changed)


def test_fold_gives_an_inference_model_whatever_the_reference_is_doing(
    tiny_reference: NotebookSwin, tiny_images: Tensor
) -> None:
    expected = fold(tiny_reference)(tiny_images)
    deploy = fold(tiny_reference.train())
    assert not any(module.training for module in deploy.modules())
    assert not any(value.requires_grad for value in deploy.parameters())
    assert torch.equal(deploy(tiny_images), expected)
    assert not expected.requires_grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
@torch.no_grad()
def test_fold_of_another_precision_is_float32(
    dtype: torch.dtype, tiny_reference: NotebookSwin, tiny_images: Tensor
) -> None:
    deploy = fold(tiny_reference.to(dtype))
    floating = [value for value in deploy.state_dict().values() if value.is_floating_point()]
    assert {value.dtype for value in floating} == {torch.float32}
    expected = tiny_reference.float()(tiny_images)
    assert rms_error(deploy(tiny_images), expected) < FLOAT32_TOLERANCE


@pytest.mark.parametrize("config", [TINY, TINY_WITH_HEAD], ids=["tokens", "logits"])
@torch.no_grad()
def test_rows_of_a_batch_do_not_see_each_other(config: SwinConfig) -> None:
    deploy, images = fold(build_reference(config)), seeded_images(config, batch=4)
    together = deploy(images)
    for row in range(4):
        alone = deploy(images[row : row + 1])
        assert rms_error(together[row : row + 1], alone) < FLOAT32_TOLERANCE
    others = images.clone()
    others[[0, 2, 3]] = seeded_images(config, batch=3, seed=1)
    assert rms_error(deploy(others)[1], together[1]) < FLOAT32_TOLERANCE
    assert rms_error(deploy(others)[0], together[0]) > REJECTED
