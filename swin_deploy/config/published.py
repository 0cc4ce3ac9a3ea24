"""The models that have names, and the files of those in the package."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporters.errors import ConfigError
from swin_deploy.config.sizes import one_for_all, stage_windows
from swin_deploy.config.swin import Family, SwinConfig

DEFAULT_MODEL = "notebook-swin-t"


def notebook_config(
    *,
    embed_dim: int = 96,
    depths: tuple[int, ...] = (2, 2, 6, 2),
    **sizes: Any,  # noqa: ANN401 - any other field of SwinConfig
) -> SwinConfig:
    """Return a config of the notebook: heads of 32 channels in every stage, at least one.

    Args:
        embed_dim: Number of channels of the first stage.
        depths: Number of blocks of each stage, all even.
        **sizes: Other fields of ``SwinConfig``.

    Raises:
        ConfigError: If the sizes contradict each other.
    """
    heads = tuple(max(1, (embed_dim << stage) // 32) for stage in range(len(depths)))
    return SwinConfig(embed_dim=embed_dim, depths=depths, num_heads=heads, **sizes)


# Sizes of the paper's models: width, depths and heads.
SIZES: dict[str, tuple[int, tuple[int, ...], tuple[int, ...]]] = {
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48)),
}
S3_WINDOWS = {"tiny": (7, 7, 14, 7), "small": (14, 14, 14, 7), "base": (7, 7, 14, 7)}
S3_DEPTHS = {"tiny": (2, 2, 6, 2), "small": (2, 2, 18, 2), "base": (2, 2, 30, 2)}


def _published(family: Family, size: str, img_size: int, **sizes: Any) -> SwinConfig:  # noqa: ANN401
    """Return the config of a model of the papers, with ImageNet-1k's classes."""
    embed_dim, depths, heads = SIZES[size]
    fields: dict[str, Any] = {
        "family": family,
        "img_size": img_size,
        "embed_dim": embed_dim,
        "depths": depths,
        "num_heads": heads,
        "num_classes": 1000,
    }
    return SwinConfig(**(fields | sizes))


def _published_variants() -> dict[str, SwinConfig]:
    """Return the models of the papers by the names that timm gives them."""
    known: dict[str, SwinConfig] = {}
    for size in SIZES:
        known[f"swin_{size}_patch4_window7_224"] = _published("swin", size, 224)
    for size in ("base", "large"):
        known[f"swin_{size}_patch4_window12_384"] = _published("swin", size, 384, window_size=12)
    for size, windows in S3_WINDOWS.items():
        known[f"swin_s3_{size}_224"] = _published(
            "swin",
            "tiny" if size == "tiny" else "small",
            224,
            window_size=windows,
            depths=S3_DEPTHS[size],
        )
    for size, windows_v2 in (
        ("tiny", (8, 16)),
        ("small", (8, 16)),
        ("base", (8, 16)),
        ("large", ()),
    ):
        for window in windows_v2:
            known[f"swinv2_{size}_window{window}_256"] = _published(
                "swinv2", size, 256, window_size=window
            )
    for size in ("base", "large"):
        known[f"swinv2_{size}_window12_192"] = _published("swinv2", size, 192, window_size=12)
        for window, img_size in ((16, 256), (24, 384)):
            known[f"swinv2_{size}_window12to{window}_192to{img_size}"] = _published(
                "swinv2",
                size,
                img_size,
                window_size=window,
                pretrained_window_sizes=(12, 12, 12, 6),
            )
    return known


VARIANTS: dict[str, SwinConfig] = {
    **_published_variants(),
    "notebook-swin-t": notebook_config(),
    "notebook-swin-s": notebook_config(depths=(2, 2, 18, 2)),
    "notebook-swin-b": notebook_config(embed_dim=128, depths=(2, 2, 18, 2)),
    "notebook-swin-l": notebook_config(embed_dim=192, depths=(2, 2, 18, 2)),
    "notebook-digits": notebook_config(
        img_size=56,
        embed_dim=32,
        depths=(2, 2),
        num_classes=10,
    ),
}
ASSETS = Path(__file__).parent.parent / "assets"
# Trained weights and held-out images that the package contains, by variant.
BUNDLED_WEIGHTS = {"notebook-digits": ASSETS / "digits" / "checkpoint.safetensors"}
BUNDLED_IMAGES = {"notebook-digits": ASSETS / "digits" / "images"}


def variant(name: str) -> SwinConfig:
    """Return the config of a known variant.

    Raises:
        ConfigError: If there is no variant of that name.
    """
    if name not in VARIANTS:
        raise ConfigError(f"unknown model {name}; 'swin-deploy models' lists them")
    return VARIANTS[name]


def with_fields(config: SwinConfig, asked: Mapping[str, Any]) -> SwinConfig:
    """Return a config with the fields that a user asks for.

    Args:
        config: The config to change.
        asked: Fields by name; None where the config decides. ``window_size`` is read by
            ``stage_windows``.

    Raises:
        ConfigError: If the sizes contradict each other.
    """
    fields = {name: value for name, value in asked.items() if value is not None}
    if "window_size" in fields:
        windows = stage_windows(fields["window_size"], len(config.depths))
        fields["window_size"] = one_for_all(windows)
    return dataclasses.replace(config, **fields)
