"""Triton's model of the answers: logits in; scores, the best classes and the logits out.

A bundle has this file as a ``model.py`` of its own, see ``standalone``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from swin_deploy.images.scores import Scores, scores_of

LABELS_FILE = "labels.txt"  # in the model's folder: Triton reads it for its classification too


class TritonPythonModel:
    """Scores and the best classes of logits, as Triton's Python backend runs it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the names of the classes; Triton calls it once.

        Args:
            args: Strings from Triton: the place of the model, and its configuration as JSON.
        """
        import triton_python_backend_utils as triton

        self._triton = triton
        config = json.loads(args["model_config"])
        self._kind = cast("Scores", config["parameters"]["scores"]["string_value"])
        labels = Path(args["model_repository"]) / LABELS_FILE
        self._labels = labels.read_text(encoding="utf-8").split("\n")[:-1]
        self._top = int(config["output"][1]["dims"][0])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return the scores and the best classes of some requests.

        Args:
            requests: Requests of Triton, each with logits [B, classes].
        """
        triton, responses = self._triton, []
        for request in requests:
            logits = triton.get_input_tensor_by_name(request, "logits").as_numpy()
            scores = scores_of(logits, self._kind)
            tensors = [
                triton.Tensor("scores", scores.astype(np.float32)),
                triton.Tensor("answers", best_of(scores, self._labels, top=self._top)),
                triton.Tensor("logits", logits),
            ]
            responses.append(triton.InferenceResponse(output_tensors=tensors))
        return responses


def answer_to(
    logits: NDArray[Any], labels: list[str], kind: Scores, *, top: int
) -> NDArray[np.object_]:
    """Return the best classes of logits, as ``best_of`` does of scores.

    Args:
        logits: Logits, [B, classes].
        labels: Name of each class.
        kind: Way from the logits to scores.
        top: Number of classes.

    Returns:
        Texts in UTF-8, [B, top].
    """
    return best_of(scores_of(logits, kind), labels, top=top)


def best_of(scores: NDArray[np.float64], labels: list[str], *, top: int) -> NDArray[np.object_]:
    """Return the best classes of each row as texts ``label:score``, the best first.

    Args:
        scores: Scores, [B, classes].
        labels: Name of each class.
        top: Number of classes.

    Returns:
        Texts in UTF-8, [B, top].
    """
    order = np.argsort(-scores, axis=-1, kind="stable")[:, :top]
    texts = [
        [f"{labels[index]}:{row[index]:.6f}".encode() for index in best]
        for row, best in zip(scores, order.tolist(), strict=True)
    ]
    return np.array(texts, dtype=np.object_)
