"""Small models, trained-like weights, recorded data, how far outputs are apart, commands."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from command_line import DIGITS, HALF_STEM, STEM, Command, Outcome, call_main
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from exporters import to_onnx
from exporters.artifact import manifest_path, write_atomic
from swin_deploy.config import SwinConfig, notebook_config
from swin_deploy.reference.notebook import NotebookSwin, RelativeEmbeddings
from swin_deploy.report.to_json import to_json

Model = TypeVar("Model", bound=nn.Module)

DATA_PATH = Path(__file__).parent / "data"

# Stage 1 has four windows, stage 2 has one.
TINY = SwinConfig(
    img_size=56, patch_size=4, window_size=7, embed_dim=16, depths=(2, 2), num_heads=(2, 4)
)
TINY_WITH_HEAD = dataclasses.replace(TINY, num_classes=10)

# What two float32 computations of the same model may differ by, in units of the RMS.
FLOAT32_TOLERANCE = 1e-5
# A wrong model differs by more than this, or the check that passes the right one means little.
REJECTED = 100 * FLOAT32_TOLERANCE

# Threads that wait for each other on shared cores cost these small models more than they bring.
torch.set_num_threads(1)


def rms_error(actual: Tensor, reference: Tensor) -> float:
    """Largest difference over the reference's RMS, in float64.

    Infinite for other shapes, and for values that are not finite.
    """
    a, b = actual.detach().double(), reference.detach().double()
    if a.shape != b.shape or not (a.isfinite().all() and b.isfinite().all()):
        return float("inf")
    return float((a - b).abs().max() / b.square().mean().sqrt())


def seeded_images(config: SwinConfig, batch: int = 2, seed: int = 0) -> Tensor:
    """Images [batch, in_channels, rows, columns] with the statistics of normalised ones."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, config.in_channels, *config.image, generator=generator)


def build_reference(config: SwinConfig, seed: int = 0) -> NotebookSwin:
    """The reference model in evaluation mode, with trained-like random values."""
    return randomised(NotebookSwin(config), seed=seed).eval()


@torch.no_grad()
def randomised(model: Model, seed: int = 0) -> Model:
    """Give every parameter, frozen tables too, values such as training leaves; returns ``model``.

    Initial values hide mistakes: biases of 0 and LayerNorm scales of 1 drop out of the sums. Here
    biases are large, scales are spread around 1, and a few channels are outliers.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(like: Tensor, std: float) -> Tensor:
        return torch.randn(like.shape, generator=generator) * std

    def outliers(channels: int, factor: float) -> Tensor:
        picked = torch.rand(channels, generator=generator) < 0.03
        return torch.where(picked, factor, 1.0)

    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            fan_in = module.weight[0].numel()
            spread = outliers(len(module.weight), 3.0)
            weight = normal(module.weight.flatten(1), 0.6 * fan_in**-0.5) * spread[:, None]
            module.weight.copy_(weight.reshape(module.weight.shape))
            if module.bias is not None:
                module.bias.copy_(normal(module.bias, 0.3))
        elif isinstance(module, nn.LayerNorm):
            scales = normal(module.weight, 0.3).exp()
            module.weight.copy_(scales * outliers(len(scales), 3.0))
            module.bias.copy_(normal(module.bias, 0.3))
        elif isinstance(module, RelativeEmbeddings):
            module.embeddings.copy_(normal(module.embeddings, 1.0))
    return model


def golden_reference(img_size: int) -> NotebookSwin:
    """The reference model with the recorded weights, in evaluation mode."""
    model = NotebookSwin(notebook_config(img_size=img_size, depths=(2, 2)))
    weights = load_file(DATA_PATH / "notebook_depth2-2_112.weights.safetensors")
    model.load_state_dict({name: value.float() for name, value in weights.items()})
    return model.eval()


def golden_run(img_size: int) -> dict[str, Tensor]:
    """What the notebook's own model computed: ``x``, ``stage_input``, ``after_stages.0``, ``y``."""
    return load_file(DATA_PATH / f"notebook_depth2-2_{img_size}.io.safetensors")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first: one that began last would leave a core idle at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _folder_is_kept() -> Iterator[None]:
    """A test that leaves the current folder elsewhere fails, and not those after it."""
    here = Path.cwd()
    yield
    assert Path.cwd() == here


@pytest.fixture
def tiny_reference() -> NotebookSwin:
    """A small reference model in evaluation mode, with trained-like values."""
    return build_reference(TINY)


@pytest.fixture
def tiny_images() -> Tensor:
    """Two seeded images for ``tiny_reference``."""
    return seeded_images(TINY)


@pytest.fixture
def swin(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Command:
    """The command line in this process, in an empty folder; native output is seen too."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        status = call_main(arguments)
        return Outcome(status, *capfd.readouterr())

    return call


@pytest.fixture(scope="session", autouse=True)
def _traced_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Exports take a trace of the same model from this test run; ``traced_anew`` undoes it."""
    from exported import trace_once

    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = base / "traces"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(to_onnx, "_trace", functools.partial(trace_once, folder=folder))
        yield


@pytest.fixture
def traced_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every export has a trace of its own."""
    from exported import TRACE

    monkeypatch.setattr(to_onnx, "_trace", TRACE)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose engines/ has the float32 export of the digits model."""
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert call_main(("--quiet", "export", "--model", "notebook-digits")) == 0
    return folder


@pytest.fixture(scope="session")
def built(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose engines/ has the export, its float16 form and the engine of that."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX builds engines without a GPU")
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(exported / "engines", folder / "engines")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert call_main(("--quiet", "build-trt", "--fp16", "--flavor", "tensorrt-rtx")) == 0
    return folder


@pytest.fixture
def full(exported: Path) -> Path:
    return exported / "engines" / f"{STEM}.onnx"


@pytest.fixture
def half(built: Path) -> Path:
    return built / "engines" / f"{HALF_STEM}.onnx"


@pytest.fixture
def engine(built: Path) -> Path:
    return built / "engines" / f"{HALF_STEM}.engine"


@pytest.fixture
def own_engine(engine: Path, tmp_path: Path) -> Path:
    """A copy of the engine and its manifest, to damage."""
    copy = tmp_path / "own.engine"
    shutil.copy(engine, copy)
    shutil.copy(manifest_path(engine), manifest_path(copy))
    return copy


@pytest.fixture
def place(swin: Command, full: Path, tmp_path: Path) -> Path:
    """The current folder, with something of every kind that a command reads."""
    from report_samples import FAILING, PASSING, make_evaluation

    from swin_deploy.report.write import write_report

    shutil.copy(full, "m.onnx")
    shutil.copy(manifest_path(full), "m.onnx.json")
    state = load_file(DIGITS)
    for name in ("w.safetensors", "ckpt/model.safetensors", "parts/model-1.safetensors"):
        Path(name).parent.mkdir(exist_ok=True)
        save_file(state, name)
    index = {"weight_map": dict.fromkeys(state, "model-1.safetensors")}
    Path("parts/model.safetensors.index.json").write_text(json.dumps(index))
    write_report(PASSING, tmp_path / "a")
    write_report(FAILING, tmp_path / "b")
    Path("evaluation.json").write_text(json.dumps(to_json(make_evaluation(weights="model.pt"))))
    Path("val.csv").write_text("path,label\n")
    write_atomic(Path("pictures/3/x.png"), b"picture")
    return tmp_path
