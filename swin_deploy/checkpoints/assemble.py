"""A state dict in our names from one in another dialect; every key is accounted for."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from exporters.errors import CheckpointError
from exporters.text_files import listed
from swin_deploy.checkpoints.dialect import EncoderTensors
from swin_deploy.checkpoints.nearest_names import missing_keys
from swin_deploy.checkpoints.positions import POSITIONS, positions_map
from swin_deploy.config import SwinConfig
from swin_deploy.config.windows import (
    relative_coords_table,
    relative_position_index,
    shifted_window_mask,
)
from swin_deploy.reference import build_reference
from swin_deploy.reference.swin import MASKED

# Saved coordinates may be rounded to half precision; another window differs by far more.
COORDS_TOLERANCE = 2e-3
QKV_BIASES = ("attn.qkv.bias", "attn.q_bias", "attn.v_bias")


def assemble(named: EncoderTensors, config: SwinConfig) -> tuple[dict[str, Tensor], list[str]]:
    """Build the state dict of ``config``'s reference model.

    Args:
        named: The encoder's tensors in their dialect.
        config: Config of the model that was saved.

    Returns:
        Our name to tensor, and notes on what was filled in or ignored. Absolute positions are the
        saved map [1, C, H, W], which ``resize_tables`` brings to the image size.

    Raises:
        CheckpointError: If a key is missing or unknown, a shape differs, or a saved buffer differs
            from what the config gives; the message names the first such keys.
    """
    with torch.device("meta"):
        wanted = {name: value.shape for name, value in build_reference(config).state_dict().items()}
    positions = positions_map(*named.saved(POSITIONS)) if wanted.pop(POSITIONS, None) else None
    filled, notes = _absent_by_design(named, config, set(wanted))
    expected = {ours: named.names(ours) for ours in wanted if ours not in filled}
    problems = _Problems(named)
    state: dict[str, Tensor] = {}
    for ours, names in expected.items():
        joined = problems.join(names, wanted[ours])
        if joined is not None:
            state[ours] = joined
    used = {name for names in expected.values() for name in names}
    derived = _derived(named, config)
    if positions is not None:
        problems.check_channels(named.names(POSITIONS)[0], positions, config.embed_dim)
        state[POSITIONS] = positions
        used.update(named.names(POSITIONS))
    unused = [name for name in named.tensors if named.dialect.is_unused(name)]
    known = used | derived.keys() | set(unused) | set(hidden := _hidden_norms(named, config))
    problems.unknown = [named.full(name) for name in named.tensors if name not in known]
    problems.raise_any()
    notes += _compare(named, derived)
    if unused:
        full = [named.full(name) for name in unused]
        notes.append(f"ignored what only training uses: {listed(full)}")
    if hidden:
        notes.append(f"ignored norms of stages that are not given: {listed(hidden)}")
    for ours, value in filled.items():
        state[ours] = torch.full(wanted[ours], value)
    return state, notes


def _absent_by_design(
    named: EncoderTensors, config: SwinConfig, wanted: set[str]
) -> tuple[dict[str, float], list[str]]:
    """Return the parameters that the checkpoint lacks by design, with their values, and notes."""
    filled: dict[str, float] = {}
    notes: list[str] = []
    biases = [name for name in wanted if name.endswith(QKV_BIASES)]
    if not any(named.has(name) for name in biases):
        filled |= dict.fromkeys(biases, 0.0)
        notes.append("no bias of q, k and v in the checkpoint: zeros")
    head = [
        name
        for name in wanted
        if name.startswith("head.")
        and name.endswith(".bias")
        and not named.has(name)
        and named.has(f"{name.removesuffix('bias')}weight")
    ]
    if head:
        filled |= dict.fromkeys(head, 0.0)
        notes.append("a layer of the head has no bias in the checkpoint: zeros")
    return filled, notes


def _hidden_norms(named: EncoderTensors, config: SwinConfig) -> list[str]:
    """Return the names of saved norms of stages whose maps the model does not give."""
    hidden = set(range(len(config.depths))) - set(config.shown_stages)
    names = [named.names(f"norm{s}.{leaf}")[0] for s in hidden for leaf in ("weight", "bias")]
    return [name for name in names if name in named.tensors]


class _Problems:
    """Missing keys, unknown keys and wrong shapes, collected for one error message."""

    def __init__(self, named: EncoderTensors) -> None:
        self.named = named
        self.missing: list[str] = []
        self.unknown: list[str] = []
        self.shapes: list[str] = []

    def join(self, names: tuple[str, ...], shape: torch.Size) -> Tensor | None:
        """Join the named tensors along their rows to ``shape``; None if one is missing or wrong."""
        tensors = [self.named.tensors.get(name) for name in names]
        self.missing += [
            self.named.full(name)
            for name, tensor in zip(names, tensors, strict=True)
            if tensor is None
        ]
        part = torch.Size((shape[0] // len(names), *shape[1:]))
        wrong = [
            f"{self.named.full(name)} is {list(tensor.shape)}, not {list(part)}"
            for name, tensor in zip(names, tensors, strict=True)
            if tensor is not None and tensor.shape != part
        ]
        self.shapes += wrong
        found = [tensor for tensor in tensors if tensor is not None]
        if wrong or len(found) < len(names):
            return None
        return torch.cat(found) if len(found) > 1 else found[0]

    def check_channels(self, name: str, positions: Tensor, channels: int) -> None:
        """Note a map of positions [1, C, H, W] of another number of channels."""
        if positions.shape[1] != channels:
            found = f"{self.named.full(name)} has {positions.shape[1]} channels, not {channels}"
            self.shapes.append(found)

    def raise_any(self) -> None:
        problems = [
            f"{kind}: {listed(sorted(names))}"
            for kind, names in (("unknown keys", self.unknown), ("wrong shapes", self.shapes))
            if names
        ]
        if self.missing:
            problems = [missing_keys(self.missing, self._present(), *problems)]
        if problems:
            raise CheckpointError(f"the checkpoint does not fit its model; {'; '.join(problems)}")

    def _present(self) -> list[str]:
        return [self.named.full(name) for name in self.named.tensors]


def derived_buffers(config: SwinConfig) -> Iterator[tuple[str, Tensor]]:
    """Yield name and value of a reference model's buffers, which its sizes alone determine."""
    for index, stage in enumerate(config.stages):
        window, mask = stage.window_size, shifted_window_mask(stage, MASKED)
        parts = {"attn.relative_position_index": relative_position_index(window)}
        if config.family == "swinv2":
            coords = relative_coords_table(window, stage.pretrained_window_size)
            parts["attn.relative_coords_table"] = coords
        for block in range(stage.depth):
            start = f"layers.{index}.blocks.{block}."
            yield from ((start + part, value) for part, value in parts.items())
            if block % 2 and mask is not None:
                yield start + "attn_mask", mask


def _derived(named: EncoderTensors, config: SwinConfig) -> dict[str, Tensor]:
    """Recompute the buffers and V2's zero biases of k that libraries save, by dialect name."""
    derived = {named.names(ours)[0]: value for ours, value in derived_buffers(config)}
    if config.family == "swinv2":
        for index, stage in enumerate(config.stages):
            for block in range(stage.depth):
                name = named.names(f"layers.{index}.blocks.{block}.attn.k_bias")[0]
                derived[name] = torch.zeros(stage.dim)
    return derived


def _compare(named: EncoderTensors, derived: dict[str, Tensor]) -> list[str]:
    """Refuse saved buffers that differ from what the config gives.

    Returns:
        A note on values that differ but that the library itself sets to zero, if there are any.

    Raises:
        CheckpointError: If any other value differs; the message names the first.
    """
    differ = [
        name
        for name, value in derived.items()
        if name in named.tensors and not _equal(named.tensors[name], value)
    ]
    zeroed = [named.full(name) for name in differ if name.endswith(named.dialect.zeroed)]
    wrong = [named.full(name) for name in differ if not name.endswith(named.dialect.zeroed)]
    if wrong:
        raise CheckpointError(
            f"the checkpoint holds buffers that differ from what its sizes give: "
            f"{listed(wrong)}; another window or image size, or a changed model"
        )
    if not zeroed:
        return []
    source = named.dialect.source
    return [f"not zero, but {source}'s model takes zero for it, as is done here: {listed(zeroed)}"]


def _equal(saved: Tensor, value: Tensor) -> bool:
    if saved.numel() != value.numel():
        return False
    difference = (saved.reshape(value.shape).double() - value.double()).abs().max()
    return bool(difference <= (COORDS_TOLERANCE if value.is_floating_point() else 0))
