"""From a checkpoint to a model, and from a model to an ONNX file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack, get_args

from torch import nn

from exporters.errors import ConfigError
from exporters.precisions import (
    CALIBRATED,
    CPU_PRECISIONS,
    EDGES,
    FP8_FORMS,
    INT8_ON_CPUS,
    NOT_ON_CPUS,
    PRECISIONS,
    REDUCED,
    carrier_of,
)
from exporters.spec import FP8_OPSET, OPSET_RANGE, ExportSpec, Precision, Runtime
from swin_deploy.api.border import (
    Artifact,
    StrPath,
    derived,
    path_of,
    require_ending,
    require_known,
    require_options,
    require_whole,
)
from swin_deploy.artifacts.onnx_file import NO_IMAGES, Calibrated, export_spec, write_onnx
from swin_deploy.artifacts.outputs import ONNX_ENDINGS
from swin_deploy.calibration.pictures import calibration_images
from swin_deploy.checkpoints.load import LoadedModel, LoadOptions, load_model
from swin_deploy.precision.ranges import keepable_paths
from swin_deploy.predict.forms import form_of


class ExportOptions(TypedDict, total=False):
    """Options of an export.

    Attributes:
        precision: Precision of weights and activations: ``fp32`` (default), ``fp16``, ``bf16``,
            ``fp8``, ``fp8-weights``, or ``int8`` with ``runtime="cpu"``.
        opset: ONNX operator set, from 17 (default) to 23; from 19 (default) in FP8.
        batch: Number of images a call; None (default) for any number.
        io_precision: Precision of input and outputs; ``fp16`` with ``precision="fp16"`` only.
        keep: Parts that stay float32 in half precision or int8, such as ``layers.3.mlp``.
        pixels: True for a file that takes pixels [B, H, W, in_channels], uint8, and normalises
            them inside.
        images: Folder or CSV file of images, 32 at least, that the scales of FP8 and int8 are
            measured on.
        runtime: ``tensorrt`` (default), or ``cpu`` for a file in the layout of ONNX Runtime's CPU
            provider and OpenVINO, which is float32 or int8.
    """

    precision: Precision
    opset: int
    batch: int | None
    io_precision: Precision
    keep: Sequence[str]
    pixels: bool
    images: StrPath | None
    runtime: Runtime


@dataclass(frozen=True, repr=False)
class Model(LoadedModel):
    """A Swin Transformer with its weights, as ``load`` returns it.

    Attributes:
        name: Name of the variant, or of the checkpoint's file or folder.
        config: Sizes of the model.
        reference: The model as it was trained, readable: a ``torch.nn.Module``, float32, in
            evaluation mode, on the CPU. It takes normalised images [B, in_channels, H, W] of the
            sizes in ``config``.
        deploy: The same weights in export-friendly modules, made on first use; with the same input
            and outputs.
        checkpoint: The weights file or folder; None for random weights.
        sha256: SHA-256 digest of the weights; empty for random weights.
        preprocessing: Steps from a picture to an input.
        class_names: Names of the classes; None if neither the checkpoint nor the caller has them.
        source: Library that the checkpoint comes from; empty if there is none.
        notes: Remarks on what was found, skipped or changed while loading.
        assumptions: Choices that neither the checkpoint nor the caller decided; show them to the
            user.
        reading: Place of the weights in the checkpoint; None for random weights.
        scores: Kind of the classes' scores: ``softmax``, ``sigmoid`` or ``none``.

    Example:
        >>> import torch
        >>> model = swin_deploy.load("notebook-digits")
        >>> images = torch.rand(2, 3, 56, 56)
        >>> bool((model.reference(images) - model.deploy(images)).abs().max() < 1e-4)
        True
    """

    def __repr__(self) -> str:
        return f"Model({self.name!r}, {self.config.image_text}, {self.weights})"

    def export(
        self, path: StrPath, *, force: bool = False, **asked: Unpack[ExportOptions]
    ) -> Artifact:
        """Export the model to an ONNX file, and check the file against the options.

        The file carries preprocessing and class names; its manifest ``<path>.json`` is written
        with it. Both are written, or none.

        Args:
            path: The file to write, which ends in ``.onnx``.
            force: True to replace files that swin-deploy did not make.
            asked: Options of the export, see ``ExportOptions``.

        Returns:
            The file and its manifest.

        Raises:
            ConfigError: If an option or its value is unknown, or the options contradict each other.
            ExportError: If the export fails, or the file does not have the options asked for.
            FileError: If the file cannot be written, or must not be replaced.

        Example:
            >>> model = swin_deploy.load("notebook-digits")
            >>> onnx = model.export("digits.onnx", precision="fp16", opset=20)
            >>> onnx.path.name, onnx.manifest["precision"], onnx.manifest["opset"]
            ('digits.onnx', 'fp16', 20)
        """
        check_options(asked)
        file = path_of(path)
        require_ending(file, ONNX_ENDINGS)
        spec = checked_spec(self, asked)
        written = write_onnx(self, spec, file, told=calibrated(asked), force=force)
        return Artifact(file, written.manifest or {})


def calibrated(asked: ExportOptions) -> Calibrated:
    """Return the images that an export is calibrated on; raises as ``calibration_images``."""
    named = asked.get("images")
    return Calibrated(None if named is None else calibration_images(path_of(named)))


def checked_spec(model: Model, asked: ExportOptions) -> ExportSpec:
    """Return the specification of an export, its options checked.

    Args:
        model: The model to export.
        asked: Options of the export.

    Raises:
        ConfigError: If an option or its value is unknown, or the options contradict each other.
    """
    check_options(asked)
    named = asked.get("keep", ())
    keep = keepable_paths(
        model,
        (named,) if isinstance(named, str) else named,
        precision=asked.get("precision", "fp32"),
    )
    choices: dict[str, Any] = {**asked, "keep": keep}
    choices.pop("images", None)
    if asked.get("precision") in FP8_FORMS:
        choices.setdefault("opset", FP8_OPSET)
    return export_spec(model, **choices)


def load(model: StrPath, *, variant: str | None = None, **asked: Unpack[LoadOptions]) -> Model:
    """Load a checkpoint, or a model that swin-deploy knows by name.

    Args:
        model: Weights file (``.pt``, ``.pth`` or safetensors), timm or Hugging Face folder, or a
            name that ``swin-deploy models`` lists; an existing path takes precedence.
        variant: Name of the variant that the checkpoint must be, if the weights do not tell.
        asked: Options of loading, see ``LoadOptions``: ``img_size``, ``pad_to``,
            ``window_size``, ``encoder``, ``activation``, ``pool``, ``head``, ``head_activation``,
            ``semantic_weight``, ``output``, ``weights``, ``source``, ``preprocessing``,
            ``scores``, ``classes``.

    Returns:
        The model. A name without bundled weights gives random ones; ``notes`` and ``assumptions``
        list what was found and chosen.

    Raises:
        CheckpointError: If the file cannot be read or does not fit.
        ConfigError: If the variant or an option is unknown, the image size cannot be built, or
            the class file has another number of classes.
        FileError: If there is no such file or name, or a file next to the weights cannot be read.

    Example:
        >>> model = swin_deploy.load("notebook-digits")
        >>> model.config.img_size, model.config.num_classes
        (56, 10)
        >>> swin_deploy.load("notebook-digits", img_size=112).config.img_size
        112
    """
    if isinstance(model, nn.Module):
        raise ConfigError(
            "load takes a path or a name, not a module; save the model first, such as with "
            "torch.save(model.state_dict(), 'swin.pt')"
        )
    path = path_of(model)
    if form_of(path) != "checkpoint":
        raise ConfigError(f"{path} was made from a checkpoint; load that, or give it to Predictor")
    if os.path.lexists(path):
        return derived(Model, load_model(variant, path, **asked))
    if variant is not None:
        raise ConfigError(f"{model} is a name, not a checkpoint; leave variant out")
    return derived(Model, load_model(str(path), **asked))


def check_options(asked: ExportOptions) -> None:
    """Refuse unknown, wrong or contradictory export options before the work.

    Raises:
        ConfigError: If there are any.
    """
    require_options(asked, ExportOptions.__optional_keys__)
    precision, edges = asked.get("precision", "fp32"), asked.get("io_precision", "fp32")
    require_known("precision", precision, tuple(PRECISIONS))
    require_known("io_precision", edges, EDGES)
    low, high = OPSET_RANGE
    require_whole("opset", asked.get("opset", low), least=low, most=high)
    if asked.get("batch") is not None:
        require_whole("batch", asked["batch"])
    runtime = asked.get("runtime", "tensorrt")
    require_known("runtime", runtime, get_args(Runtime))
    if runtime == "cpu" and precision not in CPU_PRECISIONS:
        raise ConfigError(f"no precision {precision} for CPUs: {NOT_ON_CPUS}")
    if precision == "int8" and runtime != "cpu":
        raise ConfigError(f'{INT8_ON_CPUS}; give runtime="cpu", or precision fp16')
    if precision in FP8_FORMS and asked.get("opset", FP8_OPSET) < FP8_OPSET:
        raise ConfigError(f"opset {asked['opset']} has no FP8; give {FP8_OPSET} or later")
    _check_images(precision, asked)
    if edges not in ("fp32", carrier_of(precision)):
        raise ConfigError(f"io_precision {edges} needs precision {edges}")
    if asked.get("keep") and precision == "fp32":
        raise ConfigError(
            f"keep needs precision {' or '.join((*REDUCED, 'int8'))}: in fp32 every part is float32"
        )


def _check_images(precision: Precision, asked: ExportOptions) -> None:
    if precision in CALIBRATED and asked.get("images") is None:
        raise ConfigError(NO_IMAGES.format(precision).replace("--images", "images="))
    if precision not in CALIBRATED and asked.get("images") is not None:
        raise ConfigError(
            f"images are for the scales of {' and '.join(CALIBRATED)}; leave them out"
        )
