"""Engine build options: timing cache, target GPUs and version compatibility."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, get_args

import click

from exporters.backends import current_gpu
from exporters.engine.targets import check_options
from exporters.spec import CURRENT, CacheFile, EngineOptions, Flavor, HardwareCompatibility
from swin_deploy.cli.console import CHECK_FAILED, Console, say
from swin_deploy.cli.values import FILE

if TYPE_CHECKING:
    from swin_deploy.artifacts.engine_file import RefusedEngine
    from swin_deploy.runners.engine_manifest import EngineManifest

Command = TypeVar("Command", bound=Callable[..., Any])
Built = TypeVar("Built")


@dataclass(frozen=True)
class EngineBuildOptions:
    """The engine build options of a command line.

    Attributes:
        timing_cache: File of kernel timings; None for the user's cache, if any.
        no_timing_cache: True to use no timing cache.
        hardware_compatibility: The GPUs, besides that of the build, that must run the engine.
        version_compatible: True if later minor versions must run the engine.
        compute_capability: Compute capabilities to build for, or ``current``; empty for the
            default.
    """

    timing_cache: Path | None
    no_timing_cache: bool
    hardware_compatibility: HardwareCompatibility
    version_compatible: bool
    compute_capability: tuple[str, ...]

    def options(self, flavor: Flavor, **others: Any) -> EngineOptions:  # noqa: ANN401 - its fields
        """Return the options of the builder, checked against this machine.

        Args:
            flavor: TensorRT flavour to build with.
            others: Other fields of ``EngineOptions``.

        Raises:
            BuildError: If an option was given that the flavour lacks.
            MissingBackendError: If the flavour is not installed, or there is no GPU to build for.
        """
        options = EngineOptions(
            flavor,
            timings=self._timings(flavor),
            hardware_compatibility=self.hardware_compatibility,
            version_compatible=self.version_compatible,
            compute_capabilities=self.compute_capability,
            **others,
        )
        check_options(options, current_gpu())
        return options

    def _timings(self, flavor: Flavor) -> CacheFile | None:
        if self.timing_cache is not None:
            return CacheFile(self.timing_cache, named=True)
        return None if self.no_timing_cache else default_options(flavor).timings


def default_options(flavor: Flavor) -> EngineOptions:
    """Return a flavour's options, with the user's timing cache if the flavour has one."""
    from exporters.caches import timing_cache

    return EngineOptions(flavor, timings=timing_cache(flavor))


def options_for(flavor: Flavor, capabilities: tuple[str, ...]) -> EngineOptions:
    """Return a flavour's options for some GPUs, with the user's timing cache.

    Args:
        flavor: TensorRT flavour to build with.
        capabilities: Compute capabilities to build for, such as ``("8.6", "8.9")``.

    Raises:
        BuildError: If the flavour cannot build for them.
        MissingBackendError: If the flavour is not installed, or there is no GPU to build for.
    """
    options = dataclasses.replace(default_options(flavor), compute_capabilities=capabilities)
    check_options(options, current_gpu())
    return options


def _capabilities(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Read compute capabilities such as ``8.6,12.0``, each once, or ``current`` alone."""
    if value is None:
        return ()
    parts = tuple(part.strip() for part in value.split(","))
    if CURRENT in parts and len(parts) > 1:
        raise click.BadParameter(f"{value!r}: {CURRENT} stands alone, without other GPUs")
    if parts != (CURRENT,) and not all(re.fullmatch(r"\d{1,2}\.\d", part) for part in parts):
        raise click.BadParameter(
            f"{value!r} is not a list of compute capabilities such as 8.6,8.9, nor {CURRENT}"
        )
    if len(set(parts)) < len(parts):
        raise click.BadParameter(f"{value!r} names a compute capability twice")
    return parts


capability_option = click.option(
    "--compute-capability",
    metavar="LIST|current",
    callback=_capabilities,
    help="GPUs to build for, such as 8.6,8.9,12.0, or the one here.  [tensorrt-rtx; default: 8.0 "
    "and later]",
)


def life_options(command: Command) -> Command:
    """Add the engine build options to a command, which gets them as ``life``."""
    for option in (
        capability_option,
        click.option(
            "--version-compatible",
            is_flag=True,
            help="Let later minor versions run the engine.  [tensorrt]",
        ),
        click.option(
            "--hardware-compatibility",
            type=click.Choice(get_args(HardwareCompatibility)),
            default="none",
            show_default=True,
            help="GPUs besides that of the build that must run the engine.  [tensorrt]",
        ),
        click.option(
            "--no-timing-cache", is_flag=True, help="Time every kernel anew, and keep nothing."
        ),
        click.option(
            "--timing-cache",
            type=FILE,
            help="Keep kernel timings here.  [tensorrt; default: in the user's cache folder]",
        ),
    ):
        command = option(command)

    @functools.wraps(command)
    def collected(*args: Any, **values: Any) -> Any:  # noqa: ANN401 - any command's values
        names = [field.name for field in dataclasses.fields(EngineBuildOptions)]
        life = EngineBuildOptions(**{name: values.pop(name) for name in names})
        if life.timing_cache is not None and life.no_timing_cache:
            raise click.UsageError("--timing-cache and --no-timing-cache exclude each other")
        return command(*args, life=life, **values)

    return cast("Command", collected)


def show_targets(console: Console, engine: EngineManifest) -> None:
    """Print the GPUs and versions that an engine is for, and the proof that its flavour works."""
    console.note(f"  for {engine.targets.describe()}")
    console.note(f"  {engine.flavor}: {engine.traits.proof}")


def engine_words(engine: EngineManifest) -> str:
    """Return an engine's size, precision, batches and kernels in words."""
    kernels = engine.plan
    return (
        f"{engine.values['bytes'] / 1e6:.1f} MB, {engine.precision}, "
        f"{kernels.flavor} {kernels.version}, batch {engine.profile.min} to {engine.profile.max}; "
        f"{kernels.kernel_count} kernels, attention fused {kernels.fused_attention} of "
        f"{kernels.attention_blocks}, {100 * kernels.half_byte_share:.1f} % of bytes in half"
    )


def resolve_flavor(flavor: Literal["auto"] | Flavor) -> Flavor:
    """Return the flavour asked for; for ``auto`` the one that this machine can use."""
    from exporters.backends import choose_flavor

    return choose_flavor() if flavor == "auto" else flavor


def require_delivered(engine: Built | RefusedEngine) -> Built:
    """Return what was built; exit with status 1 and the reasons if it lacks its precision."""
    from swin_deploy.artifacts.engine_file import RefusedEngine

    if isinstance(engine, RefusedEngine):
        say(f"failed: {engine.text}", fg="red")
        click.get_current_context().exit(CHECK_FAILED)
    return engine
