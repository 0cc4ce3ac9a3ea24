"""What a Swin model is: its sizes, the geometry that follows from them, and the known variants."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporters.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
DEFAULT_MODEL = "notebook-swin-t"


@dataclass(frozen=True)
class Preprocessing:
    """How an image file becomes a model input: resize, centre crop, scale to 0..1, normalise."""

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = "bicubic"
    crop_ratio: float = 0.875

    def __post_init__(self) -> None:
        numbers = (*self.mean, *self.std, self.crop_ratio)
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in numbers):
            raise ConfigError(f"mean, std and crop_ratio {numbers} are not all finite numbers")
        if len(self.mean) != 3 or len(self.std) != 3 or 0 in self.std:
            raise ConfigError(
                f"mean {self.mean} and std {self.std} need three numbers each, none of std zero"
            )


@dataclass(frozen=True)
class StageSpec:
    """One stage as built: ``resolution`` tokens a side, ``window_size`` tokens a side."""

    resolution: int
    dim: int
    depth: int
    num_heads: int
    window_size: int

    @property
    def num_windows(self) -> int:
        """Windows in the token map."""
        return (self.resolution // self.window_size) ** 2

    @property
    def window_area(self) -> int:
        """Tokens in a window."""
        return self.window_size**2


@dataclass(frozen=True)
class SwinConfig:
    """Sizes of a Swin Transformer; ``num_classes`` 0 means no head, and tokens as the output.

    Raises:
        ConfigError: If the sizes contradict each other, or windows cannot tile ``img_size``.
    """

    img_size: int = 224
    patch_size: int = 4
    window_size: int = 7
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    mlp_ratio: float = 4.0
    num_classes: int = 0
    preprocessing: Preprocessing = dataclasses.field(default_factory=Preprocessing)

    def __post_init__(self) -> None:
        self._check_numbers()
        if len(self.depths) != len(self.num_heads) or not self.depths:
            raise ConfigError(
                f"depths {self.depths} and num_heads {self.num_heads} need one entry for each stage"
            )
        if any(depth < 2 or depth % 2 for depth in self.depths):
            raise ConfigError(f"depths {self.depths}: blocks come in pairs, use even numbers")
        for stage, heads in enumerate(self.num_heads):
            if heads < 1 or (self.embed_dim << stage) % heads:
                raise ConfigError(
                    f"num_heads {heads} of stage {stage} does not divide its "
                    f"{self.embed_dim << stage} channels"
                )
        if self.img_size < 1 or self.img_size % self.img_size_step:
            raise ConfigError(
                f"image size {self.img_size} cannot be tiled by windows of {self.window_size} x "
                f"{self.window_size} tokens in every stage; use a multiple of "
                f"{self.img_size_step}: {', '.join(map(str, self.legal_img_sizes(4)))}, ..."
            )

    def _check_numbers(self) -> None:
        whole = {
            "img_size": (self.img_size,),
            "patch_size": (self.patch_size,),
            "window_size": (self.window_size,),
            "embed_dim": (self.embed_dim,),
            "depths": self.depths,
            "num_heads": self.num_heads,
        }
        for field, values in whole.items():
            if not all(isinstance(value, int) and value > 0 for value in values):
                shown = ", ".join(map(repr, values))
                raise ConfigError(f"{field} {shown}: whole numbers from 1 up are needed")
        if not isinstance(self.num_classes, int) or self.num_classes < 0:
            raise ConfigError(f"num_classes {self.num_classes}: a whole number from 0 up is needed")
        if round(self.embed_dim * self.mlp_ratio) < 1:
            raise ConfigError(f"mlp_ratio {self.mlp_ratio} leaves the MLP without channels")

    @property
    def img_size_step(self) -> int:
        """Every legal image size is a multiple of this, in pixels."""
        return self.patch_size * self.window_size << (len(self.depths) - 1)

    def legal_img_sizes(self, count: int) -> tuple[int, ...]:
        """The ``count`` smallest image sizes that windows tile in every stage, in pixels."""
        return tuple(self.img_size_step * factor for factor in range(1, count + 1))

    @property
    def stages(self) -> tuple[StageSpec, ...]:
        """The geometry of each stage, first to last."""
        return tuple(
            StageSpec(
                resolution=self.img_size // self.patch_size >> index,
                dim=self.embed_dim << index,
                depth=depth,
                num_heads=heads,
                window_size=self.window_size,
            )
            for index, (depth, heads) in enumerate(zip(self.depths, self.num_heads, strict=True))
        )

    @property
    def output_name(self) -> str:
        """``logits`` [B, num_classes] with a head, else ``tokens`` [B, N, C] in raster order."""
        return "logits" if self.num_classes else "tokens"

    def to_dict(self) -> dict[str, Any]:
        """This config as JSON values; ``from_dict`` reads it back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SwinConfig:
        """A config from ``to_dict`` or from JSON.

        Raises:
            ConfigError: If a field is unknown, or the sizes contradict each other.
        """
        try:
            fields = {key: _tuples(value) for key, value in values.items()}
            if "preprocessing" in fields:
                pre = {key: _tuples(value) for key, value in fields["preprocessing"].items()}
                fields["preprocessing"] = Preprocessing(**pre)
            return cls(**fields)
        except (TypeError, AttributeError) as err:
            raise ConfigError(f"not a model config: {err}") from err


def _tuples(value: Any) -> Any:  # noqa: ANN401 - a JSON value of any type
    return tuple(value) if isinstance(value, list) else value


def notebook_config(
    *,
    embed_dim: int = 96,
    depths: tuple[int, ...] = (2, 2, 6, 2),
    **sizes: Any,  # noqa: ANN401 - any other field of SwinConfig
) -> SwinConfig:
    """The notebook's sizes: heads of 32 channels in every stage, at least one."""
    heads = tuple(max(1, (embed_dim << stage) // 32) for stage in range(len(depths)))
    return SwinConfig(embed_dim=embed_dim, depths=depths, num_heads=heads, **sizes)


VARIANTS: dict[str, SwinConfig] = {
    "notebook-swin-t": notebook_config(),
    "notebook-swin-s": notebook_config(depths=(2, 2, 18, 2)),
    "notebook-swin-b": notebook_config(embed_dim=128, depths=(2, 2, 18, 2)),
    "notebook-swin-l": notebook_config(embed_dim=192, depths=(2, 2, 18, 2)),
    "notebook-digits": notebook_config(
        img_size=56,
        embed_dim=32,
        depths=(2, 2),
        num_classes=10,
        preprocessing=Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3, crop_ratio=1.0),
    ),
}
ASSETS = Path(__file__).parent / "assets"
# Variants whose trained weights, and held-out images, come with the package.
BUNDLED_WEIGHTS = {"notebook-digits": ASSETS / "digits" / "checkpoint.safetensors"}
BUNDLED_IMAGES = {"notebook-digits": ASSETS / "digits" / "images"}


def variant(name: str) -> SwinConfig:
    """The config of a known variant.

    Raises:
        ConfigError: If there is no variant of that name.
    """
    if name not in VARIANTS:
        raise ConfigError(f"unknown model {name}; known are {', '.join(VARIANTS)}")
    return VARIANTS[name]
