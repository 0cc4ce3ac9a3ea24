"""From an ONNX file to a TensorRT engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypedDict, Unpack, get_args

from exporters.backends import choose_flavor, current_gpu
from exporters.caches import timing_cache
from exporters.engine.targets import check_options
from exporters.errors import BuildError, ConfigError
from exporters.precisions import FP8_FORMS, INT8_ON_CPUS, PRECISIONS
from exporters.spec import (
    CURRENT,
    BatchProfile,
    EngineOptions,
    Flavor,
    HardwareCompatibility,
    Precision,
)
from swin_deploy.api.border import (
    Artifact,
    StrPath,
    path_of,
    require_ending,
    require_known,
    require_options,
    require_whole,
)
from swin_deploy.artifacts.builds import claim_build, plan_build
from swin_deploy.artifacts.engine_file import Listener, RefusedEngine, write_engine
from swin_deploy.artifacts.onnx_file import NO_IMAGES, Calibrated, read_onnx
from swin_deploy.artifacts.outputs import ENGINE_ENDINGS, is_sizes
from swin_deploy.artifacts.sizes_build import SizesPlan, build_sizes, plan_sizes_build
from swin_deploy.artifacts.sizes_file import read_sizes, to_dict
from swin_deploy.calibration.pictures import calibration_images


class BuildOptions(TypedDict, total=False):
    """Options for building an engine; the builder decides those that are absent.

    Attributes:
        flavor: ``tensorrt`` or ``tensorrt-rtx``; ``auto`` (default) for the one that this machine
            can use.
        workspace_mib: Scratch memory of the builder, in MiB.
        optimization_level: Effort of the builder, from 0 to 5.
        hardware_compatibility: GPUs besides that of the build that must run the engine: ``none``
            (default), ``ampere-plus`` or ``same-compute-capability``.
        version_compatible: True if later minor versions must run the engine.
        compute_capabilities: GPUs to build for, such as ``("8.6", "8.9")``, or ``current`` alone
            for the one here.
        images: Folder or CSV file of images, 32 at least, that FP8 of a float32 file is calibrated
            on.
    """

    flavor: Literal["auto"] | Flavor
    workspace_mib: int | None
    optimization_level: int | None
    hardware_compatibility: HardwareCompatibility
    version_compatible: bool
    compute_capabilities: tuple[str, ...]
    images: StrPath | None


def build(
    onnx: StrPath,
    output: StrPath | None = None,
    *,
    precision: Precision | None = None,
    batch: int | tuple[int, int, int] | None = None,
    force: bool = False,
    listener: Listener | None = None,
    **options: Unpack[BuildOptions],
) -> Artifact:
    """Build a TensorRT engine from an ONNX file, and prove its precision.

    A float32 file is first converted to the precision that is asked for, since the graph decides
    the precision; the converted graph is written with the engine.

    Args:
        onnx: The ONNX file; or a manifest of sizes, which gets an engine for each size.
        output: The engine's file; by default next to the ONNX file, named after it. Engines of
            several sizes are named after their manifest.
        precision: Precision of the engine; by default the file's.
        batch: Number of images a call, or its minimum, optimum and maximum; by default 1, 8, 32,
            or the file's fixed batch.
        force: True to replace files that swin-deploy did not make.
        listener: Functions that are told of progress and warnings.
        options: Options of the builder, see ``BuildOptions``.

    Returns:
        The engine and its manifest, which has the kernel plan; or the manifest of sizes that names
        the engines.

    Raises:
        BuildError: If it cannot be built, or the kernels would not run in the precision that was
            asked for; nothing is written then.
        ConfigError: If an option or its value is unknown, or images have nothing to calibrate.
        ExportError: If the ONNX file cannot be read or converted to the precision.
        FileError: If a file cannot be written, or must not be replaced.
        MissingBackendError: If TensorRT is not installed, or needs a GPU and there is none.

    Example:
        >>> onnx = swin_deploy.load("notebook-digits").export("digits-fp32.onnx")
        >>> engine = swin_deploy.build(onnx.path, precision="fp16", batch=(1, 4, 8))
        >>> engine.path.name, engine.manifest["precision"]
        ('digits-fp16.engine', 'fp16')
        >>> engine.manifest["plan"]["attention_blocks"]
        4
    """
    path, named = path_of(onnx), None if output is None else path_of(output)
    if precision == "int8":
        raise ConfigError(INT8_ON_CPUS)
    require_known("precision", precision, (None, *PRECISIONS))
    profile = _profile(batch)
    settings = _engine_options(options)
    told = listener or Listener()
    if is_sizes(path):
        if named is not None:
            raise ConfigError(f"the engines are written next to {path}; leave out output")
        plan = plan_sizes_build(read_sizes(path), precision)
        _check_images(plan.converts, options.get("images"))
        images = _calibrated(options.get("images"))
        return _build_sizes(
            plan, images, profile=profile, options=settings, listener=told, force=force
        )
    source = read_onnx(path)
    files = plan_build(source, named, precision=precision, folder=path.parent)
    require_ending(files.engine, ENGINE_ENDINGS)
    _check_images(files.converts, options.get("images"))
    claim_build(files, force=force)
    images = _calibrated(options.get("images"))
    source = files.source(source, images)  # in its place: the float32 graph is let go of
    engine = write_engine(
        source,
        files.engine,
        profile=profile,
        options=settings,
        listener=told,
        force=force,
    )
    if isinstance(engine, RefusedEngine):
        raise BuildError(f"{files.engine}: {engine.text}")
    return Artifact(engine.path, engine.values)


def _check_images(converts: Precision | None, images: StrPath | None) -> None:
    """Refuse images that calibrate nothing, and a conversion to FP8 without images."""
    if converts in FP8_FORMS and images is None:
        raise ConfigError(NO_IMAGES.format(converts).replace("--images", "images="))
    if converts not in FP8_FORMS and images is not None:
        raise ConfigError(
            f"images calibrate a float32 file for precision {' or '.join(FP8_FORMS)}, and nothing "
            "here; leave them out"
        )


def _calibrated(images: StrPath | None) -> Calibrated:
    return Calibrated() if images is None else Calibrated(calibration_images(path_of(images)))


def _build_sizes(
    plan: SizesPlan,
    told: Calibrated,
    *,
    profile: BatchProfile | None,
    options: EngineOptions,
    listener: Listener,
    force: bool,
) -> Artifact:
    built = build_sizes(
        plan, profile=profile, options=options, listener=listener, told=told, force=force
    )
    if isinstance(built, RefusedEngine):
        raise BuildError(f"{plan.path}: {built.text}")
    return Artifact(built.path, to_dict(built))


def _engine_options(asked: BuildOptions) -> EngineOptions:
    """Return the builder's settings, with the user's timing cache if the flavour has one.

    Raises:
        BuildError: If the flavour lacks an option.
        ConfigError: If an option or its value is unknown.
        MissingBackendError: If no flavour is installed, or a GPU is needed and there is none.
    """
    require_options(asked, BuildOptions.__optional_keys__)
    flavor = asked.get("flavor", "auto")
    require_known("flavor", flavor, ("auto", *get_args(Flavor)))
    compatible = asked.get("hardware_compatibility", "none")
    require_known("hardware_compatibility", compatible, get_args(HardwareCompatibility))
    own = ("flavor", "images")
    others: dict[str, Any] = {key: value for key, value in asked.items() if key not in own}
    for name, least, most in (("workspace_mib", 1, 1 << 20), ("optimization_level", 0, 5)):
        if others.get(name) is not None:
            require_whole(name, others[name], least=least, most=most)
    others["compute_capabilities"] = _capabilities(others.get("compute_capabilities"))
    chosen = choose_flavor() if flavor == "auto" else flavor
    options = EngineOptions(chosen, timings=timing_cache(chosen), **others)
    check_options(options, current_gpu())
    return options


def _capabilities(named: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return compute capabilities as a tuple, of a sequence or of one text."""
    names = [named] if isinstance(named, str) else named or []
    if not isinstance(names, list | tuple) or not all(isinstance(one, str) for one in names):
        raise ConfigError(
            f'compute_capabilities {named!r} is not a list of texts; give ("8.6", "8.9") or '
            f'"{CURRENT}"'
        )
    return tuple(names)


def _profile(batch: int | tuple[int, int, int] | None) -> BatchProfile | None:
    if batch is None:
        return None
    numbers = (batch,) * 3 if isinstance(batch, int) else tuple(batch)
    for number in numbers:
        require_whole("batch", number)
    if len(numbers) != 3 or list(numbers) != sorted(numbers):
        raise ConfigError(f"batch {batch} is not in the order minimum, optimum, maximum")
    return BatchProfile(*numbers)
