import dataclasses
import json
from typing import Any

import pytest

from exporters.errors import ConfigError
from swin_deploy.config import MOST, VARIANTS, SwinConfig, notebook_config


def test_defaults_are_the_notebooks_swin_t() -> None:
    config = SwinConfig()
    assert config == notebook_config()
    assert config.num_heads == (3, 6, 12, 24)
    assert config.output_name == "tokens"
    assert dataclasses.replace(config, num_classes=10).output_name == "logits"


def test_stages_halve_the_map_and_double_the_channels() -> None:
    stages = SwinConfig().stages
    assert [stage.resolution.rows for stage in stages] == [56, 28, 14, 7]
    assert all(stage.resolution.is_square for stage in stages)
    assert [stage.dim for stage in stages] == [96, 192, 384, 768]
    assert [stage.depth for stage in stages] == [2, 2, 6, 2]
    assert [stage.num_heads for stage in stages] == [3, 6, 12, 24]
    assert [stage.num_windows for stage in stages] == [64, 16, 4, 1]
    assert {stage.window_area for stage in stages} == {49}


@pytest.mark.parametrize(
    ("embed_dim", "depths", "heads"),
    [
        pytest.param(96, (2, 2, 6, 2), (3, 6, 12, 24), id="swin-t"),
        pytest.param(64, (2, 4), (2, 4), id="two-stages"),
        pytest.param(16, (2, 2), (1, 1), id="narrower-than-a-head"),
    ],
)
def test_notebook_config_has_heads_of_32_channels(
    embed_dim: int, depths: tuple[int, ...], heads: tuple[int, ...]
) -> None:
    config = notebook_config(embed_dim=embed_dim, depths=depths)
    assert config.num_heads == heads
    assert config.depths == depths


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        pytest.param({}, (224, 448, 672, 896), id="swin-t"),
        pytest.param({"window_size": 12, "img_size": 384}, (384, 768), id="window-12"),
        pytest.param({"patch_size": 2, "img_size": 112}, (112, 224, 336), id="patch-2"),
        pytest.param(
            {"depths": (2,), "num_heads": (3,), "img_size": 28}, (28, 56, 84), id="one-stage"
        ),
        pytest.param(
            {"depths": (2, 2), "num_heads": (3, 6), "img_size": 168}, (56, 112), id="two-stages"
        ),
    ],
)
def test_legal_img_sizes_are_those_that_a_config_accepts(
    sizes: dict[str, Any], expected: tuple[int, ...]
) -> None:
    config = SwinConfig(**sizes)
    assert config.legal_img_sizes(len(expected)) == expected
    accepted = set()
    for img_size in range(1, expected[-1] + 1):
        try:
            accepted.add(dataclasses.replace(config, img_size=img_size).img_size)
        except ConfigError:
            continue
    assert accepted == set(expected)


@pytest.mark.parametrize("img_size", [1, 112, 223, 225, 256, 384])
def test_img_size_that_windows_cannot_tile_names_the_legal_ones(img_size: int) -> None:
    with pytest.raises(ConfigError) as info:
        SwinConfig(img_size=img_size)
    message = str(info.value)
    assert f"image size {img_size} " in message
    assert "windows of 7 x 7" in message
    sizes = sorted((224, 448, 672, 896), key=lambda size: abs(size - img_size))
    assert f"use one of {', '.join(map(str, sizes))}, ..." in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        pytest.param(
            {"depths": (2, 2)}, r"depths \(2, 2\) and num_heads .* one entry", id="length"
        ),
        pytest.param({"depths": (), "num_heads": ()}, "one entry for each stage", id="no-stage"),
        pytest.param({"depths": (2, 2, 5, 2)}, r"\(2, 2, 5, 2\): .* even numbers", id="odd-depth"),
        pytest.param({"depths": (2, 0, 6, 2)}, "depths 2, 0", id="empty-stage"),
        pytest.param({"depths": (2, -2, 6, 2)}, "depths 2, -2", id="negative-depth"),
        pytest.param(
            {"num_heads": (3, 5, 12, 24)}, "num_heads 5 of stage 1 .* 192 channels", id="heads"
        ),
        pytest.param({"num_heads": (0, 6, 12, 24)}, "num_heads 0, 6", id="no-heads"),
        pytest.param({"out_stages": (0, 1)}, "numbered from 1 to 4", id="stage-0"),
        pytest.param({"out_stages": (4, 5)}, "numbered from 1 to 4", id="stage-after-the-last"),
    ],
)
def test_contradicting_sizes_are_named(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SwinConfig(**sizes)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(SwinConfig(), id="default"),
        pytest.param(notebook_config(img_size=56, depths=(2, 2), num_classes=10), id="small"),
        pytest.param(
            SwinConfig(
                img_size=32,
                window_size=4,
                depths=(2, 2),
                num_heads=(3, 6),
                mlp_ratio=2.0,
            ),
            id="every-kind-of-field",
        ),
    ],
)
def test_config_survives_json(config: SwinConfig) -> None:
    read_back = SwinConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert read_back == config
    assert hash(read_back) == hash(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"drop_rate": 0.1}, "drop_rate", id="unknown-field"),
        pytest.param({"depths": 2}, "one number for each stage", id="depths-not-a-list"),
        pytest.param({"img_size": "224"}, "img_size '224'", id="size-is-text"),
        pytest.param({"img_size": 225}, "use one of 224, 448", id="illegal-size"),
    ],
)
def test_from_dict_names_what_it_cannot_read(change: dict[str, Any], message: str) -> None:
    values = SwinConfig().to_dict()
    assert SwinConfig.from_dict(values) == SwinConfig()
    with pytest.raises(ConfigError, match=message):
        SwinConfig.from_dict({**values, **change})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"window_size": 0}, "window_size 0", id="no window"),
        pytest.param({"patch_size": -4}, "patch_size -4", id="negative patch"),
        pytest.param({"embed_dim": 96.5}, "embed_dim 96.5", id="fraction of a channel"),
        pytest.param({"img_size": 224.0}, "img_size 224.0", id="float image size"),
        pytest.param({"depths": (2.0, 2, 6, 2)}, "depths 2.0", id="float depth"),
        pytest.param({"num_heads": (0, 6, 12, 24)}, "num_heads 0", id="no head"),
        pytest.param({"num_classes": -1}, "num_classes -1", id="negative classes"),
        pytest.param({"mlp_ratio": 0.001}, "mlp_ratio 0.001", id="empty MLP"),
    ],
)
def test_config_rejects_numbers_that_are_no_sizes(changes, said):
    with pytest.raises(ConfigError, match=said):
        SwinConfig(**changes)


DIGITS = VARIANTS["notebook-digits"].to_dict()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("window_size", 1_000_000_000, "window_size 1000000000: whole numbers from 1 up to 128"),
        ("window_size", 1 << 70, "whole numbers from 1 up to 128"),
        ("window_size", [7] * 100_000, "need one entry for each"),
        ("window_size", [], "window_sizes \\(\\) need one entry for each"),
        ("window_size", 7.0, "window_size 7.0: whole numbers"),
        ("window_size", True, "window_size True: whole numbers"),
        ("img_size", 56_000_000, "img_size 56000000: whole numbers from 1 up to 65,536"),
        ("embed_dim", 1 << 40, "whole numbers from 1 up to 8,192"),
        ("depths", [1_000_000, 2], "depths 1000000, 2: whole numbers from 1 up to 128"),
        ("depths", [2] * 1_000_000, "depths of 1,000,000 stages: at most 8"),
        ("depths", 2, "depths 2: one number for each stage"),
        ("num_heads", [1 << 62, 2], "num_heads 4611686018427387904, 2: whole"),
        ("num_classes", -1, "num_classes -1: whole numbers from 0"),
        ("num_classes", 1 << 40, "from 0 up to 16,777,216"),
        ("mlp_ratio", float("nan"), "mlp_ratio nan: a number above 0, up to 64"),
        ("mlp_ratio", 1e308, "mlp_ratio 1e\\+308: a number above 0"),
        ("mlp_ratio", "4", "mlp_ratio '4': a number above 0"),
        ("layer_norm_eps", 0, "layer_norm_eps 0: a number above 0, up to 1"),
        ("pretrained_window_sizes", [-1, 2], "from 0 up to 128"),
        ("family", "vit", "family 'vit' is not known; known are notebook, swin, swinv2"),
        ("family", ["swin"], "family .* is not known"),
        ("output", "masks", "output 'masks' is not known"),
        ("final_norm", None, "final_norm None: true or false"),
        ("x" * 10_000, 1, "not a model config"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_from_dict_refuses_what_no_model_has(field: str, value: object, message: str) -> None:
    """In one short line, and at once: nothing is built or searched before."""
    SwinConfig.from_dict(DIGITS)
    with pytest.raises(ConfigError, match=message) as info:
        SwinConfig.from_dict(DIGITS | {field: value})
    assert len(str(info.value)) < 500


def test_from_dict_refuses_what_is_no_object() -> None:
    wrong: tuple[object, ...] = (None, [], "x", 7)
    for values in wrong:
        with pytest.raises(ConfigError, match="not a model config"):
            SwinConfig.from_dict(values)  # type: ignore[arg-type]


def test_legal_img_sizes_end_with_the_largest_image() -> None:
    config = SwinConfig(img_size=128, patch_size=1, window_size=128, depths=(2,), num_heads=(3,))
    assert config.legal_img_sizes(10**9)[-1] == 1 << 16
    with pytest.raises(ConfigError, match="no size up to 65,536 can"):
        SwinConfig(
            img_size=224, patch_size=255, window_size=(127, 113, 109), depths=(2, 2, 2),
            num_heads=(3, 6, 12),
        )  # fmt: skip


def test_every_variant_is_far_from_the_bounds() -> None:
    for config in VARIANTS.values():
        for field, most in MOST.items():
            value = getattr(config, field)
            assert max(value if isinstance(value, tuple) else (value,), default=0) <= most / 2
