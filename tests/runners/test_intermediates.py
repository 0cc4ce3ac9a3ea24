from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exported import copy_of, exported
from torch import nn

from exporters.errors import ComparisonError
from exporters.weights import without_weights
from swin_deploy.checkpoints.load import load_model
from swin_deploy.deploy.fold import fold
from swin_deploy.runners.intermediates import (
    Tap,
    TappedModule,
    tap_outputs,
    tappable_graph,
    tappable_module,
)

TAPS = (Tap("1"), Tap("2", "in"), Tap("2"))


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()


def test_tapped_module_gives_what_leaves_and_enters_behind_its_outputs() -> None:
    module, images = layers(), torch.randn(3, 4)
    output, relu, into, last = TappedModule(module, TAPS)(images)
    torch.testing.assert_close(output, module(images))
    torch.testing.assert_close(relu, module[1](module[0](images)))
    assert torch.equal(relu, into)
    assert torch.equal(output, last)
    assert not module[1]._forward_hooks


def test_tapped_module_keeps_the_first_call_of_a_shared_module() -> None:
    shared = nn.ReLU()
    module = nn.Sequential(nn.Linear(4, 4), shared, nn.Linear(4, 4), shared)
    images = torch.randn(3, 4)
    _, first = TappedModule(module, (Tap("1"),))(images)
    torch.testing.assert_close(first, module[0](images).relu())


def test_tapped_module_without_that_part_is_an_error() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        TappedModule(layers(), (Tap("nothing"),))(torch.randn(1, 4))


def test_tappable_graph_and_module_give_the_same_tensors(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    module = fold(load_model("notebook-digits").reference)
    graph = exported("digits")
    images = np.random.default_rng(0).standard_normal((2, 3, 56, 56), dtype=np.float32)
    taps = (
        Tap("embed"),
        Tap("layers.1.attention.qkv"),
        Tap("layers.1.attention.bias", "in"),
        Tap("layers.1.attention.bias"),
        Tap("layers.1.mlp", "in"),
        Tap("layers.2"),
        Tap("heads.5.2", "in"),
    )
    found = []
    onnx.save(graph, tmp_path / "m.onnx")
    of_file = tappable_graph(tmp_path / "m.onnx", without_weights(graph), "fp32")
    for probed in (tappable_module(module, "fp32"), of_file):
        assert {tap.path for tap in taps} <= probed.paths
        assert set(probed.reorders) >= {"layers.1.reorder_before", "layers.2.reorder_before"}
        with probed.open(taps) as runner:
            found.append(runner.run(images))
    assert len(found[0]) == len(found[1]) == 1 + len(taps)
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-4)


def test_tap_outputs_are_what_a_graph_lacks() -> None:
    graph = exported("digits")
    before = copy_of(graph)
    extra = tap_outputs(graph, (Tap("embed"),))
    assert graph == before
    graph.MergeFrom(extra)
    assert [value.name for value in graph.graph.output] == ["logits", "tap_0"]
    assert len(graph.graph.node) == len(before.graph.node) + 1


def test_tap_outputs_of_a_part_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ComparisonError, match=r"has no node of layers\.9"):
        tap_outputs(exported("digits"), (Tap("layers.9"),))
