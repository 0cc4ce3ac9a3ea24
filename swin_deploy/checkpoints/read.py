"""The library that a checkpoint comes from, and its model in our names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

from torch import Tensor

from exporters.errors import CheckpointError, ConfigError
from exporters.text_files import listed, shortened
from swin_deploy.checkpoints import notebook
from swin_deploy.checkpoints.assemble import assemble
from swin_deploy.checkpoints.detectors import stored_normalisation
from swin_deploy.checkpoints.dialect import (
    CheckpointHints,
    Dialect,
    EncoderTensors,
    SideFiles,
    outside_note,
    take_encoder,
)
from swin_deploy.checkpoints.folders import CheckpointFiles, read_content
from swin_deploy.checkpoints.heads import OwnHead, take_head
from swin_deploy.checkpoints.infer_config import (
    ConfigRequest,
    image_size,
    own_config,
    wanted_config,
)
from swin_deploy.checkpoints.infer_sizes import infer_sizes
from swin_deploy.checkpoints.known import DIALECTS, SOURCES
from swin_deploy.checkpoints.other_models import other_model, refuse_changed
from swin_deploy.checkpoints.pictures import pictures_of
from swin_deploy.checkpoints.plain_names import unpruned
from swin_deploy.checkpoints.resize import resize_tables
from swin_deploy.checkpoints.semantic import with_semantic_weight
from swin_deploy.checkpoints.training import with_training
from swin_deploy.checkpoints.variants import check_agreement, described, shift_notes
from swin_deploy.checkpoints.weights import Encoder, choose_weights
from swin_deploy.config import HeadActivation, Output, Size, SwinConfig, variant
from swin_deploy.config.activations import Activation
from swin_deploy.config.assumptions import Assumption
from swin_deploy.config.pads import pad_notes
from swin_deploy.config.sizes import Windows, stage_windows, windows_text
from swin_deploy.config.swin import Pool
from swin_deploy.images.class_names import ClassNames
from swin_deploy.images.preprocessing import Preprocessing, PreprocessingChoice
from swin_deploy.images.scores import Scores


@dataclass(frozen=True)
class Reading:
    """A record of how a checkpoint was read, for code that reads the same file by other means.

    Attributes:
        path: Path of the file or folder that was given.
        weights_path: Path of the weights file that was read, or of the index of its parts.
        dialect: The names that the weights have, and their source.
        saved: Config of the model that was saved, before another size was asked for.
        encoder: Place of the weights in the file.
        key: Shortest name that tells them from others in the file; empty for the file itself.
        wanted: The weights that the user asked for with ``--weights``, or None.
        config_path: Path of the ``config.json`` that the source's library reads, or None.
        head: The classifier if its form is not the library's own; None for the library's own, and
            for none.
        beside: Full names of tensors in the file that the library's own model does not have.
    """

    path: Path
    weights_path: Path
    dialect: Dialect
    saved: SwinConfig
    encoder: Encoder
    key: str = ""
    wanted: str | None = None
    config_path: Path | None = None
    head: OwnHead | None = None
    beside: frozenset[str] = frozenset()


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint in our names.

    Attributes:
        config: Config of the model that ``state_dict`` belongs to.
        state_dict: Name to float32 tensor.
        source: Name of its source, one of ``SOURCES``.
        notes: Notes on what was found, ignored or changed, for the user to read.
        sha256: SHA-256 of the weights file; for several parts, SHA-256 of their joined digests.
        reading: Record of the place of the weights, and of their config before any resizing.
        preprocessing: Steps from a picture to an input of the model.
        class_names: Names of the classes that the checkpoint's own files give, or None.
        scores: Kind of the classes' scores.
        assumptions: Choices that neither the checkpoint nor the user made.
    """

    config: SwinConfig
    state_dict: dict[str, Tensor]
    source: str
    notes: tuple[str, ...]
    sha256: str
    reading: Reading
    preprocessing: Preprocessing
    class_names: ClassNames | None = None
    scores: Scores = "softmax"
    assumptions: tuple[Assumption, ...] = ()


class CheckpointOptions(TypedDict, total=False):
    """Options of a checkpoint to load; the checkpoint decides those that are absent or None.

    Attributes:
        source: Name of its source, one of ``SOURCES``; by default found from the keys.
        img_size: Image side in pixels, or rows and columns, instead of the checkpoint's.
        pad_to: Number of pixels that both sides of the image are rounded up to a multiple of;
            pictures are resized into the size before that, with zeros below and on the right.
        window_size: Window side in tokens, or rows and columns, of all stages or of each, instead
            of the checkpoint's; it settles, too, which window a table of V1 belongs to.
        weights: The weights to take out of several in a file: ``ema``, ``raw`` or their key; by
            default those that the source's library takes, which is then an assumption.
        activation: Activation of the MLPs, where no file next to the weights says it; by default
            ``gelu``, as in the papers.
        pool: Pooling of tokens to features, where no file says it; by default ``avg``, their mean.
        encoder: The start of the names of the Swin in a dict that has several; by default the only
            one.
        preprocessing: The user's choices about the preprocessing.
        head: Name of the classifier in the file, or of one of its layers; by default the only one.
        head_activation: Activation between the two layers of the classifier, which weights do not
            tell.
        semantic_weight: Semantic weight of a SOLIDER checkpoint, from 0 to 1, which its file does
            not tell.
        output: Kind of output; by default the one that the checkpoint is made for.
        scores: Kind of the classes' scores: ``softmax``, ``sigmoid`` where several classes may be
            right at once, or ``none`` for the logits; by default what the checkpoint's files say,
            else ``softmax``.
    """

    source: str | None
    img_size: int | tuple[int, int] | None
    pad_to: int | None
    window_size: Windows | None
    weights: str | None
    activation: Activation | None
    pool: Pool | None
    encoder: str | None
    preprocessing: PreprocessingChoice
    head: str | None
    head_activation: HeadActivation | None
    semantic_weight: float | None
    output: Output | None
    scores: Scores | None


def load_checkpoint(
    path: Path, name: str | None = None, **options: Unpack[CheckpointOptions]
) -> LoadedCheckpoint:
    """Read a checkpoint of any source.

    Args:
        path: Path of a weights file, or of a folder with one and its ``config.json``.
        name: Name of a variant that the checkpoint must be; it completes what weights do not show.
        options: Options, see ``CheckpointOptions``.

    Raises:
        CheckpointError: If it cannot be read, lacks the weights that are asked for, fits no source
            or several, or does not fit its model.
        ConfigError: If the variant is unknown or another one, or the image size cannot be built.
        FileError: If a JSON file next to the weights cannot be read.
    """
    asked = ConfigRequest(variant(name) if name is not None else None, name or "", **options)
    return _read(path, read_content(path, wanted=asked.weights, encoder=asked.encoder), asked)


def read_tensors(
    tensors: dict[str, Tensor], beside: SideFiles, **options: Unpack[CheckpointOptions]
) -> LoadedCheckpoint:
    """Read the weights of a module in memory, as if they were in a file.

    Args:
        tensors: Tensors by name, as ``state_dict`` gives them.
        beside: Config of the module, or facts that it tells by itself.
        options: Options, see ``CheckpointOptions``.

    Raises:
        CheckpointError: If the tensors fit no source or several, or do not fit their model.
        ConfigError: If the source's library does not take the image size.
    """
    asked = ConfigRequest(None, "", **options)
    chosen = choose_weights(tensors, "the module", encoder=asked.encoder)
    return _read(Path(), CheckpointFiles(chosen, beside, "", Path()), asked)


def _read(path: Path, files: CheckpointFiles, asked: ConfigRequest) -> LoadedCheckpoint:
    """Bring what a file, a folder or a module holds to our names."""
    content = _restored(files)
    if asked.semantic_weight is not None:
        content = _with_semantic_weight(content, asked.semantic_weight)
    prefix = content.chosen.encoder.prefix
    if content.chosen.encoder.dialect:
        refuse_changed(content.tensors, content.chosen.encoder.dialect, prefix)
    found = asked.source or detect_source(
        content.tensors, content.beside.config_json, prefix=prefix
    )
    named = _named(content.tensors, found, prefix)
    model = READERS[named.dialect.family](named, content, asked)
    pictures = pictures_of(
        content.beside,
        named.dialect,
        own=model.own,
        config=model.config,
        asked=dataclasses.replace(asked, content=model.content),
        stored=stored_normalisation(content.tensors, model.config.in_channels),
    )
    reading = Reading(
        path=path,
        weights_path=content.weights_path,
        dialect=named.dialect,
        saved=model.own,
        encoder=content.chosen.encoder,
        key=content.chosen.name,
        wanted=asked.weights,
        config_path=content.beside.config_path if named.dialect.hints else None,
        head=model.head,
        beside=model.beside,
    )
    return LoadedCheckpoint(
        config=model.config,
        state_dict=model.state_dict,
        source=found,
        notes=(*model.notes, *pictures.notes),
        sha256=content.sha256,
        reading=reading,
        preprocessing=pictures.preprocessing,
        class_names=pictures.class_names,
        scores=pictures.scores,
        assumptions=(*content.chosen.assumptions, *model.assumptions, *pictures.assumptions),
    )


def _restored(content: CheckpointFiles) -> CheckpointFiles:
    """Multiply pruned weights by their masks, and leave out other encoders inside this one."""
    chosen = content.chosen
    outer = {n: one for n, one in chosen.tensors.items() if not n.startswith(chosen.inner)}
    tensors, notes = unpruned(outer)
    whole = dataclasses.replace(chosen, tensors=tensors, notes=(*chosen.notes, *notes))
    return dataclasses.replace(content, chosen=whole)


def _with_semantic_weight(content: CheckpointFiles, weight: float) -> CheckpointFiles:
    chosen = content.chosen
    note = f"SOLIDER's semantic embedding folded into the merges for the semantic weight {weight:g}"
    tensors = with_semantic_weight(chosen.tensors, weight)
    folded = dataclasses.replace(chosen, tensors=tensors, notes=(*chosen.notes, note))
    return dataclasses.replace(content, chosen=folded)


@dataclass(frozen=True)
class _Model:
    """A model in our names: as it was saved (``own``), and as it was asked for.

    ``content`` is the size that pictures take of the image.
    """

    own: SwinConfig
    config: SwinConfig
    state_dict: dict[str, Tensor]
    notes: tuple[str, ...]
    content: Size
    assumptions: tuple[Assumption, ...] = ()
    head: OwnHead | None = None
    beside: frozenset[str] = frozenset()


def _read_swin(named: EncoderTensors, content: CheckpointFiles, asked: ConfigRequest) -> _Model:
    """Read a model of V1 or V2 in any dialect."""
    dialect = named.dialect
    facts = _facts(content.beside, dialect, asked)
    output = asked.output or facts.output or None
    taken = take_head(named, content.tensors, dataclasses.replace(asked, output=output))
    named = taken.named
    if not taken.comparable:
        said = {name: value for name, value in facts.sizes.items() if name != "num_classes"}
        facts = dataclasses.replace(facts, sizes=said)
    sizes = infer_sizes(named, facts) | taken.sizes
    facts, hinted = with_training(facts, content.beside, named, sizes)
    facts = _of_variant(facts, asked)
    own, assumed, img_size = own_config(named, sizes, facts, asked)
    state, filled = assemble(named, own)
    inside, size, rounded = image_size(asked, img_size)
    config, changed = wanted_config(own, asked, img_size=size)
    state, resized = resize_tables(state, own, config, rule=dialect.table_resize)
    read = (*content.chosen.notes, *taken.notes, *outside_note(named), *facts.remarks, *hinted)
    notes = (described(config), *read, *filled, *changed, *resized)
    notes += (*shift_notes(config), *pad_notes(config), *rounded)
    assumptions = (*assumed, *taken.assumptions)
    return _Model(own, config, state, notes, inside, assumptions, taken.own, taken.beside)


def detect_source(names: Iterable[str], config_json: dict[str, Any], *, prefix: str = "") -> str:
    """Find the source whose names these are.

    Args:
        names: Keys of a checkpoint.
        config_json: Content of the ``config.json`` next to it, or an empty dict; it decides if
            names fit several sources.
        prefix: Start of the names of the encoder that is meant.

    Raises:
        CheckpointError: If the names fit no source, or several that would load differently.
    """
    keys = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    fitting = [one for one in DIALECTS if one.prefixes(keys) and one.fits(keys, config_json)]
    found = list(dict.fromkeys(dialect.source for dialect in fitting))
    if len(found) == 1:
        return found[0]
    some = listed([prefix + key for key in sorted(keys)[:3]])
    if not found:
        told = other_model(keys) or f"it has {len(keys)} tensors, such as {some}"
        raise CheckpointError(f"no Swin checkpoint of {', '.join(SOURCES)}: {told}")
    differ = {dialect.told_by for dialect in fitting}
    which = f", which differ in {differ.pop()}" if len(differ) == 1 and all(differ) else ""
    these = "the keys" if which else f"the keys ({some}, ...)"
    raise CheckpointError(f"{these} fit {' and '.join(found)}{which}; say which with --source")


def _named(tensors: dict[str, Tensor], source: str, prefix: str) -> EncoderTensors:
    """Return the encoder's tensors in the dialect of a source.

    Raises:
        CheckpointError: If the source is unknown, or the keys are not of it.
    """
    if source not in SOURCES:
        raise CheckpointError(f"unknown source {source}; known are {', '.join(SOURCES)}")
    own = [dialect for dialect in DIALECTS if dialect.source == source]
    for dialect in own:
        if dialect.applies(tensors, prefix):
            return take_encoder(dialect, tensors, prefix)
    wanted = [dialect.key_prefix for dialect in own]
    others = [dialect.source for dialect in DIALECTS if dialect.prefixes(tensors)]
    told = other_model(tensors)
    hint = f"; {told}" if told and not others else ""
    if others:
        hint = f"; its keys are those of {' or '.join(dict.fromkeys(others))}"
    raise CheckpointError(
        f"no checkpoint of {source}: no key starts with {' or '.join(wanted)}{hint}"
    )


def _facts(files: SideFiles, dialect: Dialect, asked: ConfigRequest) -> CheckpointHints:
    """Read the facts that a module tells, or that are in the files next to the weights."""
    if files.facts is not None:
        return files.facts
    if dialect.hints is None:
        return CheckpointHints()
    where = str(shortened(files.config_path or "config.json"))
    return dialect.hints(files.config_json, where=where)


def _of_variant(facts: CheckpointHints, asked: ConfigRequest) -> CheckpointHints:
    """Complete facts from the variant that the user names."""
    known = asked.known
    if known is None:
        return facts
    return dataclasses.replace(
        facts,
        img_size=facts.img_size or known.img_size,
        window_size=facts.window_size or known.window_size,
        pretrained_window_sizes=facts.pretrained_window_sizes or known.pretrained_window_sizes,
    )


def _read_notebook(named: EncoderTensors, content: CheckpointFiles, asked: ConfigRequest) -> _Model:
    """Read a notebook checkpoint, which has our names and whose windows cannot be changed."""
    metadata = content.beside.metadata
    saved = notebook.infer_config(content.tensors, metadata, img_size=None)
    if asked.window_size is not None and saved.window_sizes != stage_windows(
        asked.window_size, len(saved.depths)
    ):
        raise ConfigError(
            f"window size {windows_text(asked.window_size)}: the notebook's position table is made "
            f"for {saved.window_size} and cannot be resized"
        )
    inside, size, rounded = image_size(asked, saved.img_size)
    config = notebook.infer_config(content.tensors, metadata, img_size=size)
    notebook.check_state(content.tensors, config)
    if asked.known is not None:
        check_agreement(asked.name, asked.known, config)
    settings: dict[str, Any] = {"activation": asked.activation, "pool": asked.pool}
    given = {field: value for field, value in settings.items() if value is not None}
    config = dataclasses.replace(config, **given)
    notes = (*content.chosen.notes, *rounded, *pad_notes(config))
    return _Model(config, config, content.tensors, notes, inside)


READERS = {"swin": _read_swin, "notebook": _read_notebook}
