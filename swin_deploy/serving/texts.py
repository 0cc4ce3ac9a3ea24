"""The texts of a bundle, from the templates next to this file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jinja2

NOT_PLAIN = re.compile(r"[^a-z0-9]+")
MOST_PLAIN = 40  # KServe makes names of up to 63 letters of it
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


def plain_name(name: str) -> str:
    """Return a name that Docker and Kubernetes take: a letter, then letters, digits and dashes.

    Args:
        name: Name of a model, which may have capitals, dots and underscores, too.
    """
    plain = NOT_PLAIN.sub("-", name.lower()).strip("-")
    led = plain if plain[:1].isalpha() else f"swin-{plain}"
    return led[:MOST_PLAIN].rstrip("-")


def kserve_text(name: str, *, engine: bool, gpu: bool, compatible: bool) -> bytes:
    """Return an InferenceService of KServe over a model repository.

    Args:
        name: Name of the model for clients.
        engine: True for a TensorRT engine, False for an ONNX file.
        gpu: True for a file that runs on a GPU alone.
        compatible: True for one that later versions are asked to run.
    """
    values = {
        "name": plain_name(name),
        "place": PLACE.format(name=plain_name(name)),
        "format": "tensorrt" if engine else "onnx",
        "gpu": GPU_LIMIT if gpu else "",
        "compatible": compatible,
    }
    return text_of("inferenceservice.yaml", values).encode()
