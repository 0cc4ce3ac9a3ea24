"""The definition of a dialect: all that is particular to a source of checkpoints."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from exporters.text_files import listed
from swin_deploy.checkpoints.resize import BICUBIC, TableResize
from swin_deploy.config import Family, Output, SwinConfig
from swin_deploy.config.fit import Pads, Remainder, WindowRule
from swin_deploy.config.sizes import Windows
from swin_deploy.config.swin import MOST_STAGES
from swin_deploy.images.class_names import ClassNames
from swin_deploy.images.rules import Rule

if TYPE_CHECKING:  # commands know the sources by their dialects, and torch takes seconds
    from torch import Tensor

BLOCK_NAME = re.compile(r"layers\.(\d+)\.blocks\.(\d+)\.(.*)")
MERGE_NAME = re.compile(r"layers\.(\d+)\.downsample\.(.*)")
# Our names whose own in a dialect start with its encoder's modules.
ENCODER = (
    "patch_embed.proj.weight",
    "norm.weight",
    *(
        name.format(stage)
        for stage in range(MOST_STAGES)
        for name in ("layers.{}.blocks.0.x", "layers.{}.downsample.x", "norm{}.x")
    ),
)


def respelt(name: str, table: Mapping[str, str]) -> str:
    """Replace the start of a name by another library's, by the first entry that fits.

    Args:
        name: One of our names, or the end of one.
        table: Start of our names to the start of the library's.

    Returns:
        The new name; the same one if no entry fits.
    """
    for ours, theirs in table.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


@dataclass(frozen=True)
class CheckpointHints:
    """Facts about a model that do not come from its weights; None or empty if unknown.

    Attributes:
        origin: Name of the file that gives them, for messages.
        sizes: Fields of ``SwinConfig`` that the weights must show too.
        img_size: Image side in pixels, or rows and columns.
        window_size: Window of all stages or of each, as ``stage_windows`` reads it.
        pretrained_window_sizes: Window of V2's pretraining of each stage, 0 for none.
        always_shift: True if windows are shifted also where one covers the map; None if not told.
        out_stages: Field of ``SwinConfig``, as is ``output``.
        qkv_bias: True if q, k and v have a bias.
        built_size: Image size, in pixels, that decides about windows at every size; else None.
        settings: Fields of ``SwinConfig`` that no tensor shows, such as ``activation``.
        remarks: Notes on anything else that was found, for the user to read.
    """

    origin: str = ""
    sizes: dict[str, Any] = dataclasses.field(default_factory=dict)
    img_size: int | tuple[int, int] | None = None
    window_size: Windows | None = None
    pretrained_window_sizes: tuple[int | tuple[int, int], ...] | None = None
    always_shift: bool | None = None
    out_stages: tuple[int, ...] = ()
    qkv_bias: bool | None = None
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    output: Output | Literal[""] = ""
    built_size: int | tuple[int, int] | None = None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class SideFiles:
    """The metadata of a weights file, and the JSON files next to it.

    Attributes:
        metadata: Texts by name in a safetensors file; empty for other files.
        config_json: Content of the ``config.json``, or an empty dict.
        config_path: Path of the ``config.json``, or None if there is none.
        preprocessor: Content of the ``preprocessor_config.json`` or ``processor_config.json``, or
            an empty dict.
        training: Content of what a training script saved in the file next to the weights
            (``args``, ``config``, ``meta``, ...), by key; see ``training``.
        training_file: Name of that file, for messages.
        tags_path: Path of a tagger's ``selected_tags.csv``, or None if there is none.
        facts: Facts that a module in memory tells by itself; None for the ``config.json``'s.
    """

    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    config_json: dict[str, Any] = dataclasses.field(default_factory=dict)
    config_path: Path | None = None
    preprocessor: dict[str, Any] = dataclasses.field(default_factory=dict)
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    training_file: str = ""
    tags_path: Path | None = None
    facts: CheckpointHints | None = None


class ReadHints(Protocol):
    """A function that reads a library's ``config.json``."""

    def __call__(self, config_json: dict[str, Any], *, where: str) -> CheckpointHints: ...


@dataclass(frozen=True)
class Dialect:
    """One source of checkpoints: its names for our tensors, and what its library does with them.

    A new source is a file with such a value and its place in ``known.DIALECTS``: the commands,
    their messages and the reading take everything from here. A source may have several dialects,
    one a layout of names; they differ in names only, and the first that applies is taken. Nothing
    here may import torch when it is imported: commands list the sources before they need it.

    Attributes that recognise it:
        source: Name of the source, as ``--source`` takes it.
        summary: Description of what may be given, for ``swin-deploy models``.
        family: Family of its models: ``swin`` for V1 and V2, which their tensors tell apart, or
            ``notebook``.
        key_prefix: Start of a name of the encoder that no other source has, such as the first
            block's attention. Whatever stands before it in a file is the encoder's prefix.
        whole: True if no prefix may stand before the encoder; ``key_prefix`` is then a part of a
            name, and its own reading refuses names that are not its own.
        beside: Name that must stand next to the encoder; without one ``key_prefix`` is enough.
        fits: Function of the encoder's names and ``config.json`` that tells whether they may be
            its own, if several sources have the same ``key_prefix``.
        told_by: Difference between these sources, for the message if the names fit several.

    Attributes that say what its tensors are:
        source_keys: Function of one of our names, or of the start of one, that gives the source's:
            one name, or several whose tensors are joined along their rows. Our names are the
            authors'.
        prepare: Function that splits tensors that hold several of ours, or puts names in their
            usual place; names are without prefix.
        wrapper_pattern: Pattern of the encoder's own name at the end of the prefix, which
            ``sibling_prefixes`` and ``beside`` do not have before them.
        sibling_prefixes: Starts of names that stand next to the encoder but belong to the model.
        normless: Pattern of the prefix of encoders whose classifier has no norm before its head.
        unused: Names that only training uses; one that ends in a dot is the start of several.
        aside: Starts of names under the prefix that are of a decoder, if it has the first of them.
        zeroed: Ends of names whose values the library sets to zero when it runs.

    Attributes that say what its library does:
        hints: Function that reads its ``config.json``; None if it has no such file.
        usual_weights: Function that says, for the key of one set of weights among several and
            whether they are averaged, why its library takes them; empty where it has no habit.
        window_rules: For V1 and V2: the ``SwinConfig.window_rule`` of its code.
        pads: For V1 and V2: its ``SwinConfig.pads``, ``none`` if it takes only what windows tile.
        remainder: Its ``SwinConfig.remainder``.
        table_resize: Interpolation of V1's position bias tables to another window.
        bare_patches: True if its models may have no norm after the patch embedding.
        library: Package whose own model ``--original`` compares with; ``original/build.py`` has
            the builder of each. Empty where there is none.
        no_library: Reason why there is none, which the proof tells; empty if none is needed.

    Attributes about pictures:
        library_rule: Function of a config and its name in words that gives the library's
            preprocessing for its own model of these sizes.
        file_rule: Function that reads the preprocessing from the files next to the weights; it
            gives None if they do not have it.
        steps_rule: Function that reads the preprocessing from any JSON file of the library, given
            its content and name; it gives None if the file is not the library's.
        class_names: Function of the files next to the weights and the number of classes that gives
            the names; None for those in ``config.json``, else ImageNet's for published models.
    """

    source: str
    key_prefix: str
    source_keys: Callable[[str], tuple[str, ...]]
    library_rule: Callable[[SwinConfig, str], Rule]
    summary: str = ""
    family: Literal["notebook", "swin"] = "swin"
    whole: bool = False
    beside: str = ""
    fits: Callable[[Collection[str], Mapping[str, Any]], bool] = lambda _names, _config_json: True
    told_by: str = ""
    prepare: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict
    wrapper_pattern: re.Pattern[str] = re.compile(r"(?!)")
    sibling_prefixes: tuple[str, ...] = ()
    normless: re.Pattern[str] = re.compile(r"(?!)")
    unused: tuple[str, ...] = ("mask_token",)
    zeroed: tuple[str, ...] = ()
    aside: tuple[str, ...] = ()
    hints: ReadHints | None = None
    usual_weights: Callable[[str, bool], str] = lambda _key, _averaged: ""
    window_rules: tuple[WindowRule, WindowRule] = ("timm", "timm")
    pads: tuple[Pads, Pads] = ("none", "none")
    remainder: Remainder = "refuse"
    table_resize: TableResize = BICUBIC
    bare_patches: bool = False
    library: str = ""
    no_library: str = ""
    file_rule: Callable[[SideFiles], Rule | None] = lambda _files: None
    steps_rule: Callable[[dict[str, Any], str], Rule | None] = lambda _values, _where: None
    class_names: Callable[[SideFiles, int], ClassNames | None] | None = None

    def applies(self, names: Iterable[str], prefix: str) -> bool:
        """Tell whether the encoder under ``prefix`` in these names is of this dialect."""
        known = set(names)
        beside = self.wrapper_pattern.sub("", prefix) + self.beside
        inside = self.whole or any(name.startswith(prefix + self.key_prefix) for name in known)
        return inside and (not self.beside or beside in known)

    def is_unused(self, name: str) -> bool:
        """Tell whether only training uses a tensor, given by its name without prefix."""
        starts = tuple(start for start in self.unused if start.endswith("."))
        return name in self.unused or name.startswith(starts)

    def prefixes(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the prefixes of this dialect's encoders in these names, each once, in order."""
        found = [(head, here) for head, here, _ in (n.partition(self.key_prefix) for n in names)]
        if self.whole:
            return ("",) if any(here for _, here in found) else ()
        heads = [head for head, here in found if here and (not head or head.endswith("."))]
        return tuple(dict.fromkeys(heads))

    def geometry(self, family: Family) -> dict[str, Any]:
        """Return the fields of ``SwinConfig`` that say what the library does with odd sizes."""
        second = family == "swinv2"
        return {
            "window_rule": self.window_rules[second],
            "pads": self.pads[second],
            "remainder": self.remainder,
        }


def encoder_modules(dialect: Dialect) -> frozenset[str]:
    """Return the first words of the names of an encoder's own modules, without its classifier's."""
    return frozenset(dialect.source_keys(ours)[0].partition(".")[0] for ours in ENCODER)


@dataclass(frozen=True)
class EncoderTensors:
    """The tensors of one encoder, and their names in a dialect.

    Attributes:
        dialect: The dialect of their names.
        prefix: Start of the encoder's names in the file.
        tensors: Tensors by name without the prefix, after ``Dialect.prepare``.
        outside: Names in the file that are not the encoder's.
    """

    dialect: Dialect
    prefix: str
    tensors: dict[str, Tensor]
    outside: tuple[str, ...] = ()

    def full(self, name: str) -> str:
        """Return a name with its prefix, as it is in the file."""
        if name.startswith(self.dialect.sibling_prefixes):
            return self.dialect.wrapper_pattern.sub("", self.prefix) + name
        return self.prefix + name

    def names(self, ours: str) -> tuple[str, ...]:
        """Return the dialect's names, without prefix, for one of ours."""
        return self.dialect.source_keys(ours)

    def find(self, ours: str) -> Tensor | None:
        """Return the first of the tensors that make up one of ours; None if it is absent."""
        return self.tensors.get(self.names(ours)[0])

    def saved(self, ours: str) -> tuple[Tensor | None, str]:
        """Return ``find`` of one of our names, and its full name in the file."""
        return self.find(ours), self.full(self.names(ours)[0])

    def has(self, ours: str) -> bool:
        """Tell whether the encoder has any of the tensors that make up one of ours."""
        return any(name in self.tensors for name in self.names(ours))


def take_encoder(dialect: Dialect, tensors: dict[str, Tensor], prefix: str) -> EncoderTensors:
    """Take the tensors of the encoder under ``prefix``, and those of its siblings.

    Args:
        dialect: The dialect of the names.
        tensors: All tensors of the file, by name.
        prefix: Start of the encoder's names.
    """
    beside = dialect.wrapper_pattern.sub("", prefix)
    decoder = [prefix + start for start in dialect.aside[:1]]
    aside = dialect.aside if any(name.startswith(tuple(decoder)) for name in tensors) else ()
    inside: dict[str, Tensor] = {}
    outside: list[str] = []
    for name, tensor in tensors.items():
        rest = name.removeprefix(beside)
        if (
            beside != prefix
            and name.startswith(beside)
            and rest.startswith(dialect.sibling_prefixes)
        ):
            inside[rest] = tensor
        elif name.startswith(prefix) and not name.removeprefix(prefix).startswith(aside):
            inside[name.removeprefix(prefix)] = tensor
        else:
            outside.append(name)
    return EncoderTensors(dialect, prefix, dialect.prepare(inside), tuple(outside))


def _part(name: str, prefix: str) -> str:
    """Return the part of a model that a name is of: its first word, after the encoder's own."""
    inside = name.removeprefix(prefix)
    start = prefix if inside != name else ""
    word, dot, _ = inside.partition(".")
    # MMDetection's averaging hook saves names without dots.
    return "ema_*" if word.startswith("ema_") and not dot else f"{start}{word}.*"


def outside_note(named: EncoderTensors) -> list[str]:
    """Return a note on the tensors outside the encoder, or an empty list if there are none."""
    if not named.outside:
        return []
    top = dict.fromkeys(_part(name, named.prefix) for name in named.outside)
    prefix = named.prefix.removesuffix(".") or "the encoder"
    parts = listed(list(top))
    return [f"ignored {len(named.outside)} tensors outside the encoder {prefix}: {parts}"]
