"""One graph for a range of image sizes: equal to the reference at each, and quoted as measured."""

import dataclasses
import json
import re
from pathlib import Path

import onnxruntime
import peers
import pytest
import torch
from conftest import FLOAT32_TOLERANCE, REJECTED

from benchmarks.size_range import (
    FOLDED,
    LARGEST,
    USUAL,
    RangeModel,
    config_at,
    export_range,
    image_at,
    largest_error,
    size_inputs,
)
from swin_deploy.config import Size, SwinConfig
from swin_deploy.deploy.fold import fold
from swin_deploy.reference import Reference, build_reference

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "docs" / "results" / "size-range-cpu.json"
SIZES = [FOLDED, Size(224, 224), Size(100, 132), Size(28, 300)]


def small(size: Size) -> SwinConfig:
    config = config_at(size, (2, 2, 2, 2))
    return dataclasses.replace(config, embed_dim=16, num_heads=(2, 4, 8, 16))


@pytest.fixture(scope="module")
def folded() -> tuple[RangeModel, Reference]:
    reference = peers.trained_like(build_reference(small(FOLDED)))
    return RangeModel(fold(reference), small(FOLDED)).eval(), reference


@pytest.fixture(scope="module")
def session(folded) -> onnxruntime.InferenceSession:
    graph = export_range(folded[0], small(FOLDED))
    assert not {"Shape", "If", "Loop"} & {node.op_type for node in graph.graph.node}
    return onnxruntime.InferenceSession(graph.SerializeToString())


def expected(reference: Reference, size: Size) -> list[torch.Tensor]:
    same = build_reference(small(size)).eval()
    same.load_state_dict(dict(reference.named_parameters()))
    return list(same(image_at(size)))


def run(session: onnxruntime.InferenceSession, size: Size, inputs: dict) -> list[torch.Tensor]:
    given = {"images": image_at(size)} | inputs
    found = session.run(None, {name: value.numpy() for name, value in given.items()})
    return [torch.from_numpy(one) for one in found]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: size.sides)
def test_one_graph_equals_the_reference_at_every_size(folded, session, size: Size) -> None:
    found = run(session, size, size_inputs(small(size)))
    assert largest_error(found, expected(folded[1], size)) < FLOAT32_TOLERANCE


@pytest.mark.parametrize("wrong", ["seams1", "kept1", "put1s", "merge1", "real2"])
def test_one_graph_with_a_wrong_input_is_found(folded, session, wrong: str) -> None:
    size = Size(100, 132)
    inputs = size_inputs(small(size))
    value = inputs[wrong]
    inputs[wrong] = value.flip(0) if wrong in ("seams1", "put1s", "merge1") else value * 0 + 1
    found = run(session, size, inputs)
    assert largest_error(found, expected(folded[1], size)) > REJECTED


@pytest.mark.skipif(not RESULTS.is_file(), reason="the results are not installed")
def test_figures_of_the_tuning_page_are_measured() -> None:
    document = json.loads(RESULTS.read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8").partition("## G.")[2]
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]]
        for line in page.splitlines()
        if len(cells := line.split("|")) == 8
    }
    for name, figures in document["engines"].items():
        shown = [
            figures["kernels"],
            f"{figures['fused']}/12",
            figures["host_steps"],
            f"{figures['megabytes']:.1f}" if "megabytes" in figures else "open",
            f"{figures['engine_mb']:.1f}",
        ]
        assert rows[name] == [str(one) for one in shown]
    ends = [min(errors(document)), max(errors(document))]
    assert " to ".join(f"{one:.1e}" for one in ends) in page
    assert f"{document['inputs']} inputs" in page
    weights = [document["inputs_mb"][size.sides] for size in (USUAL, LARGEST)]
    assert " and ".join(f"{one:.1f}" for one in weights) + " MB" in page
    assert re.search(rf"{document['nodes']} nodes", page)


def errors(document: dict) -> list[float]:
    return [row["one file, ONNX Runtime"] for row in document["errors"].values()]
