"""BiRefNet's backbones: our export beside the usual one, that of the library's own class.

    .venv/bin/python -m benchmarks.birefnet MODEL SIZE [--birefnet FOLDER] [--rounds N]

A job is one model at one size. Each step is written into the results as soon as it is done, and a
step that is there is not run again. Weights are random with the statistics of trained ones, norms
and biases of q, k and v included, in a checkpoint with BiRefNet's own names (``bb.``).

The usual route is ``torch.onnx.export(dynamo=False)``, opset 17, one image of one size. Its classes
are that of transparent-background (InSPyReNet), which the tests' helper installs into the user's
cache, and with ``--birefnet`` that of a clone of BiRefNet.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import io
import json
import logging
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "support")]

import detector_libraries  # noqa: E402 - after the path
import peers  # noqa: E402 - after the path

from exporters.artifact import write_atomic  # noqa: E402 - after the path
from exporters.backends import load_onnxruntime  # noqa: E402 - after the path
from exporters.engine.to_engine import build_engine  # noqa: E402 - after the path
from exporters.half_precision import to_half  # noqa: E402 - after the path
from exporters.spec import BatchProfile, EngineOptions  # noqa: E402 - after the path
from swin_deploy.bench.conditions import package_versions  # noqa: E402 - after the path
from swin_deploy.checkpoints.load import load_model  # noqa: E402 - after the path
from swin_deploy.deploy.fold import fold  # noqa: E402 - after the path

RESULTS = REPOSITORY / "docs" / "results" / "birefnet-cpu.json"
MODELS: dict[str, dict[str, Any]] = {
    "swin_v1_t": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24],
                  "window_size": 7},
    "swin_v1_l": {"embed_dim": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48],
                  "window_size": 12},
    "tiny": {"embed_dim": 32, "depths": [2, 2], "num_heads": [1, 2], "window_size": 7},
}  # fmt: skip
OPSET = 17
OURS, INSPYRENET, BIREFNET = "swin-deploy", "transparent-background", "BiRefNet"
ONE = BatchProfile(1, 1, 1)
WARMUP = 1


@dataclass(frozen=True)
class Job:
    """One model at one size.

    Attributes:
        model: Name of the model, as BiRefNet's ``config.py`` has it.
        size: Side of its images, in pixels.
        folder: Folder of the files that are made.
        birefnet: Clone of BiRefNet; None to leave its class out.
        rounds: Number of timed rounds.
    """

    model: str
    size: int
    folder: Path
    birefnet: Path | None
    rounds: int

    @property
    def checkpoint(self) -> Path:
        """The checkpoint under BiRefNet's names."""
        return self.folder / f"{self.model}.pth"

    def onnx_path(self, route: str) -> Path:
        """Return the path of a route's ONNX file."""
        return self.folder / f"{self.model}-{self.size}-{route}.onnx"

    @property
    def theirs(self) -> list[str]:
        """The libraries whose class is exported."""
        return [INSPYRENET, *([BIREFNET] if self.birefnet else [])]

    @property
    def images(self) -> Tensor:
        """One image [1, 3, size, size] with the statistics of normalised ones."""
        return torch.randn(1, 3, self.size, self.size, generator=torch.Generator().manual_seed(1))


class Maps(nn.Module):
    """A library's backbone that gives the maps of its stages alone.

    Args:
        backbone: The backbone; InSPyReNet's gives that of its embedding first.
        stages: Number of stages.
    """

    def __init__(self, backbone: nn.Module, stages: int) -> None:
        super().__init__()
        self.backbone, self.stages = backbone, stages

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.backbone(images)[-self.stages :])


def class_of(route: str, birefnet: Path | None) -> Callable[..., nn.Module]:
    """Return the Swin class of a library."""
    if route == INSPYRENET:
        kind: Callable[..., nn.Module] = detector_libraries.transparent_background().SwinTransformer
        return kind
    peers.import_peer("timm")
    sys.path.insert(0, str(birefnet))
    found: Callable[..., nn.Module] = importlib.import_module(
        "models.backbones.swin_v1"
    ).SwinTransformer
    return found


def backbone(job: Job, route: str) -> nn.Module:
    """Return a library's backbone with the weights of the checkpoint, which is made if absent."""
    sizes = MODELS[job.model]
    stages = tuple(range(len(sizes["depths"])))
    model = class_of(route, job.birefnet)(**sizes, out_indices=stages)
    if not job.checkpoint.exists():
        peers.trained_like(model)
        state = {f"bb.{name}": value for name, value in model.state_dict().items()}
        state["decoder.conv_out1.0.weight"] = torch.ones(1, 8, 1, 1)
        torch.save(state, job.checkpoint)
    whole = torch.load(job.checkpoint, weights_only=True)
    own = {name[3:]: value for name, value in whole.items() if name.startswith("bb.")}
    model.load_state_dict(own)
    return Maps(model, len(stages)).eval()


def error(found: Sequence[Any], expected: Sequence[Tensor]) -> float:
    """Return the largest difference of any map's value, in units of the map's RMS."""
    worst = 0.0
    for ours, theirs in zip(found, expected, strict=True):
        a, b = (torch.as_tensor(one).double() for one in (ours, theirs))
        worst = max(worst, float((a - b).abs().max() / b.pow(2).mean().sqrt()))
    return worst


def export_ours(job: Job) -> dict[str, Any]:
    """Export with the command, and return what is known of the file."""
    path, size = job.onnx_path(OURS), str(job.size)
    asked = {"--checkpoint": str(job.checkpoint), "--outputs": "stages", "--image-size": size}
    options = [word for pair in asked.items() for word in pair]
    command = [sys.executable, "-m", "swin_deploy", "export", *options, "--output", str(path)]
    command.append("--force")
    backbone(job, INSPYRENET)  # writes the checkpoint
    subprocess.run(command, check=True, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    return facts(path)


def export_theirs(job: Job, route: str) -> dict[str, Any]:
    """Export a library's class by TorchScript, and return what is known of the file, or why not."""
    path, module = job.onnx_path(route), backbone(job, route)
    names: Any = {"input_names": ["images"], "output_names": stage_names(job)}
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            module, (job.images,), str(path), dynamo=False, opset_version=OPSET, **names
        )
    return facts(path)


def stage_names(job: Job) -> list[str]:
    """Return the outputs' names."""
    return [f"stage{number + 1}" for number in range(len(MODELS[job.model]["depths"]))]


def facts(path: Path) -> dict[str, Any]:
    """Return the number of nodes and the size of an ONNX file."""
    graph = onnx.load(path)
    opset = next(entry.version for entry in graph.opset_import if not entry.domain)
    return {"nodes": len(graph.graph.node), "opset": opset, "mb": path.stat().st_size / 1e6}


def errors(job: Job) -> dict[str, Any]:
    """Compare all that was made with the library's class in PyTorch."""
    images = job.images
    expected = backbone(job, INSPYRENET)(images)
    found = {"own rounding": error(expected, _in_float64(backbone(job, INSPYRENET), images))}
    loaded = load_model(None, job.checkpoint, img_size=job.size, output="stages")
    found["reference"] = error(loaded.reference(images), expected)
    deploy = fold(loaded.reference)
    found["deploy"] = error(deploy(images), expected)
    del loaded, deploy
    if job.birefnet:
        found[f"{BIREFNET}'s class"] = error(backbone(job, BIREFNET)(images), expected)
    for route in (OURS, *job.theirs):
        if job.onnx_path(route).exists():
            outputs = session(job.onnx_path(route)).run(None, {"images": images.numpy()})
            found[f"{route} in ONNX Runtime"] = error(outputs, expected)
    return found


def _in_float64(module: nn.Module, images: Tensor) -> Sequence[Tensor]:
    """Run a copy in float64; masks that the class makes in float32 keep their values there."""
    with warnings.catch_warnings(action="ignore"):
        return copy.deepcopy(module).double()(images.double())


def session(path: Path) -> Any:  # noqa: ANN401 - onnxruntime is untyped
    """Open a file in ONNX Runtime, CPU, one thread."""
    library = load_onnxruntime()
    options = library.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return library.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def plan(job: Job, route: str) -> dict[str, Any]:
    """Return the figures of the float16 engine for one image, planned without a GPU.

    A graph that casts by itself cannot be brought to float16 as it is. Then it is the export of the
    ``.half()`` module, and the graph with its constant parts computed by ONNX Runtime; the plan
    that moves fewer bytes counts.
    """
    forms: dict[str, Callable[[], onnx.ModelProto]] = {
        "graph": lambda: to_half(onnx.load(job.onnx_path(route)), io_precision="fp32")
    }
    if route != OURS:
        forms = {
            ".half()": lambda: half_export(job, route),
            "graph, folded": lambda: to_half(folded(job, route), io_precision="fp32"),
        }
    found: dict[str, dict[str, Any]] = {}
    for name, make in forms.items():
        try:
            found[name] = plan_figures(make())
        except Exception as err:
            if route == OURS:
                raise  # a fault, and no finding
            found[name] = {"failed": reason(err)}
    built = [(row["megabytes"], name) for name, row in found.items() if "failed" not in row]
    return {"forms": found, "best": min(built)[1] if built else None}


def plan_figures(graph: onnx.ModelProto) -> dict[str, Any]:
    """Return the figures of a graph's engine."""
    built = build_engine(graph, ONE, options=EngineOptions("tensorrt-rtx"))
    return {
        "kernels": built.plan.kernel_count,
        "fused": built.plan.fused_attention,
        "attention_blocks": built.plan.attention_blocks,
        "megabytes": built.plan.bytes_moved / 1e6,
        "engine_mb": len(built.data) / 1e6,
    }


def half_export(job: Job, route: str) -> onnx.ModelProto:
    """Export a library's class in half precision, as ``export_theirs`` does in float32."""
    file: Any = io.BytesIO()  # torch.onnx.export takes one, whatever its annotations say
    images = job.images.half()
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            backbone(job, route).half(), (images,), file, dynamo=False, opset_version=OPSET,
            input_names=["images"], output_names=stage_names(job),
        )  # fmt: skip
    return onnx.load_from_string(file.getvalue())


def folded(job: Job, route: str) -> onnx.ModelProto:
    """Return a route's graph with its constant parts computed by ONNX Runtime."""
    path = job.onnx_path(f"{route}-folded")
    library = load_onnxruntime()
    options = library.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    options.graph_optimization_level = library.GraphOptimizationLevel.ORT_ENABLE_BASIC
    file = str(job.onnx_path(route))
    library.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    graph = onnx.load(path)
    path.unlink()
    return graph


def reason(err: Exception) -> str:
    """Return an error in one line."""
    return f"{type(err).__name__}: {' '.join(str(err).split())[:300]}"


def times(job: Job) -> dict[str, Any]:
    """Time the files in turn: process time of a call, one thread, each over ours of the round."""
    routes = [one for one in (OURS, *job.theirs) if job.onnx_path(one).exists()]
    sessions = {route: session(job.onnx_path(route)) for route in routes}
    images = {"images": job.images.numpy()}
    taken: dict[str, list[float]] = {route: [] for route in routes}
    for number in range(WARMUP + job.rounds):
        order = routes if number % 2 else routes[::-1]
        for route in order:
            started = time.process_time()
            sessions[route].run(None, images)
            if number >= WARMUP:
                taken[route].append(time.process_time() - started)
        tell(f"round {number + 1} of {WARMUP + job.rounds}")
    found: dict[str, Any] = {"rounds": job.rounds}
    for route in routes[1:]:
        ratios = np.array(taken[route]) / np.array(taken[OURS])
        found[route] = {
            "ratio": median(ratios.tolist()),
            "least": float(ratios.min()),
            "most": float(ratios.max()),
        }
    return found


def steps(job: Job) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Yield the steps of a job by name, in order."""
    yield f"export {OURS}", lambda: export_ours(job)
    yield from ((f"export {one}", lambda one=one: export_theirs(job, one)) for one in job.theirs)
    yield "errors", lambda: errors(job)
    yield from ((f"plan {one}", lambda one=one: plan(job, one)) for one in (OURS, *job.theirs))
    yield "times", lambda: times(job)


def run(job: Job, results: Path) -> None:
    """Run the steps that the results lack, and write each into them."""
    for name, step in steps(job):
        document = json.loads(results.read_text()) if results.exists() else {}
        jobs = document.setdefault("jobs", {})
        row = jobs.setdefault(f"{job.model} {job.size}", {})
        if name in row:
            continue
        tell(f"{job.model} at {job.size}: {name}")
        try:
            row[name] = step()
        except Exception as err:
            if name.partition(" ")[2] not in job.theirs:
                raise  # a fault of ours, and no finding
            row[name] = {"failed": reason(err)}
        tell(f"  {row[name]}")
        document["conditions"] = conditions(job)
        write_atomic(results, (json.dumps(document, indent=2) + "\n").encode())


def conditions(job: Job) -> dict[str, str]:
    """Return what the figures hold for."""
    found = {
        "weights": "random, as training leaves them",
        "times": "process time, one thread, one image, float32, files in turn, each over ours",
        "plans": "TensorRT-RTX without a GPU, float16, one image",
        INSPYRENET: next(one for one in detector_libraries.WHEELS if one.startswith(INSPYRENET)),
    }
    if job.birefnet:
        found[BIREFNET] = f"commit {commit_of(job.birefnet)}"
    return found | package_versions()


def commit_of(folder: Path) -> str:
    """Return the commit of a clone."""
    line = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip()


def tell(text: str) -> None:
    """Write a line of progress."""
    sys.stderr.write(f"{text}\n")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", choices=tuple(MODELS), help="the backbone")
    parser.add_argument("size", type=int, help="side of the images, in pixels")
    parser.add_argument("--birefnet", type=Path, help="clone of BiRefNet, for its own class")
    parser.add_argument("--rounds", type=int, default=20, help="timed rounds; 20")
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON file of the results")
    parser.add_argument(
        "--work", type=Path, default=REPOSITORY / "engines" / "birefnet", help="folder of the files"
    )
    asked = parser.parse_args(arguments)
    if asked.size < 1 or asked.rounds < 1:
        parser.error("size and --rounds are 1 or more")
    if asked.birefnet and not (asked.birefnet / "models" / "backbones" / "swin_v1.py").is_file():
        parser.error(f"{asked.birefnet} is not a clone of BiRefNet: no models/backbones/swin_v1.py")
    return asked


def main(arguments: Sequence[str]) -> int:
    """Run a job."""
    asked = parse(arguments)
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    logging.disable(logging.WARNING)  # the exporters write pages
    asked.work.mkdir(parents=True, exist_ok=True)
    job = Job(asked.model, asked.size, asked.work, asked.birefnet, asked.rounds)
    run(job, asked.results)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
