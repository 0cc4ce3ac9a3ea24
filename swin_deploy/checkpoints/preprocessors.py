"""The preprocessing of each library: from its files, and for its own models without any."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from exporters.errors import ConfigError, FileError
from exporters.text_files import read_json
from swin_deploy.checkpoints.known import LIBRARIES, OF_VARIANTS, SOURCES
from swin_deploy.checkpoints.variants import variant_of
from swin_deploy.config import Size, SwinConfig
from swin_deploy.images.preprocessing import (
    Preprocessing,
)
from swin_deploy.images.rules import Rule

PUBLISHED_HEADS = (1000, 21841)  # ImageNet-1k, ImageNet-22k


def library_rule(source: str, config: SwinConfig) -> Rule:
    """Return a library's preprocessing for its own model of these sizes.

    Args:
        source: Name of the library, one of ``SOURCES``.
        config: Sizes of the model.

    Returns:
        The rule; it is a guess unless the sizes and the head are those of a published model.
    """
    published = variant_of(config, any_head=True)
    known = published is not None and config.num_classes in PUBLISHED_HEADS
    name = published or "Swin models"
    rule = SOURCES[source].library_rule(config, name)
    if known or rule.guess:
        return rule
    guess = f"as {source} does for {name}: no file next to the weights says it"
    return dataclasses.replace(rule, guess=guess)


def variant_rule(config: SwinConfig) -> Rule:
    """Return the rule of a model without a checkpoint: timm's, or the notebook's common one."""
    return library_rule(OF_VARIANTS[config.family].source, config)


def library_steps(config: SwinConfig) -> Preprocessing:
    """Return the steps of a model without a checkpoint."""
    return variant_rule(config).steps(config.image)


FILES = ("preprocessor_config.json", "processor_config.json", "config.json")
OURS = {"crop", "resize", "resize_mode"}  # fields of our own steps


def chosen_rule(choice: str | Path, config: SwinConfig) -> Rule:
    """Return the rule that the user names: that of a library, or of a file or folder.

    Args:
        choice: Name of one of ``LIBRARIES``, or path of a ``preprocessor_config.json``, of a timm
            ``config.json``, of a manifest of ours, or of a folder with one of ``FILES``.
        config: Sizes of the model.

    Raises:
        FileError: If the file cannot be read or is none of these.
        ConfigError: If its steps cannot be done.
    """
    if choice in LIBRARIES:
        return dataclasses.replace(library_rule(str(choice), config), guess="")
    path = Path(choice)
    if path.is_dir():
        found = [path / name for name in FILES if (path / name).is_file()]
        if not found:
            raise FileError(f"folder {path} holds none of {', '.join(FILES)}; name the file")
        path = found[0]
    values = read_json(path)
    if not isinstance(values, dict):
        raise FileError(f"{path} is not a JSON object; name {' or '.join(FILES[:2])}")
    steps = values.get("preprocessing", values)
    if isinstance(steps, dict) and steps.keys() >= OURS:
        return _own_rule(Preprocessing.from_dict(steps, where=path.name), path)
    for dialect in SOURCES.values():
        rule = dialect.steps_rule(values, path.name)
        if rule is not None:
            return rule
    raise FileError(
        f"{path} says nothing of preprocessing; name a preprocessor_config.json, a timm "
        f"config.json or a manifest of swin-deploy, or one of {', '.join(LIBRARIES)}"
    )


def _own_rule(steps: Preprocessing, path: Path) -> Rule:
    """Return the rule of steps that this package wrote, which are for one image size."""

    def sized(size: Size) -> Preprocessing:
        if size == steps.image_size:
            return steps
        raise ConfigError(
            f"{path} prepares images of {steps.image_size} px, the model takes {size} px; name "
            f"another file, or give --image-size {steps.image_size}"
        )

    native = steps.image_size.plain
    return Rule(lambda side: sized(Size.square(side)), native=native, sized=sized)
