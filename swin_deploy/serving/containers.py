"""Containers of Triton and the version of TensorRT in each: an engine fits one version.

An engine runs in the version that built it; one that was built to be compatible runs in later ones
of the same major version, too. NVIDIA's containers of a month have one TensorRT, which its support
matrix names (docs.nvidia.com/deeplearning/frameworks/support-matrix). That page could not be read
whole when this table was made: each row was seen in public logs of the month's containers, so a
bundle's Dockerfile asks the container itself, and stops if the version is another one.
"""

from __future__ import annotations

from exporters.errors import ConfigError
from exporters.flavors import FLAVORS
from swin_deploy.runners.engine_manifest import EngineManifest

IMAGE = "nvcr.io/nvidia/tritonserver"
# TensorRT by release of the containers; the last one is for ONNX files.
RELEASES = {
    "25.10": "10.13.3",
    "25.11": "10.14.1",
    "26.03": "10.16.0",
    "26.04": "10.16.1",
    "26.07": "11.1.0",
}
MATRIX = "https://docs.nvidia.com/deeplearning/frameworks/support-matrix/index.html"


def image_of(release: str) -> str:
    """Return the name of a release's container with the Python, ONNX and TensorRT backends."""
    return f"{IMAGE}:{release}-py3"


def release_for(engine: EngineManifest | None) -> str:
    """Return the release whose container runs an engine; empty if none is known.

    Args:
        engine: The engine's manifest; None for an ONNX file, which every release runs.

    Raises:
        ConfigError: If Triton has no backend for engines of this flavour.
    """
    if engine is None:
        return list(RELEASES)[-1]
    require_backend(engine)
    wanted = short_version(engine.version)
    exact = [release for release, version in RELEASES.items() if version == wanted]
    if exact or not engine.targets.version_compatible:
        return exact[-1] if exact else ""
    later = [one for one, here in RELEASES.items() if engine.targets.fits_version(wanted, here)]
    return later[0] if later else ""


def require_backend(engine: EngineManifest) -> None:
    """Refuse an engine of a flavour that Triton has no backend for; raises ``ConfigError``."""
    if not FLAVORS[engine.flavor].on_triton:
        raise ConfigError(
            f"{engine.path} is an engine of {FLAVORS[engine.flavor].title}, which Triton's "
            "TensorRT backend does not load; give the ONNX file, or build the engine with "
            "swin-deploy build-trt --flavor tensorrt"
        )


def short_version(version: str) -> str:
    """Return the three numbers of a version of TensorRT that its engines depend on."""
    return ".".join(version.split(".")[:3])
