"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args

import click
from click.shell_completion import CompletionItem

from exporters.precisions import CALIBRATED, FP8_FORMS
from exporters.progress import Progress, silent
from exporters.spec import FP8_OPSET, Flavor, Precision, Runtime
from exporters.text_files import read_text
from swin_deploy.checkpoints.known import (
    LIBRARIES,
    ORIGINAL_CHOICES,
    SOURCES,
    refuse_without_file,
)
from swin_deploy.cli.console import Console
from swin_deploy.cli.inputs import (
    require_built_from,
    require_checkpoint,
    require_engine,
    require_engines,
    require_images,
    require_listed,
    require_onnx,
    require_sizes,
    require_steps,
    requiring,
)
from swin_deploy.cli.values import (
    FILE,
    IMAGE_SIZE,
    MAX_BATCH,
    WINDOW_SIZE,
    color,
    crop_share,
    each_once,
    number_list,
    only_one,
    require_apart,
)
from swin_deploy.config import MOST_SIDE, VARIANTS, HeadActivation, Size
from swin_deploy.config.activations import ACTIVATIONS
from swin_deploy.config.names import SHORT_NAMES, variant_name
from swin_deploy.config.sizes import Windows
from swin_deploy.config.swin import Pool
from swin_deploy.images.preprocessing import (
    CHANNEL_ORDERS,
    INTERPOLATIONS,
    RESIZE_MODES,
    PreprocessingChoice,
)
from swin_deploy.images.scores import SCORES

if TYPE_CHECKING:
    from swin_deploy.api.models import Model
    from swin_deploy.artifacts.onnx_file import Calibrated
    from swin_deploy.checkpoints.load import LoadOptions
    from swin_deploy.config import Output
    from swin_deploy.config.activations import Activation
    from swin_deploy.images.scores import Scores

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class ModelRequest:
    """The model that a command was asked for; None where the checkpoint or a default decides.

    Attributes:
        model: Name of the variant.
        checkpoint: Weights file or folder.
        source: Library that the checkpoint comes from.
        image_size: Image side in pixels, or rows and columns.
        pad_to: Number of pixels that both sides are rounded up to a multiple of.
        window_size: Window side in tokens, or rows and columns, of all stages or of each.
        activation: Activation of the MLPs.
        pool: Pooling of tokens to features.
        outputs: Kind of the model's outputs.
        weights: Name of the weights in a checkpoint with several.
        head: Name of the classifier in a checkpoint with several.
        head_activation: Activation between the two layers of a classifier.
        semantic_weight: Semantic weight of a SOLIDER checkpoint.
        classes: File of class names.
        scores: Kind of the classes' scores.
        preprocessing: The preprocessing options.
    """

    model: str | None
    checkpoint: Path | None
    source: str | None
    image_size: int | Size | None
    pad_to: int | None
    window_size: Windows | None
    activation: Activation | None
    pool: Pool | None
    outputs: Output | None
    weights: str | None
    head: str | None
    head_activation: HeadActivation | None
    semantic_weight: float | None
    encoder: str | None
    classes: Path | None
    scores: Scores | None
    preprocessing: PreprocessingChoice

    def words(self) -> list[str]:
        """Return the command-line options that ask for this model."""
        said = {one.name: getattr(self, one.name) for one in fields(self)}
        steps = dict(vars(said.pop("preprocessing")))
        said |= {"preprocessing": steps.pop("source"), **steps}
        return [
            word
            for name, value in said.items()
            if value is not None
            for word in (f"--{name.replace('_', '-')}", _word(value))
        ]

    def options(self) -> LoadOptions:
        """Return the options of ``load_model``, without the model's name and file."""
        return {
            "img_size": self.image_size,
            "pad_to": self.pad_to,
            "window_size": self.window_size,
            "activation": self.activation,
            "pool": self.pool,
            "source": self.source,
            "output": self.outputs,
            "weights": self.weights,
            "head": self.head,
            "head_activation": self.head_activation,
            "semantic_weight": self.semantic_weight,
            "encoder": self.encoder,
            "preprocessing": self.preprocessing,
            "classes": self.classes,
            "scores": self.scores,
        }

    def inputs(self) -> list[Path]:
        """Return the files and folders that are read for the model."""
        given = (self.checkpoint, self.classes, self.preprocessing.source)
        return [one for one in given if isinstance(one, Path)]

    def require(self) -> None:
        """Refuse options that a variant without a checkpoint cannot have, before PyTorch loads.

        Raises:
            ConfigError: If the variant cannot have a size or an output, or there is no file to
                choose weights in.
        """
        if self.checkpoint is None:
            refuse_without_file(vars(self))
            sizes = {
                "img_size": self.image_size,
                "pad_to": self.pad_to,
                "window_size": self.window_size,
                "activation": self.activation,
                "pool": self.pool,
                "output": self.outputs,
            }
            require_sizes(self.model, sizes)

    def load(self) -> Model:
        """Load the model; PyTorch is imported here, not for ``--help``."""
        from swin_deploy.api.border import derived
        from swin_deploy.api.models import Model
        from swin_deploy.checkpoints.load import load_model

        return derived(Model, load_model(self.model, self.checkpoint, **self.options()))


def _word(value: object) -> str:
    if isinstance(value, Size):
        return str(value)
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


GPU_MACHINE = "on a machine with an NVIDIA GPU: the engine has not run yet"


def library_or_file(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> str | None:
    """Read the name of a library or a path; a click callback that notes a check of the path."""
    if value is None:
        return None
    source = str(FILE.convert(value, None, None))
    return cast("str", requiring(require_steps)(context, parameter, source))


def _model(context: click.Context, _: click.Parameter, value: str | None) -> str | None:
    """Return the variant that a name stands for, and show it if the names differ."""
    if value is None:
        return None
    found = variant_name(value)
    if found != value:
        context.ensure_object(Console).note(f"  {value}: {found}")
    return found


def complete_models(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
    """Complete a model's name in the shell: short names, then variants."""
    names = (*SHORT_NAMES, *VARIANTS)
    return [CompletionItem(name) for name in names if name.startswith(begun)]


def complete_artifacts(
    context: click.Context, parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    """Complete a model's name or a file in the shell."""
    return [*complete_models(context, parameter, begun), CompletionItem(begun, type="file")]


STEPS = tuple(field.name for field in fields(PreprocessingChoice))


def with_options(command: Command, *options: Callable[[Command], Command]) -> Command:
    """Return a command with options added, the last one first."""
    for option in options:
        command = option(command)
    return command


image_size_option = click.option(
    "--image-size",
    type=IMAGE_SIZE,
    multiple=True,
    callback=only_one,
    help="Image side in pixels, or rows and columns such as 800x1344, if not the checkpoint's.",
)
image_sizes_option = click.option(
    "--image-size",
    "image_sizes",
    type=IMAGE_SIZE,
    multiple=True,
    callback=each_once,
    help="Image side in pixels, or rows and columns such as 800x1344, if not the checkpoint's; "
    "again for a file of each size, with shared weights.",
)


def model_options(
    command: Command, image_size: Callable[[Command], Command] = image_size_option
) -> Command:
    """Add --model, --checkpoint and the loading options to a command, as ``asked``.

    Args:
        command: The command.
        image_size: The option --image-size; with ``image_sizes_option``, ``asked`` is a tuple with
            a request for each size.
    """
    return with_options(
        checkpoint_options(command, image_size),
        click.option(
            "--checkpoint",
            type=FILE,
            callback=requiring(require_checkpoint),
            help="Weights: a .pt or .pth file, safetensors, or a timm or Hugging Face folder.",
        ),
        click.option(
            "--model",
            callback=_model,
            shell_complete=complete_models,
            help="A model that 'swin-deploy models' lists, such as swin_tiny; names of timm, "
            "torchvision and Hugging Face are known too.",
        ),
    )


def checkpoint_options(
    command: Command, image_size: Callable[[Command], Command] = image_size_option
) -> Command:
    """Add the options that decide how a checkpoint is loaded to a command, as ``asked``.

    Arguments are those of ``model_options``.
    """
    command = with_options(
        command,
        click.option(
            "--pad-color",
            metavar="N,N,N",
            callback=color,
            help="Colour of what is padded, red, green and blue from 0 to 255; 255,255,255 is "
            "white.  [default: the mean, black with square]",
        ),
        click.option(
            "--channel-order",
            type=click.Choice(CHANNEL_ORDERS),
            help="Order of the channels that the model takes.  [default: rgb]",
        ),
        click.option(
            "--interpolation",
            type=click.Choice(INTERPOLATIONS),
            help="Filter that images are resized with.",
        ),
        click.option(
            "--resize-mode",
            type=click.Choice(RESIZE_MODES),
            help="shortest: the shorter side is resized, the centre cropped; squash: both sides; "
            "pad: the longer side, the rest filled; square: padded to a square, then both sides; "
            "fit: the whole picture at the top left, then zeros; none: cropped only.",
        ),
        click.option(
            "--crop-ratio",
            type=float,
            callback=crop_share,
            help="Image size over the size that images are resized to.",
        ),
        click.option(
            "--std",
            metavar="N,N,N",
            callback=number_list,
            help="Standard deviation by channel, or one for all.",
        ),
        click.option(
            "--mean", metavar="N,N,N", callback=number_list, help="Mean by channel, or one for all."
        ),
        click.option(
            "--preprocessing",
            "source_of_steps",
            metavar="SOURCE|FILE",
            callback=library_or_file,
            help=f"Source of the way images are prepared: {', '.join(LIBRARIES)}, or a "
            "preprocessor_config.json, a timm config.json, a manifest, or a folder with one.  "
            "[default: the checkpoint's files, else its library]",
        ),
        click.option(
            "--classes",
            type=FILE,
            callback=requiring(read_text),
            help="The model's class names in its order: one a line, JSON, or CSV with a column "
            "name.  [default: the checkpoint's]",
        ),
        click.option(
            "--scores",
            type=click.Choice(SCORES),
            help="How logits become scores: softmax where one class is right, sigmoid where any "
            "number is, none for the logits.  [default: what the checkpoint's files say, else "
            "softmax]",
        ),
        click.option(
            "--head-activation",
            type=click.Choice(get_args(HeadActivation)),
            help="What stands between the two layers of a classifier, which weights do not tell.  "
            "[default: relu, with a warning]",
        ),
        click.option(
            "--semantic-weight",
            type=click.FloatRange(min=0, max=1),
            help="SOLIDER's semantic weight, an option of its tasks that weights do not tell.",
        ),
        click.option(
            "--head",
            metavar="NAME",
            help="Which classifier of a checkpoint with several, by its name in the file.  "
            "[default: the only one, else none]",
        ),
        click.option(
            "--outputs",
            type=click.Choice(["logits", "features", "stages", "tokens"]),
            help="What the model gives: class logits, pooled features, every stage's feature map, "
            "or tokens.  [default: what the checkpoint is made for]",
        ),
        click.option(
            "--pool",
            type=click.Choice(get_args(Pool)),
            help="How tokens become features, if it is not their mean and no config.json says it.",
        ),
        click.option(
            "--activation",
            type=click.Choice(ACTIVATIONS),
            help="Activation of the MLPs, if it is not GELU and no config.json says it.",
        ),
        click.option(
            "--window-size",
            type=WINDOW_SIZE,
            help="Window side in tokens, or rows and columns such as 8x6, of all stages or of each "
            "between commas, if not the checkpoint's.",
        ),
        image_size,
        click.option(
            "--pad-to",
            metavar="N",
            type=click.IntRange(1, MOST_SIDE),
            help="Round both sides of the image up to a multiple of N pixels, as detectors do "
            "(32): pictures are resized to fit into the size before that, with zeros below and on "
            "the right.",
        ),
        click.option(
            "--source",
            type=click.Choice(list(SOURCES)),
            help="Where the checkpoint comes from.  [default: found from its keys]",
        ),
        click.option(
            "--weights",
            metavar="ema|raw|KEY",
            help="Which weights of a checkpoint with several: averaged, raw, or those under a key."
            "  [default: what the library it comes from takes]",
        ),
        click.option(
            "--encoder",
            metavar="PREFIX",
            help="Which Swin of weights with several: the start of its names.  [default: the only "
            "one]",
        ),
    )

    @functools.wraps(command)
    def collected(*args: Any, **values: Any) -> Any:  # noqa: ANN401 - any command's values
        said = {name: values.pop("source_of_steps" if name == "source" else name) for name in STEPS}
        names = (field.name for field in fields(ModelRequest) if field.name != "preprocessing")
        has_model = "model" in values  # predict takes its model as an argument
        sizes = values.pop("image_sizes", None)
        model = {name: values.pop(name, None) for name in names}
        asked = ModelRequest(**model, preprocessing=PreprocessingChoice(**said))
        require_apart(sizes or (), asked.pad_to)
        requests = tuple(replace(asked, image_size=size) for size in sizes or ()) or (asked,)
        if has_model:
            for request in requests:
                request.require()
        return command(*args, asked=asked if sizes is None else requests, **values)

    return cast("Command", collected)


def image_options(command: Command) -> Command:
    """Add --images and --limit to a command: the real images to compare on."""
    return with_options(
        command,
        click.option(
            "--limit",
            type=click.IntRange(min=1),
            default=64,
            show_default=True,
            help="Images at most, spread over the folder.",
        ),
        click.option(
            "--images",
            type=FILE,
            metavar="DIR",
            callback=requiring(require_images),
            help="Real images, in class folders or not.",
        ),
    )


# The images that FP8 and int8 are calibrated on.
calibration_option = click.option(
    "--images",
    type=FILE,
    metavar="DIR|CSV",
    callback=requiring(require_listed),
    help="Images to calibrate FP8 or int8 on, 32 at least, such as the model was trained on.",
)


def calibration(
    precision: Precision | None, images: Path | None, told: Progress = silent
) -> Calibrated:
    """Return the images that FP8 or int8 is calibrated on; none in other precisions.

    Args:
        precision: Precision that was asked for.
        images: Folder or CSV file of images.
        told: Function that is told what is run.

    Raises:
        ConfigError: If there are too few images.
        FileError: If the images cannot be read.
    """
    from swin_deploy.artifacts.onnx_file import Calibrated
    from swin_deploy.calibration.pictures import calibration_images

    if precision not in CALIBRATED or images is None:
        return Calibrated()
    return Calibrated(calibration_images(images), told)


def require_calibration(precision: Precision | None, images: Path | None) -> None:
    """Refuse FP8 and int8 without images to calibrate on."""
    if precision in CALIBRATED and images is None:
        raise click.UsageError(
            f"{precision} needs --images DIR, 32 images at least such as the model is for: its "
            "scales are measured on them"
        )


def require_converted(converts: Precision | None, images: Path | None) -> None:
    """Refuse a build that converts to FP8 without images, and images where none does.

    Args:
        converts: Precision that the build brings its files to first; None if it has it already.
        images: Folder or CSV file of images.
    """
    require_calibration(converts, images)
    if images and converts not in FP8_FORMS:
        raise click.UsageError("--images calibrates a float32 file for --fp8, and nothing here")


def fp8_opset(console: Console, precision: Precision, opset: int) -> int:
    """Return the opset of an export: FP8 raises the default, and refuses a lower one by name."""
    if precision not in FP8_FORMS or opset >= FP8_OPSET:
        return opset
    source = click.get_current_context().get_parameter_source("opset")
    if source is not click.core.ParameterSource.DEFAULT:
        raise click.UsageError(
            f"--opset {opset} has no QuantizeLinear with half scales, which {precision} needs; "
            f"give --opset {FP8_OPSET} or later"
        )
    console.note(f"  opset {FP8_OPSET}, not {opset}: {precision} needs it")
    return FP8_OPSET


# The library whose model is compared with the reference.
original_option = click.option(
    "--original",
    type=click.Choice(ORIGINAL_CHOICES),
    default="auto",
    show_default=True,
    help="The library that loads the checkpoint by itself, to compare the reference with; "
    "auto: the one it comes from.",
)
# What runs the model or its files besides their own runtimes.
_runner_option = functools.partial(
    click.option,
    "--runner",
    type=click.Choice(["torch", "torch-max-autotune", "openvino", "openvino-bf16"]),
)
_RUNNERS = (
    "torch: the deploy model compiled by PyTorch, for each batch; on a GPU in float16, as one "
    "CUDA graph, window attention in Triton; torch-max-autotune tries kernels, for minutes a "
    "batch. openvino, openvino-bf16: {} in OpenVINO on the CPU, in float32 or bfloat16."
)
runner_option = _runner_option(help=_RUNNERS.format("an ONNX file"))
# The same, of commands that compare.
runners_option = _runner_option(
    "runners",
    multiple=True,
    help=_RUNNERS.format("the ONNX files once more,") + " May be given again.",
)


def runner_words(runners: Iterable[str]) -> list[str]:
    """Return the command-line options that ask for some runners."""
    return [word for one in runners for word in ("--runner", one)]


def require_files(runners: Iterable[str], onnx_files: Sequence[Path]) -> None:
    """Refuse a runner of ONNX files where none is given; raises ``UsageError``."""
    of_files = [one for one in runners if one.startswith("openvino")]
    if of_files and not onnx_files:
        raise click.UsageError(f"--runner {of_files[0]} runs ONNX files; give one with --onnx")


# The result for scripts.
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
# The TensorRT flavour.
flavor_option = click.option(
    "--flavor",
    type=click.Choice(["auto", *get_args(Flavor)]),
    default="auto",
    show_default=True,
    help="auto: full TensorRT where it and a GPU are there, else TensorRT-RTX.",
)
runtime_option = click.option(
    "--for",
    "runtime",
    type=click.Choice(get_args(Runtime)),
    default="tensorrt",
    show_default=True,
    help="Runtime that the file is laid out for; cpu: ONNX Runtime's CPU provider, OpenVINO.",
)
# Number of images in a call of a command that takes any number of images.
batch_option = functools.partial(
    click.option, "--batch", type=click.IntRange(1, MAX_BATCH), default=32, show_default=True
)
report_option = click.option(
    "--report", type=FILE, metavar="DIR", help="Write report.json, .md and .html here."
)


def _files_option(
    name: str, values: str, require: Callable[[Path], object], *, text: str
) -> Callable[[Command], Command]:
    """Return an option that takes files; ``require`` refuses a path that is none."""
    return click.option(
        name, values, type=FILE, multiple=True, callback=requiring(require), help=text
    )


onnx_option = _files_option(
    "--onnx", "onnx_files", require_onnx, text="ONNX file; may be given again."
)
engine_option = _files_option(
    "--engine", "engine_files", require_engine, text="Engine; may be given again."
)
# The same, of commands that take several sizes.
onnx_files_option = _files_option(
    "--onnx",
    "onnx_files",
    require_built_from,
    text="ONNX file, or a manifest of sizes; may be given again.",
)
engine_files_option = _files_option(
    "--engine",
    "engine_files",
    require_engines,
    text="Engine, or a manifest of sizes; may be given again.",
)
