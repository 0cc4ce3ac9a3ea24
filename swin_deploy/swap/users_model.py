"""A whole model: from a function of the user's own, or from a folder of transformers."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from exporters.errors import CheckpointError, ConfigError
from exporters.text_files import error_words, listed, read_json, shortened
from swin_deploy.original.construct import import_library
from swin_deploy.original.from_transformers import without_progress


def model_of(source: str) -> nn.Module:
    """Return a model in evaluation mode, on the CPU.

    Args:
        source: ``MODULE:FACTORY``, a function without arguments that returns the module, looked for
            in the current folder first: its code is run. Or the path of a folder that transformers
            has saved.

    Raises:
        CheckpointError: If a folder has no model of transformers, or not all of its weights.
        ConfigError: If the function cannot be imported, fails, or returns something else.
        MissingBackendError: If transformers is not installed.
    """
    model = _from_folder(Path(source)) if os.path.isdir(source) else _from_factory(source)
    return model.eval()


def _from_factory(source: str) -> nn.Module:
    module, _, name = source.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        factory: Any = importlib.import_module(module)
        for word in name.split("."):
            factory = getattr(factory, word)
        model = factory()
    except (Exception, SystemExit) as err:  # the user's code may raise anything
        reason = error_words(err)
        raise ConfigError(f"{shortened(source)} gives no model: {reason}") from err
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        raise ConfigError(f"{shortened(source)} gives a {kind}; a torch.nn.Module is needed")
    return model


def _from_folder(folder: Path) -> nn.Module:
    where = shortened(folder)
    file = folder / "config.json"
    if not file.is_file():
        raise CheckpointError(
            f"{where} is neither MODULE:FACTORY nor a folder with a config.json; give one of them"
        )
    values = read_json(file)
    names = values.get("architectures") if isinstance(values, dict) else None
    name = names[0] if isinstance(names, list) and names else ""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is to be downloaded
    library = import_library("transformers", "transformers")
    kind = getattr(library, str(name), None)
    if not (isinstance(kind, type) and issubclass(kind, library.PreTrainedModel)):
        raise CheckpointError(
            f"transformers has no model {shortened(str(name)) or 'for it'}: see architectures in "
            f"config.json of {where}"
        )
    loader: Any = kind
    try:
        with without_progress(library):
            model, found = loader.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
    except Exception as err:  # the library's errors have no class in common
        reason = error_words(err)
        raise CheckpointError(f"transformers does not load {where}: {reason}") from err
    absent = sorted(map(str, (*found["missing_keys"], *found.get("mismatched_keys", ()))))
    if absent:
        raise CheckpointError(f"{where} has no weights of {listed(absent)}, which would be random")
    whole: nn.Module = model
    return whole
