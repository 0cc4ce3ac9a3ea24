"""The texts of a bundle, from the templates next to this file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2

GPU_LIMIT = "nvidia.com/gpu"
PLACE = "pvc://models/{name}/models"  # the address that a user is to replace


def text_of(template: str, values: Mapping[str, Any]) -> str:
    """Return a text of a bundle.

    Args:
        template: Name of the template.
        values: Values that it names.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("swin_deploy.serving"),
        autoescape=False,  # Markdown and Python, not HTML
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(values)


def kserve_text(name: str, *, engine: bool) -> bytes:
    """Return an InferenceService of KServe over a model repository.

    Args:
        name: Name of the model for clients.
        engine: True for a TensorRT engine, which needs a GPU.
    """
    values = {
        "name": name.lower().replace("_", "-").replace(".", "-"),
        "place": PLACE.format(name=name),
        "format": "tensorrt" if engine else "onnx",
        "gpu": GPU_LIMIT if engine else "",
    }
    return text_of("inferenceservice.yaml", values).encode()
