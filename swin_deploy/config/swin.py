"""The sizes of a Swin model, and the geometry that follows from them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from exporters.errors import ConfigError
from exporters.text_files import listed, shortened
from swin_deploy.config.activations import ACTIVATIONS, Activation
from swin_deploy.config.fit import (
    CARRY_PADS_UP_TO,
    Pads,
    Remainder,
    WindowFit,
    WindowRule,
    first_map,
    fit_window,
    merged_map,
    padded,
)
from swin_deploy.config.sizes import (
    MOST_PROPOSED,
    MOST_SIDE,
    NONE,
    Size,
    near_rectangles,
    nearest,
    numbers,
    sizes_remedy,
    spelt,
)

Family = Literal["notebook", "swin", "swinv2"]
Output = Literal["logits", "features", "stages", "tokens"]
Pool = Literal["avg", "max", "avgmax"]
HeadActivation = Literal["none", "relu", "gelu", "gelu_tanh", "silu", "tanh"]
# The largest numbers that a config accepts. The largest Swin known has windows of 48 tokens a side,
# 512 channels, 42 blocks in a stage and images of 1536 pixels a side.
MOST_STAGES = 8
# Fields that are one number for the whole model.
SINGLE = ("in_channels", "patch_size", "embed_dim", "num_classes", "head_hidden")
MAY_BE_ZERO = ("num_classes", "head_hidden", "pretrained_window_sizes", "built_size")
# Words that a field may be.
WORDS: dict[str, tuple[str, ...]] = {
    "family": get_args(Family),
    "activation": ACTIVATIONS,
    "pool": get_args(Pool),
    "window_rule": get_args(WindowRule),
    "pads": get_args(Pads),
    "remainder": get_args(Remainder),
    "head_activation": get_args(HeadActivation),
    "output": ("", *get_args(Output)),
}
MOST_REAL = {"mlp_ratio": 64.0, "layer_norm_eps": 1.0}
SWITCHES = ("patch_norm", "absolute_positions", "stage_norms", "final_norm")
# Fields that the notebook's model does not have, and their values in it.
NOT_NOTEBOOK = {"patch_norm": True, "absolute_positions": False, "pool": "avg"}
MOST = {
    "img_size": MOST_SIDE,
    "built_size": MOST_SIDE,
    "in_channels": 1024,
    "patch_size": 256,
    "window_size": 128,
    "embed_dim": 8192,
    "depths": 128,
    "num_heads": 1024,
    "num_classes": 1 << 24,
    "head_hidden": 1 << 24,
    "pretrained_window_sizes": 128,
}


def hidden_channels(dim: int, mlp_ratio: float) -> int:
    """Return the channels between the two layers of an MLP, rounded down as every library does.

    A ratio that was inferred from the weights may miss the whole number by a rounding error, which
    is made up for.
    """
    return int(dim * mlp_ratio + 1e-6)


def channels_text(count: int) -> str:
    """Return a number of channels in words."""
    return "1 channel" if count == 1 else f"{count} channels"


@dataclass(frozen=True)
class StageSpec:
    """The sizes of one stage as built.

    Attributes:
        resolution: Size of the token map, in tokens.
        dim: Number of channels.
        depth: Number of blocks.
        num_heads: Number of attention heads.
        window_size: Window size as built.
        shift_size: Tokens that odd blocks shift their windows by; 0 along an axis without a shift.
        pretrained_window_size: Window size that V2's position bias is scaled to; 0 for none.
        roll_first: Whether a shifted map is rolled before it is padded to whole windows, as in
            timm, or after, as everywhere else.
        hidden: Number of channels between the layers of an MLP.
    """

    resolution: Size
    dim: int
    depth: int
    num_heads: int
    window_size: Size
    shift_size: Size = NONE
    pretrained_window_size: Size = NONE
    hidden: int = 0
    roll_first: bool = False

    @property
    def padded(self) -> Size:
        """Size of the map padded to whole windows, in tokens."""
        return padded(self.resolution, self.window_size)

    @property
    def has_pads(self) -> bool:
        """Whether windows hold pads: places without a token."""
        return self.padded != self.resolution

    @property
    def carries_pads(self) -> bool:
        """Whether the deploy model keeps pads between blocks, if windows hold any.

        A few cost less than the gathers that put them in and take them out around each attention.
        """
        return self.padded.area <= CARRY_PADS_UP_TO * self.resolution.area

    @property
    def slots(self) -> int:
        """Number of places between the deploy model's blocks: tokens, and pads if it keeps them."""
        return (self.padded if self.carries_pads else self.resolution).area

    @property
    def block_macs(self) -> int:
        """Multiply-accumulates of a block's matrix products for one image."""
        attention = self.padded.area * (4 * self.dim**2 + 2 * self.window_area * self.dim)
        return attention + self.slots * 2 * self.dim * self.hidden

    @property
    def window_grid(self) -> Size:
        """Number of windows along the rows and the columns of the padded map."""
        rows, columns = self.padded
        return Size(rows // self.window_size.rows, columns // self.window_size.columns)

    @property
    def num_windows(self) -> int:
        """Number of windows in the padded map."""
        return self.window_grid.area

    @property
    def window_area(self) -> int:
        """Number of tokens in a window."""
        return self.window_size.area


@dataclass(frozen=True)
class SwinConfig:
    """The sizes of a Swin Transformer, and its output.

    Attributes:
        family: Family of the model: ``notebook``; ``swin``, arXiv 2103.14030; or ``swinv2``, arXiv
            2111.09883.
        img_size: Side of an image in pixels, or rows and columns; kept as a side if it is a square.
        in_channels: Number of channels of an image; the notebook takes 3.
        patch_size: Side of a patch, in pixels.
        window_size: Side of a window in tokens, one for all stages or one for each, or rows and
            columns for each stage.
        embed_dim: Number of channels of the first stage; each merge doubles it.
        depths: Number of blocks of each stage.
        num_heads: Number of attention heads of each stage.
        mlp_ratio: Channels between the layers of an MLP over those of the stage, one number for all
            stages or one for each.
        patch_norm: Whether a norm follows the patch embedding.
        absolute_positions: Whether a learned value of each place is added to the embedding.
        activation: Activation between the layers of an MLP, such as ``gelu``.
        pretrained_window_sizes: Window sizes of pretraining, one for each stage; V2 only.
        window_rule: Name of the library whose rule fits windows to small maps (``fit_window``).
        pads: Order of the pad to whole windows and the roll of shifted ones, where windows do not
            tile a map and merges do not halve it; ``none`` if such sizes are refused.
        remainder: Treatment of rows and columns of an image that are not a whole patch.
        built_size: Image size, in pixels, that a library's model is built for and that decides
            about its windows at every other size, too; 0 for the image's own.
        stage_norms: Whether each stage's feature map has a norm of its own (backbones of
            detectors).
        out_stages: Stages whose maps are outputs with ``stages``, from 1 up; empty for all.
        final_norm: Whether a norm follows the last stage.
        layer_norm_eps: Epsilon of the LayerNorms of the papers' blocks and of the final one; that
            of the embedding, the merges and the stage maps is 1e-5, as in transformers.
        num_classes: Number of classes of the head; 0 for no head.
        pool: Pooling of tokens to features: their mean (``avg``), their largest values (``max``),
            or half the sum of both (``avgmax``).
        head_hidden: Channels between the two layers of the head; 0 for a head of one layer.
        head_activation: Activation between the two layers of the head; ``none`` without one.
        output: Name of the output: ``logits`` [B, num_classes]; ``features`` [B, C], the pooled
            tokens; ``stages``, every stage's feature map [B, C, H, W]; ``tokens`` [B, N, C] in
            raster order. Empty for ``logits`` with a head, and without one for the family's own
            output: tokens of the notebook, features of the others.

    Raises:
        ConfigError: If the sizes contradict each other, or ``img_size`` cannot be built.
    """

    family: Family = "notebook"
    img_size: int | tuple[int, int] = 224
    in_channels: int = 3
    patch_size: int = 4
    window_size: int | tuple[int | tuple[int, int], ...] = 7
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    mlp_ratio: float | tuple[float, ...] = 4.0
    patch_norm: bool = True
    absolute_positions: bool = False
    activation: Activation = "gelu"
    pretrained_window_sizes: tuple[int | tuple[int, int], ...] = ()
    window_rule: WindowRule = "timm"
    pads: Pads = "none"
    remainder: Remainder = "refuse"
    built_size: int | tuple[int, int] = 0
    stage_norms: bool = False
    out_stages: tuple[int, ...] = ()
    final_norm: bool = True
    layer_norm_eps: float = 1e-5
    num_classes: int = 0
    pool: Pool = "avg"
    head_hidden: int = 0
    head_activation: HeadActivation = "none"
    output: Output | Literal[""] = ""

    def __post_init__(self) -> None:
        if not isinstance(self.depths, tuple):
            raise ConfigError(
                f"depths {shortened(self.depths)}: one number for each stage is needed"
            )
        self._spell_sizes()
        self._check_words()
        self._check_numbers()
        self._check_stages()
        self._check_out_stages()
        self._check_image()
        self._check_head()
        if self.output_name == "logits" and not self.num_classes:
            raise ConfigError("output logits needs a classifier, and this model has none")

    def _check_image(self) -> None:
        """Refuse an image size that the library that the model comes from does not take, either."""
        self._check_built()
        why = self._refusal(self.image)
        if why:
            raise ConfigError(
                f"image size {self.img_size} {why}; {sizes_remedy(self._near_sizes())}"
            )

    def _check_built(self) -> None:
        """Refuse a size that the library cannot build its model for: no image size mends that."""
        try:
            if self.built_size:
                self._fits(self.image)
        except ConfigError as err:
            raise ConfigError(
                f"image size {Size.of(self.built_size)} of the saved model leaves {err}, whatever "
                "the image; correct it where the model says it, such as in config.json"
            ) from err

    def _spell_sizes(self) -> None:
        """Spell squares as sides and one ratio as a number: configs of the same sizes are equal."""
        for field in ("img_size", "built_size"):
            object.__setattr__(self, field, spelt(getattr(self, field), field))
        for field in ("window_size", "pretrained_window_sizes"):
            given = getattr(self, field)
            if isinstance(given, Size):  # unlike a plain tuple: a side for each of two stages
                given = given.plain if given.is_square else (given,) * len(self.depths)
            if isinstance(given, tuple):
                given = tuple(spelt(one, field) for one in given)
            object.__setattr__(self, field, given)
        if isinstance(self.mlp_ratio, tuple) and len(set(self.mlp_ratio)) == 1:
            object.__setattr__(self, "mlp_ratio", self.mlp_ratio[0])

    def _check_numbers(self) -> None:
        if len(self.depths) > MOST_STAGES:
            raise ConfigError(f"depths of {len(self.depths):,} stages: at most {MOST_STAGES}")
        for field, most in MOST.items():
            given = getattr(self, field)
            values = [given] if field in SINGLE else list(numbers(given))
            least = 0 if field in MAY_BE_ZERO else 1
            if not all(type(one) is int and least <= one <= most for one in values):
                raise ConfigError(
                    f"{field} {listed([repr(one) for one in values])}: whole numbers from {least} "
                    f"up to {most:,} are needed"
                )
        for field, most_ratio in MOST_REAL.items():
            given = getattr(self, field)
            each = given if isinstance(given, tuple) and field == "mlp_ratio" else (given,)
            for number in each:
                if type(number) not in (int, float) or not 0 < number <= most_ratio:
                    shown = shortened(repr(number))
                    raise ConfigError(f"{field} {shown}: a number above 0, up to {most_ratio:g}")

    def _check_words(self) -> None:
        for field in SWITCHES:
            if type(getattr(self, field)) is not bool:
                raise ConfigError(f"{field} {shortened(repr(getattr(self, field)))}: true or false")
        for field, known in WORDS.items():
            if getattr(self, field) not in known:
                shown = shortened(repr(getattr(self, field)))
                raise ConfigError(
                    f"{field} {shown} is not known; known are {', '.join(filter(None, known))}"
                )

    def _check_out_stages(self) -> None:
        known = range(1, len(self.depths) + 1)
        if not all(type(stage) is int and stage in known for stage in self.out_stages):
            raise ConfigError(
                f"out_stages {shortened(self.out_stages)}: stages are numbered from 1 to "
                f"{len(known)}"
            )

    def _check_head(self) -> None:
        if self.head_hidden and (self.family == "notebook" or not self.num_classes):
            what = "the notebook's head has one layer" if self.num_classes else "there is no head"
            raise ConfigError(f"head_hidden {self.head_hidden}: {what}; use 0")
        if self.head_activation != "none" and not self.head_hidden:
            raise ConfigError(
                f"head_activation {self.head_activation} stands between two layers, and "
                "head_hidden is 0; use none"
            )

    def _check_stages(self) -> None:
        if len(self.depths) != len(self.num_heads) or not self.depths:
            raise ConfigError(
                f"depths {self.depths} and num_heads {shortened(self.num_heads)} need one entry "
                "for each stage"
            )
        for field in ("window_sizes", "pretrained_window_sizes", "mlp_ratios"):
            values = getattr(self, field)
            absent = field == "pretrained_window_sizes" and not values
            if not absent and len(values) != len(self.depths):
                raise ConfigError(
                    f"{field} {shortened(values)} need one entry for each of the stages"
                )
        if any(hidden_channels(self.embed_dim << i, r) < 1 for i, r in enumerate(self.mlp_ratios)):
            raise ConfigError(f"mlp_ratio {self.mlp_ratio} leaves the MLP without channels")
        self._check_notebook()
        for stage, heads in enumerate(self.num_heads):
            if (self.embed_dim << stage) % heads:
                raise ConfigError(
                    f"num_heads {heads} of stage {stage} does not divide its "
                    f"{self.embed_dim << stage} channels"
                )

    def _check_notebook(self) -> None:
        if self.family != "notebook":
            return
        if any(depth % 2 for depth in self.depths):
            raise ConfigError(f"depths {self.depths}: blocks come in pairs, use even numbers")
        if not all(window.is_square for window in self.window_sizes):
            raise ConfigError(f"window_size {self.window_size}: the notebook's windows are squares")
        if self.in_channels != 3:
            raise ConfigError(f"in_channels {self.in_channels}: the notebook takes 3, RGB")
        for field, value in NOT_NOTEBOOK.items():
            if getattr(self, field) != value:
                raise ConfigError(
                    f"{field} {getattr(self, field)}: the notebook's model has {value}"
                )

    @property
    def image_text(self) -> str:
        """The size of an image in words, with the number of channels if it is not three."""
        size = f"{self.img_size} px"
        return size if self.in_channels == 3 else f"{size}, {channels_text(self.in_channels)}"

    @property
    def always_shift(self) -> bool:
        """Whether windows are shifted also where one covers the map."""
        return self.window_rule == "always"

    @property
    def image(self) -> Size:
        """Size of an image, in pixels: ``img_size`` as rows and columns."""
        return Size.of(self.img_size)

    @property
    def window_sizes(self) -> tuple[Size, ...]:
        """Window size configured for each stage; a stage with a smaller map has a smaller one."""
        if isinstance(self.window_size, tuple):
            return tuple(map(Size.of, self.window_size))
        return (Size.square(self.window_size),) * len(self.depths)

    @property
    def mlp_ratios(self) -> tuple[float, ...]:
        """Channels between the layers of an MLP over those of the stage, for each stage."""
        if isinstance(self.mlp_ratio, tuple):
            return self.mlp_ratio
        return (self.mlp_ratio,) * len(self.depths)

    def _maps(self, image: Size) -> list[Size]:
        """Return the size of the token map of each stage for an image, in tokens."""
        maps = [first_map(image, self.patch_size, self.remainder)]
        if self.family == "notebook":  # its code has rows and columns from the number of tokens
            maps = [Size.square(math.isqrt(maps[0].area))]
        for _ in self.depths[1:]:
            maps.append(merged_map(maps[-1]))
        return maps

    def _fits(self, image: Size) -> list[WindowFit]:
        """Return the windows of each stage as built.

        Raises:
            ConfigError: If the library itself cannot run such an image.
        """
        rule: WindowRule = "always" if self.family == "notebook" else self.window_rule
        built = Size.of(self.built_size or image)
        maps = self._maps(built)
        if rule == "huggingface-v2":  # its code counts the tokens of whole patches and merges
            rows = [built.rows // self.patch_size >> stage for stage in range(len(maps))]
            maps = list(map(Size.square, rows))  # columns have no say
        if min(map(min, maps)) < 1:
            raise ConfigError(
                f"a map without tokens at {built} px, the size that the library fits its windows to"
            )
        windows = zip(maps, self.window_sizes, strict=True)
        return [fit_window(rule, tokens=tokens, window=window) for tokens, window in windows]

    def _refusal(self, image: Size) -> str:
        """Say why an image size cannot be built; empty if it can."""
        maps = self._maps(image)
        windows = "/".join(
            f"{rows} x {columns}" for rows, columns in dict.fromkeys(self.window_sizes)
        )
        patches = any(side % self.patch_size for side in image) and self.remainder == "refuse"
        first = first_map(image, self.patch_size, self.remainder)
        if self.family == "notebook" and first.area != maps[0].area:
            return (
                f"has {first.rows} x {first.columns} patches: the notebook's code takes the root "
                "of the number of tokens for rows and columns, which is no whole number"
            )
        odd = any(side % 2 for tokens in maps[:-1] for side in tokens)
        if min(map(min, maps)) < 1 and not (patches or self.pads == "none"):
            return f"has no whole patch of {self.patch_size} x {self.patch_size} px"
        if min(map(min, maps)) < 1 or patches or (odd and self.pads == "none"):
            return f"cannot be tiled by windows of {windows} tokens in every stage"
        try:
            fits = self._fits(image)
        except ConfigError as err:
            return f"leaves {err}"
        tiled = all(
            padded(tokens, fit.window) == tokens for tokens, fit in zip(maps, fits, strict=True)
        )
        if not tiled and self.pads == "none":
            return f"cannot be tiled by windows of {windows} tokens in every stage"
        return ""

    def legal_img_sizes(self, count: int) -> tuple[int, ...]:
        """Return the sides of the ``count`` smallest square images that can be built.

        Sides are in pixels; there may be fewer up to ``MOST_SIDE``.
        """
        step = self.patch_size << (len(self.depths) - 1)
        legal = (size for size in range(step, MOST_SIDE + 1, step) if self._tiles_square(size))
        return tuple(itertools.islice(legal, count))

    def near_img_sizes(self, img_size: int, count: int = 4) -> tuple[int, ...]:
        """Return the sides of the ``count`` square images nearest in size that can be built.

        Sides are in pixels, nearest first; there may be fewer than ``count`` up to
        ``MOST_PROPOSED``.
        """
        step = self.patch_size << (len(self.depths) - 1)
        period = step * math.lcm(
            *itertools.chain(*self.window_sizes)
        )  # windows tile every multiple of it
        last = min(MOST_PROPOSED, max(img_size, 0) + count * period)
        sizes = filter(self._tiles_square, range(step, last + 1, step))
        return nearest(sizes, img_size, count)

    def _tiles_square(self, side: int) -> bool:
        return not self._refusal(Size.square(side))

    def _near_sizes(self) -> tuple[int | Size, ...]:
        """Return the sizes nearest to the image's; for a rectangle, of its rows and columns."""
        if isinstance(self.img_size, int):
            return self.near_img_sizes(self.img_size)
        sides = [self.near_img_sizes(side) for side in self.image]
        legal = (size for size in near_rectangles(sides, self.image, 16) if not self._refusal(size))
        return tuple(itertools.islice(legal, 4))

    @property
    def stages(self) -> tuple[StageSpec, ...]:
        """The geometry of each stage, first to last."""
        return tuple(self._stage(index) for index in range(len(self.depths)))

    def _stage(self, index: int) -> StageSpec:
        resolution = self._maps(self.image)[index]
        fit = self._fits(self.image)[index]
        pretrained = self.pretrained_window_sizes
        return StageSpec(
            resolution=resolution,
            dim=self.embed_dim << index,
            depth=self.depths[index],
            num_heads=self.num_heads[index],
            window_size=fit.window,
            shift_size=fit.shift,
            pretrained_window_size=Size.of(pretrained[index]) if pretrained else NONE,
            roll_first=self.pads == "roll-then-pad",
            hidden=hidden_channels(self.embed_dim << index, self.mlp_ratios[index]),
        )

    @property
    def gmacs(self) -> float:
        """Multiply-accumulates of the deploy model's matrix products for one image, in billions.

        They are those of its output: a head of the logits alone, and no stage after the last whose
        map is an output. Pads count where they are computed: in every attention, and in a stage
        that carries them in every layer.
        """
        stages = self.stages
        if self.output_name == "stages":
            stages = stages[: max(self.shown_stages) + 1]
        patches = stages[0].resolution.area
        total = patches * self.in_channels * self.patch_size**2 * self.embed_dim
        for index, stage in enumerate(stages):
            if index:
                total += stage.slots * 2 * stage.dim**2  # the merge: 4 * dim / 2 channels to dim
            total += stage.depth * stage.block_macs
        if self.output_name == "logits":
            dim, hidden = stages[-1].dim, self.head_hidden
            total += hidden * (dim + self.num_classes) if hidden else dim * self.num_classes
        return total / 1e9

    @property
    def output_name(self) -> Output:
        """Name of the model's output; see ``output``."""
        if self.output:
            return self.output
        if self.num_classes:
            return "logits"
        return "tokens" if self.family == "notebook" else "features"

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs: one, or one for each stage of ``shown_stages``."""
        if self.output_name == "stages":
            return tuple(f"stage{index + 1}" for index in self.shown_stages)
        return (self.output_name,)

    @property
    def shown_stages(self) -> tuple[int, ...]:
        """Indices, from 0 up, of the stages whose maps are outputs with ``stages``."""
        if not self.out_stages:
            return tuple(range(len(self.depths)))
        return tuple(sorted({stage - 1 for stage in self.out_stages}))

    def to_dict(self) -> dict[str, Any]:
        """Return this config as JSON values; ``from_dict`` reads it back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SwinConfig:
        """Return the config of values from ``to_dict`` or from JSON.

        Raises:
            ConfigError: If a field is unknown, or the sizes contradict each other.
        """
        try:
            fields = {key: _tuples(value) for key, value in values.items()}
            if fields.pop("always_shift", False):  # so it is spelt in files of 0.2.0
                fields["window_rule"] = "always"
            return cls(**fields)
        except (TypeError, AttributeError) as err:
            raise ConfigError(f"not a model config: {shortened(err)}") from err


def _tuples(value: Any) -> Any:  # noqa: ANN401 - a JSON value of any type
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
