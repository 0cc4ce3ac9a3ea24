"""The library whose model is the original of a loaded one, and that model."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata

import torch
from torch import nn

from exporters.errors import ComparisonError, DeployError
from exporters.text_files import error_words
from swin_deploy.checkpoints.known import ORIGINALS
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.checkpoints.read import Reading
from swin_deploy.config import SwinConfig
from swin_deploy.original.from_timm import timm_original
from swin_deploy.original.from_torchvision import torchvision_original
from swin_deploy.original.from_transformers import transformers_original
from swin_deploy.original.own_head import WithHead, own_head

BUILDERS: dict[str, Callable[[SwinConfig, Reading], nn.Module]] = {
    "timm": timm_original,
    "torchvision": torchvision_original,
    "transformers": transformers_original,
}


def original_library(loaded: LoadedModel, choice: str) -> str:
    """Return the library to compare with; empty for none.

    Args:
        loaded: The model. Random weights have no file, and the notebook's model is its own
            original.
        choice: Name from ``ORIGINAL_CHOICES``: ``auto`` for the library that the checkpoint comes
            from, ``none``, or a library.

    Raises:
        ComparisonError: If a library is asked for that the checkpoint does not come from.
    """
    dialect = loaded.reading.dialect if loaded.reading else None
    library = dialect.library if dialect else ""
    if choice == "none":
        return ""
    if choice == "auto" or ORIGINALS[choice] == library:
        return library
    what = f"a checkpoint of {dialect.source}" if dialect else "random weights"
    raise ComparisonError(
        f"{loaded.name} has {what}, which --original {choice} cannot read; leave --original out"
    )


def build_original(config: SwinConfig, reading: Reading, library: str) -> nn.Module:
    """Build the library's own model of a checkpoint, in evaluation mode; its outputs are a tuple.

    Args:
        config: Config that the checkpoint was loaded with: image size, windows, outputs.
        reading: Record of how the checkpoint was read.
        library: Name of the library: ``timm``, ``torchvision`` or ``transformers``.

    Raises:
        ComparisonError: If the library cannot build, load or run it, whatever it raises.
        MissingBackendError: If the library is not installed, or does not load.
    """
    try:
        with _quiet():
            model = _built(config, reading, library).eval()
            with torch.inference_mode():
                model(torch.zeros(1, config.in_channels, *config.image))
    except DeployError:
        raise
    except Exception as err:  # a foreign library fails in ways of its own
        raise ComparisonError(f"{library} cannot build or run the model ({_reason(err)})") from err
    return model


def _built(config: SwinConfig, reading: Reading, library: str) -> nn.Module:
    """Build the library's model; a classifier of the file's own form stands after its features."""
    build = BUILDERS[library]
    if reading.head is None:
        return build(config, reading)
    logits = config.output_name == "logits"
    output = "features" if logits else config.output_name
    bare = dataclasses.replace(
        config, output=output, num_classes=0, head_hidden=0, head_activation="none"
    )
    model = build(bare, reading)
    return WithHead(model, own_head(reading)) if logits else model


def _reason(err: BaseException) -> str:
    """Describe the error that was raised first: libraries wrap it in words about themselves."""
    while err.__cause__ or err.__context__:
        err = err.__cause__ or err.__context__ or err
    return error_words(err)


def library_version(library: str) -> str:
    """Return the version of an installed library, for reports."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "of unknown version"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence a library's warnings and log; the faults that matter are checked here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
