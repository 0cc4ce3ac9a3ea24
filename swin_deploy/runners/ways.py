"""The ways to run a model that are asked for by name, next to those that each file has."""

from __future__ import annotations

from collections.abc import Iterable

from swin_deploy.runners.deployed import TORCH_WAYS, TorchWay
from swin_deploy.runners.openvino import OPENVINO_WAYS, OpenvinoWay

Way = TorchWay | OpenvinoWay
WAYS: tuple[Way, ...] = (*TORCH_WAYS, *OPENVINO_WAYS)


def torch_ways(ways: Iterable[Way]) -> tuple[TorchWay, ...]:
    """Return the ways that run the deploy model in PyTorch, in order, each once."""
    return tuple(one for one in dict.fromkeys(ways) if one in TORCH_WAYS)


def openvino_ways(ways: Iterable[Way]) -> tuple[OpenvinoWay, ...]:
    """Return the ways that run ONNX files in OpenVINO, in order, each once."""
    return tuple(one for one in dict.fromkeys(ways) if one in OPENVINO_WAYS)
