"""timm's own model from the user's file or folder, by timm's own code."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor, nn

from exporters.errors import ComparisonError
from exporters.text_files import read_json
from swin_deploy.checkpoints.files import pytorch_reads
from swin_deploy.checkpoints.read import Reading
from swin_deploy.checkpoints.timm import DIALECT, EXTRACTOR, WEIGHTS_KEYS
from swin_deploy.checkpoints.weights import EMA, RAW
from swin_deploy.checkpoints.weights_file import WEIGHTS
from swin_deploy.config import SwinConfig
from swin_deploy.original.construct import (
    has_other_windows,
    import_library,
    timm_model,
    timm_settings,
    timm_windows,
)
from swin_deploy.original.outputs import OriginalModel, channels_first, tokens_of
from swin_deploy.original.stored import (
    library_state,
    load_strictly,
    read_state,
    under_prefix,
    unwrapped,
)


def timm_original(config: SwinConfig, reading: Reading) -> nn.Module:
    """Build timm's model of a checkpoint, with its weights.

    1. A folder as timm saves it: ``timm.create_model("local-dir:...")``.
    2. Anything else of timm or the authors: its class with the sizes that were read, its
       ``load_state_dict`` with its own choice among several weights, its ``checkpoint_filter_fn``.
    3. A feature extractor: the same class in ``FeatureListNet``, which ``local-dir`` cannot load.

    Raises:
        ComparisonError: If timm has no such model, or cannot load it.
        MissingBackendError: If timm is not installed, or does not load.
    """
    _check_form(config, reading)
    models = import_library("timm.models", "timm")
    extractor = reading.dialect is EXTRACTOR
    if config.final_norm and _is_timms(reading):
        usual = reading.path.is_dir() and reading.weights_path.name in WEIGHTS
        whole = usual and reading.wanted is None and not reading.encoder.prefix
        # Versions of timm that only adapt first layers of 3 channels fill others at random.
        whole = whole and not reading.beside and config.in_channels == 3
        name = f"local-dir:{reading.weights_path.parent}"
        model = models.create_model(name, pretrained=whole, **_changes(config, reading))
        if whole:  # 1
            return OriginalModel(model, config, _outputs)
    else:
        model = timm_model(config)  # 2
    if not config.final_norm:
        model.norm = nn.Identity()
    if extractor:  # 3
        every = range(len(config.depths))
        model = models.FeatureListNet(model, every, output_fmt="NHWC", flatten_sequential=True)
    _load(models, model, reading)
    return OriginalModel(model, config, _maps if extractor else _outputs)


def _is_timms(reading: Reading) -> bool:
    """Tell whether timm wrote the ``config.json``, not transformers' wrapper."""
    values = read_json(reading.config_path) if reading.config_path else {}
    return isinstance(values, dict) and "pretrained_cfg" in values


def _windows(config: SwinConfig) -> list[tuple[object, ...]]:
    """Return what the windows of each stage are: their size, their shift, and the pads' place."""
    return [
        (one.window_size, one.shift_size, one.has_pads and one.roll_first) for one in config.stages
    ]


def _check_form(config: SwinConfig, reading: Reading) -> None:
    if config.stage_norms:
        raise ComparisonError("timm's model has one norm, after the last stage, not one a stage")
    timms = dataclasses.replace(config, window_rule="timm", pads="roll-then-pad")
    if config.window_rule != "always" and _windows(config) != _windows(timms):
        raise ComparisonError(
            f"timm cuts windows to a map along each axis, {reading.dialect.source} by one side "
            f"for both, which differs at {config.image}"
        )
    resized = has_other_windows(config, reading.saved)
    same_way = reading.dialect.table_resize is DIALECT.table_resize
    if resized and config.family == "swin" and not same_way:
        raise ComparisonError("timm resizes the tables of biases otherwise than the authors do")


def _changes(config: SwinConfig, reading: Reading) -> dict[str, Any]:
    """Return the arguments of timm's ``create_model`` that differ from the saved config."""
    saved = reading.saved
    # The model is built, and its maps are taken out here.
    changes = timm_settings(config) | {"in_chans": config.in_channels, "features_only": False}
    if reading.beside:  # the file's own classifier is not timm's
        changes["num_classes"] = config.num_classes
    if config.img_size != saved.img_size:
        changes["img_size"] = config.img_size
    if config.window_sizes != saved.window_sizes:
        changes["window_size"] = timm_windows(config)
    if config.pretrained_window_sizes != saved.pretrained_window_sizes:
        changes["pretrained_window_sizes"] = config.pretrained_window_sizes
    return changes


def _load(models: Any, model: nn.Module, reading: Reading) -> None:  # noqa: ANN401 - timm.models
    path = reading.weights_path
    if path.name.endswith(".index.json"):
        raise ComparisonError("timm reads no weights that are split over several files")
    state: Any = {}
    own = path.suffix == ".safetensors" or pytorch_reads(path)
    if own and reading.key in ("", *WEIGHTS_KEYS) and reading.wanted in (None, EMA, RAW):
        # This is timm's own choice; ours must come to the same one by itself.
        ema = reading.wanted != RAW
        state = models.load_state_dict(str(path), use_ema=ema, weights_only=True)
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        state = read_state(path, reading.encoder.key)
    # timm removes the names of DataParallel and torch.compile only where they come first.
    kept = library_state(unwrapped(state), reading.beside)
    state = under_prefix(kept, reading.encoder.prefix) or kept
    version = "" if reading.saved.family == "swin" else "_v2"
    module = import_library(f"timm.models.swin_transformer{version}", "timm")
    state = {name: one for name, one in state.items() if not reading.dialect.is_unused(name)}
    if reading.dialect is not EXTRACTOR:
        state = module.checkpoint_filter_fn(state, model)
    load_strictly(model, state, "timm")


def _maps(model: Any, images: Tensor, config: SwinConfig) -> tuple[Tensor, ...]:  # noqa: ANN401
    """Return the maps of a feature extractor, whose layout is [B, H, W, C]."""
    if config.output_name != "stages":
        raise ComparisonError(
            f"timm's feature extractor gives stage maps, not {config.output_name}"
        )
    maps = model(images)
    return tuple(channels_first(maps[index]) for index in config.shown_stages)


def _outputs(model: Any, images: Tensor, config: SwinConfig) -> tuple[Tensor, ...]:  # noqa: ANN401
    output = config.output_name
    if output == "logits":
        return (model(images),)
    if output == "stages":
        maps = model.forward_intermediates(images, intermediates_only=True)
        return tuple(maps[index] for index in config.shown_stages)
    features = model.forward_features(images)  # [B, H, W, C]
    if output == "tokens":
        return (tokens_of(features),)
    return (model.forward_head(features, pre_logits=True),)
