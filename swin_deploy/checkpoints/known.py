"""The sources that are known: the one list of dialects, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping

from exporters.errors import ConfigError
from swin_deploy.checkpoints import (
    huggingface,
    microsoft,
    notebook,
    openmmlab,
    timm,
    torchvision,
)
from swin_deploy.checkpoints.dialect import Dialect
from swin_deploy.config import Family

DIALECTS: tuple[Dialect, ...] = (
    notebook.DIALECT,
    microsoft.DIALECT,
    timm.EXTRACTOR,
    timm.DIALECT,
    torchvision.DIALECT,
    *huggingface.DIALECTS,
    *openmmlab.DIALECTS,
)
SOURCES = {dialect.source: dialect for dialect in DIALECTS}
# Choice of --original to its library: the source of that name, else one that it loads.
ORIGINALS = {
    dialect.library if dialect.library in SOURCES else source: dialect.library
    for source, dialect in SOURCES.items()
    if dialect.library
}
ORIGINAL_CHOICES = ("auto", "none", *ORIGINALS)
# Choices of --preprocessing: the libraries whose preprocessing is known, packages first.
LIBRARIES = tuple(
    dict.fromkeys((*ORIGINALS, *(s for s, one in SOURCES.items() if one.family != "notebook")))
)
# The libraries that our variants are named after: a model without a checkpoint has their
# preprocessing.
OF_VARIANTS: dict[Family, Dialect] = {
    "notebook": notebook.DIALECT,
    "swin": timm.DIALECT,
    "swinv2": timm.DIALECT,
}
# Options that only a file of weights can have.
OF_FILES = {
    "weights": "chooses among the weights of a file",
    "encoder": "chooses among the weights of a file",
    "head": "chooses among the classifiers of a file",
    "head_activation": "is about the classifier of a file",
    "semantic_weight": "is about the weights of a file",
}


def refuse_without_file(asked: Mapping[str, object]) -> None:
    """Refuse options that a model without a checkpoint cannot have.

    Args:
        asked: The options by name; None where they are not given.

    Raises:
        ConfigError: If one of ``OF_FILES`` is given.
    """
    for option, what in OF_FILES.items():
        if asked.get(option) is not None:
            raise ConfigError(f"--{option.replace('_', '-')} {what}; give --checkpoint")
