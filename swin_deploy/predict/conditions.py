"""What answers depend on, so that those of another model are never taken for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from exporters import __version__
from exporters.text_files import as_utf8
from swin_deploy.artifacts.facts import ModelFacts
from swin_deploy.config import Size
from swin_deploy.images.preprocessing import Preprocessing
from swin_deploy.predict.predictor import Predictor

KEY_FACTS = ("config", "weights", "preprocessing", "class_names", "scores")


@dataclass(frozen=True)
class Described:
    """A predictor without its model: what a command says of it, also of one on another machine.

    Attributes:
        name: Name of the file, or of the model.
        facts: Facts of the model: sizes, weights, preprocessing, class names.
        backend: The library that runs it, and the device.
        notes: Remarks on what was found, skipped or changed while loading.
        sizes: Preprocessing for each image size; empty if there is only that of ``facts``.
        classifies: True if the model gives class logits.
        top: Number of classes to name; None for all that reach the threshold.
        threshold: Least score of a class to be named; None for any.
        sha256: SHA-256 digest of the file; empty for random weights.
    """

    name: str
    facts: ModelFacts
    backend: str
    notes: tuple[str, ...]
    sizes: Mapping[Size, Preprocessing]
    classifies: bool
    top: int | None
    threshold: float | None
    sha256: str

    @property
    def conditions(self) -> dict[str, Any]:
        """What answers depend on: the model, its runner, versions, preprocessing."""
        import PIL

        facts = self.facts.to_dict()
        return {
            "artifact": as_utf8(self.name),
            "sha256": self.sha256,
            "runs_on": self.backend,
            "versions": f"swin-deploy {__version__}, Pillow {PIL.__version__}",
            **{name: facts[name] for name in KEY_FACTS},
            "threshold": self.threshold,
            **({"sizes": list(map(str, self.sizes))} if self.sizes else {}),
        }


def described(predictor: Predictor) -> Described:
    """Describe a predictor."""
    return Described(
        name=predictor.name,
        facts=predictor.facts,
        backend=predictor.runner.backend,
        notes=tuple(predictor.notes),
        sizes=dict(predictor.sizes),
        classifies=predictor.classifies,
        top=predictor.top,
        threshold=predictor.threshold,
        sha256=predictor.sha256,
    )
