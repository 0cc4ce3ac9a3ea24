"""Swin Transformer checkpoints to verified TensorRT engines.

``load`` a checkpoint, ``export`` it to ONNX, ``build`` an engine, ``check`` the files against the
checkpoint, and classify pictures with a ``Predictor``; ``export_sizes`` exports one model at
several image sizes, ``replace_backbone`` puts the deploy model in the place of the Swin inside a
larger one. docs/python.md has an example of each.

Names load when they are first used: importing this package loads neither PyTorch nor NumPy.
"""

from __future__ import annotations

from exporters import __version__ as __version__

TYPE_CHECKING = False  # type checkers know the name; importing typing would take longer
if TYPE_CHECKING:
    from exporters.errors import (
        BuildError,
        CheckpointError,
        ComparisonError,
        ConfigError,
        DeployError,
        ExportError,
        FileError,
        MissingBackendError,
    )
    from swin_deploy.api.border import Artifact
    from swin_deploy.api.checks import Report, check
    from swin_deploy.api.engines import build
    from swin_deploy.api.models import Model, load
    from swin_deploy.api.sizes import export_sizes
    from swin_deploy.api.swaps import replace_backbone
    from swin_deploy.artifacts.engine_file import Listener
    from swin_deploy.images.preprocessing import PreprocessingChoice
    from swin_deploy.predict.predictor import Prediction, Predictor, Scored
    from swin_deploy.swap.replace import Swap

__all__ = [
    "Artifact",
    "BuildError",
    "CheckpointError",
    "ComparisonError",
    "ConfigError",
    "DeployError",
    "ExportError",
    "FileError",
    "Listener",
    "MissingBackendError",
    "Model",
    "Prediction",
    "Predictor",
    "PreprocessingChoice",
    "Report",
    "Scored",
    "Swap",
    "build",
    "check",
    "export_sizes",
    "load",
    "replace_backbone",
]
_HOMES = {
    "Artifact": "swin_deploy.api.border",
    "Listener": "swin_deploy.artifacts.engine_file",
    "Model": "swin_deploy.api.models",
    "Prediction": "swin_deploy.predict.predictor",
    "Predictor": "swin_deploy.predict.predictor",
    "PreprocessingChoice": "swin_deploy.images.preprocessing",
    "Report": "swin_deploy.api.checks",
    "Scored": "swin_deploy.predict.predictor",
    "Swap": "swin_deploy.swap.replace",
    "build": "swin_deploy.api.engines",
    "check": "swin_deploy.api.checks",
    "export_sizes": "swin_deploy.api.sizes",
    "load": "swin_deploy.api.models",
    "replace_backbone": "swin_deploy.api.swaps",
}

if not TYPE_CHECKING:  # hidden from type checkers, so that they notice unknown names

    def __getattr__(name: str) -> object:
        """Load a public name on first use (PEP 562)."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        value = getattr(importlib.import_module(_HOMES.get(name, "exporters.errors")), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
