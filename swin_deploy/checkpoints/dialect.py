"""What a dialect is: the names that another library gives to our tensors."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from exporters.text_files import listed
from swin_deploy.config import Output

BLOCK_NAME = re.compile(r"layers\.(\d+)\.blocks\.(\d+)\.(.*)")
MERGE_NAME = re.compile(r"layers\.(\d+)\.downsample\.(.*)")


@dataclass(frozen=True)
class Dialect:
    """How a library names the tensors of a Swin Transformer.

    Attributes:
        source: One of ``sources.SOURCES``.
        key_prefix: Start of a name that no other dialect has.
        source_keys: The library's names for one of ours (or for the start of one): one name, or
            several whose tensors are joined, rows first.
        pads: For V1 and V2: maps smaller than a window are padded, where others shrink the window.
        prepare: Splits tensors that hold several of ours; names are without prefix.
        sibling_prefixes: Starts of names that stand beside the encoder but belong to the model.
        wrapper_pattern: Name of the encoder beside which they stand.
        beside: Name that must stand beside the encoder; without one the key_prefix is enough.
        unused: Names that only training uses.
        zeroed: Ends of names whose values the library sets to zero when it runs.
    """

    source: str
    key_prefix: str
    source_keys: Callable[[str], tuple[str, ...]]
    pads: tuple[bool, bool] = (False, False)
    prepare: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict
    sibling_prefixes: tuple[str, ...] = ()
    wrapper_pattern: re.Pattern[str] = re.compile(r"(?!)")
    beside: str = ""
    unused: tuple[str, ...] = ("mask_token",)
    zeroed: tuple[str, ...] = ()

    def applies(self, names: Iterable[str], prefix: str) -> bool:
        """Tell whether the encoder under ``prefix`` has these names."""
        known = set(names)
        beside = self.wrapper_pattern.sub("", prefix) + self.beside
        inside = any(name.startswith(prefix + self.key_prefix) for name in known)
        return inside and (not self.beside or beside in known)


@dataclass(frozen=True)
class CheckpointHints:
    """What is known of a model besides its weights; None and empty where nothing is.

    Attributes:
        origin: Where it is known from, for messages.
        sizes: Fields of ``SwinConfig`` that the weights must show too.
        window_size: Of all stages or of each.
        always_shift: See ``SwinConfig``, and ``out_stages`` and ``output`` too.
        qkv_bias: Whether q, k and v have a bias.
        remarks: What else was found, for the user to read.
    """

    origin: str = ""
    sizes: dict[str, Any] = dataclasses.field(default_factory=dict)
    img_size: int | tuple[int, int] | None = None
    window_size: int | tuple[int | tuple[int, int], ...] | None = None
    pretrained_window_sizes: tuple[int | tuple[int, int], ...] | None = None
    always_shift: bool = False
    out_stages: tuple[int, ...] = ()
    qkv_bias: bool | None = None
    output: Output | Literal[""] = ""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class EncoderTensors:
    """The tensors of one encoder, and their names in a dialect.

    Attributes:
        prefix: What stands before every name in the file.
        tensors: By name without the prefix, prepared.
        outside: Names in the file that are not the encoder's.
    """

    dialect: Dialect
    prefix: str
    tensors: dict[str, Tensor]
    outside: tuple[str, ...] = ()

    def full(self, name: str) -> str:
        """The name in the file."""
        if name.startswith(self.dialect.sibling_prefixes):
            return self.dialect.wrapper_pattern.sub("", self.prefix) + name
        return self.prefix + name

    def names(self, ours: str) -> tuple[str, ...]:
        """Names without prefix for one of ours."""
        return self.dialect.source_keys(ours)

    def find(self, ours: str) -> Tensor | None:
        """The first of the tensors that make up one of ours, if it is there."""
        return self.tensors.get(self.names(ours)[0])

    def has(self, ours: str) -> bool:
        """Whether any tensor that makes up one of ours is there."""
        return any(name in self.tensors for name in self.names(ours))


def find_prefixes(names: Iterable[str], key_prefix: str) -> tuple[str, ...]:
    """What stands before ``key_prefix`` in the names that hold it, each once, in order."""
    found = (name.partition(key_prefix) for name in names)
    prefixes = [head for head, here, _ in found if here and (not head or head.endswith("."))]
    return tuple(dict.fromkeys(prefixes))


def take_encoder(dialect: Dialect, tensors: dict[str, Tensor], prefix: str) -> EncoderTensors:
    """The tensors of the encoder under ``prefix``, with what belongs to it beside it."""
    beside = dialect.wrapper_pattern.sub("", prefix)
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
        elif name.startswith(prefix):
            inside[name.removeprefix(prefix)] = tensor
        else:
            outside.append(name)
    return EncoderTensors(dialect, prefix, dialect.prepare(inside), tuple(outside))


def outside_note(named: EncoderTensors) -> list[str]:
    """What was left aside, in words."""
    if not named.outside:
        return []
    top = dict.fromkeys(name.partition(".")[0] for name in named.outside)
    prefix = named.prefix.removesuffix(".") or "the encoder"
    parts = listed([f"{name}.*" for name in top])
    return [f"ignored {len(named.outside)} tensors outside the encoder {prefix}: {parts}"]
