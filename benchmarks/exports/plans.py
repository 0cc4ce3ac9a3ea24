"""What TensorRT-RTX makes of a file at one batch, without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch

from benchmarks.exports.models import Images, Model, trained_like
from benchmarks.exports.routes import Route, export_peer, noted
from exporters.engine.to_engine import build_engine
from exporters.half_precision import to_half
from exporters.spec import BatchProfile, EngineOptions


def plan_of(graph: onnx.ModelProto, batch: int) -> dict[str, Any]:
    """Return the figures of the engine that is built from a graph for one batch."""
    profile = BatchProfile(batch, batch, batch)
    built = build_engine(graph, profile, options=EngineOptions("tensorrt-rtx"))
    plan = built.plan
    return {
        "kernels": plan.kernel_count,
        "fused": f"{plan.fused_attention} of {plan.attention_blocks}",
        "megabytes": plan.bytes_moved / 1e6,
        "engine_mb": len(built.data) / 1e6,
    }


def plan_of_peer(model: Model, route: Route, path: Path, images: Images) -> dict[str, Any]:
    """Return the figures of a library's float16 engine, from the first form that is built.

    The graph itself in float16; where that fails, the export of the ``.half()`` module, and at last
    that for the batch alone. ``notes`` say why a form failed.
    """
    example = torch.from_numpy(images)

    def half_module(*, dynamic: bool) -> onnx.ModelProto:
        loaded = trained_like(model)
        return export_peer(loaded, route, example, dynamic=dynamic, dtype=torch.float16)

    forms: dict[str, Callable[[], onnx.ModelProto]] = {
        "graph": lambda: to_half(onnx.load(path), io_precision="fp32"),
        ".half()": lambda: half_module(dynamic=True),
        f".half(), batch {model.batch}": lambda: half_module(dynamic=False),
    }
    notes: list[str] = []
    for name, make in forms.items():
        with noted(notes, name):
            return plan_of(make(), model.batch) | {"form": name, "notes": notes}
    return {"notes": notes}
