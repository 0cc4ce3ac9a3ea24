"""Which part of the model nodes and kernels belong to, by the names of each exporter."""

import dataclasses
import io
import itertools
from collections import Counter

import numpy as np
import onnx
import pytest
from exported import make_graph
from onnx import helper
from rich.console import Console

from exporters.errors import BuildError
from exporters.plan import KINDS, Block, Kernel, KernelPlan
from exporters.plan.blocks import fill_forward, group_kernel, group_nodes
from exporters.plan.roofline import GPUS, bound_plan
from exporters.plan.totals import block_pairs, block_totals, require_blocks
from exporters.plan.values import infer_values
from exporters.plan.work import count_work
from swin_deploy.report.plan_tables import block_table, pair_table
from swin_deploy.report.terminal import render_blocks, render_launches

# Module paths of two blocks, of what lies around them, and the parts that these are.
OURS = {
    "embed.0.linear": "embed", "layers.0.attention": "layers.0", "layers.0.mlp.0": "layers.0",
    "layers.1.linear": "layers.1", "layers.2.attention": "layers.2", "heads.3.1": "heads",
}  # fmt: skip
TIMM = {
    "patch_embed.proj": "patch_embed", "layers.0.blocks.0.attn": "layers.0.blocks.0",
    "layers.0.blocks.0.mlp.fc1": "layers.0.blocks.0",
    "layers.0.blocks.1.attn": "layers.0.blocks.1",
    "layers.1.downsample.reduction": "layers.1.downsample",
    "layers.1.blocks.0.attn": "layers.1.blocks.0", "head.fc": "head",
}  # fmt: skip
TORCHVISION = {
    "features.0.0": "features.0", "features.1.0.attn": "features.1.0",
    "features.1.0.mlp.0": "features.1.0", "features.1.1.attn": "features.1.1",
    "features.2.reduction": "features.2",
    "features.3.0.attn": "features.3.0", "head": "head",
}  # fmt: skip
HUGGINGFACE = {
    "swin.embeddings.patch_embeddings": "swin.embeddings",
    "swin.encoder.layers.0.blocks.0.attention.self": "swin.encoder.layers.0.blocks.0",
    "swin.encoder.layers.0.blocks.0.output": "swin.encoder.layers.0.blocks.0",
    "swin.encoder.layers.0.blocks.1.attention.self": "swin.encoder.layers.0.blocks.1",
    "swin.encoder.layers.0.downsample": "swin.encoder.layers.0.downsample",
    "swin.encoder.layers.1.blocks.0.attention.self": "swin.encoder.layers.1.blocks.0",
    "classifier": "classifier",
}  # fmt: skip
LIBRARIES = {"ours": OURS, "timm": TIMM, "torchvision": TORCHVISION, "huggingface": HUGGINGFACE}


def plain_name(path, index):
    return f"{path}/MatMul_{index}"


def old_exporter_name(path, index):
    """``/layers/layers.0/blocks/blocks.0/attn/MatMul``: a list comes before its place."""
    parts = path.split(".")
    shown: list[str] = []
    for place, part in enumerate(parts):
        shown.append(f"{shown[-1]}.{part}" if part.isdecimal() and place else part)
    return f"/{'/'.join(shown)}/MatMul_{index}"


def nameless(path, index):
    return f"node_matmul_{index}"


def graph_of(paths, name, *, scopes=False):
    """A product for each path, and an attention where a path says so."""
    nodes: list[onnx.NodeProto] = []
    last = "images"

    def add(op, inputs, output, path):
        nodes.append(helper.make_node(op, inputs, [output], name=name(path, len(nodes))))
        if scopes:
            levels = [".".join(path.split(".")[: n + 1]) for n in range(path.count(".") + 1)]
            entry = nodes[-1].metadata_props.add()
            entry.key, entry.value = "pkg.torch.onnx.name_scopes", str(["", *levels, "mm"])
        return output

    for step, path in enumerate(paths):
        if "att" in path:
            scores = add("MatMul", [last, last], f"s{step}", path)
            shares = add("Softmax", [scores], f"p{step}", path)
            last = add("MatMul", [shares, last], f"x{step}", path)
        else:
            last = add("MatMul", [last, "w"], f"x{step}", path)
    weights = {"w": np.zeros((8, 8), np.float32)}
    return make_graph(*nodes, inputs={"images": ("b", 8, 8)}, outputs={}, weights=weights)


def groups_of(graph):
    return group_nodes(graph, count_work(graph, infer_values(graph, 2)))


@pytest.mark.parametrize(
    ("name", "scopes"),
    [(plain_name, False), (old_exporter_name, False), (nameless, True)],
    ids=["plain names", "old exporter", "new exporter"],
)
@pytest.mark.parametrize("paths", LIBRARIES.values(), ids=LIBRARIES)
def test_group_nodes_by_the_paths_of_every_library(paths, name, scopes):
    graph = graph_of(paths, name, scopes=scopes)
    parts = list(dict.fromkeys(groups_of(graph).values()))
    assert parts == list(dict.fromkeys(paths.values()))


@pytest.mark.parametrize("scopes", ["", "[", "3", "['x']", "['', '']"])
def test_group_nodes_without_paths_is_by_position(scopes):
    graph = graph_of(TIMM, nameless)
    for node in graph.graph.node:
        entry = node.metadata_props.add()
        entry.key, entry.value = "pkg.torch.onnx.name_scopes", scopes
    groups = groups_of(graph)
    assert len(groups) == len(graph.graph.node)
    parts = Counter(groups.values())
    assert list(parts.items()) == [
        ("to attention 1", 4),
        ("to attention 2", 4),
        ("to attention 3", 4),
        ("after attention 3", 1),
    ]


def test_group_nodes_of_equal_paths_is_by_position():
    graph = graph_of(("a.att", "b", "a.att"), plain_name)
    assert set(groups_of(graph).values()) == {"to attention 1", "to attention 2"}


def test_group_nodes_of_nodes_without_names():
    graph = graph_of(TIMM, nameless)
    for node in graph.graph.node:
        node.ClearField("name")
    assert "node_of_x0" in groups_of(graph)


def test_a_node_outside_all_paths_goes_with_the_one_before_it():
    graph = graph_of(("stem", "blocks.0.att", "blocks", "blocks.1.att"), plain_name)
    groups = list(groups_of(graph).values())
    assert groups == ["stem", *["blocks.0"] * 4, *["blocks.1"] * 3]


GROUPS = {"a": "first", "b": "first", "c": "second", "d": "second"}


@pytest.mark.parametrize(
    ("nodes", "flops", "block"),
    [
        (["a", "b", "c"], {}, "first"),
        (["a", "c"], {}, "second"),
        (["a", "b", "c"], {"c": 9}, "second"),
        (["unknown"], {}, ""),
        ([], {}, ""),
    ],
    ids=["most nodes", "the later of two", "its product", "unknown node", "no node"],
)
def test_group_kernel(nodes, flops, block):
    assert group_kernel(nodes, GROUPS, Counter(flops)) == block


@pytest.mark.parametrize(
    ("names", "filled"),
    [
        (["", "a", "", "b", ""], ["a", "a", "a", "b", "b"]),
        (["", ""], ["", ""]),
        ([], []),
    ],
)
def test_fill_forward(names, filled):
    assert fill_forward(names) == filled


def plan_of(*blocks):
    """A plan; each block is its name, attention blocks, MB, and MB at the floor."""
    kernels = [
        Kernel(
            f"k{index}",
            "gemm",
            "kgen",
            mb * 10**6,
            0,
            (),
            (),
            flops=7,
            block=name,
            bytes_by_type={"INT8": mb * 10**6},
        )
        for index, (name, _, mb, _) in enumerate(blocks)
    ]
    parts = tuple(Block(name, attention, floor * 10**6) for name, attention, _, floor in blocks)
    return KernelPlan(8, 2, tuple(kernels), "tensorrt-rtx", "1.7.1", blocks=parts)


A = plan_of(("embed", 0, 3, 1), ("b.0", 1, 10, 8), ("merge", 0, 2, 2), ("b.1", 1, 6, 5))
B = plan_of(
    ("stem", 0, 1, 1), ("norm", 0, 1, 0), ("f.1", 1, 15, 8), ("f.3", 1, 6, 5), ("head", 0, 1, 1)
)


def test_block_totals_have_every_byte_once():
    totals = block_totals(A)
    assert [total.name for total in totals] == ["embed", "b.0", "merge", "b.1"]
    assert sum(total.bytes_moved for total in totals) == A.bytes_moved == 21_000_000
    assert [total.floor_ratio for total in totals] == [3.0, 1.25, 1.0, 1.2]
    assert totals[1].bytes_by_kind == {"gemm": 10_000_000}
    assert [total.bytes_by_type for total in totals] == [
        {"INT8": one.bytes_moved} for one in totals
    ]
    assert A.floor_ratio == 21 / 16
    assert block_table(A).rows[-1][:5] == ("all", "4", "21.0", "100.0%", "1.31x")


def test_block_pairs_match_by_place_among_the_attention_blocks():
    pairs = block_pairs(A, B)
    names = [(p.first and p.first.name, p.second and p.second.name) for p in pairs]
    assert names == [
        ("embed", "stem, norm"), ("b.0", "f.1"), ("merge", None), ("b.1", "f.3"), (None, "head"),
    ]  # fmt: skip
    assert [pair.more_bytes for pair in pairs] == [-1_000_000, 5_000_000, -2_000_000, 0, 1_000_000]
    assert sum(pair.more_bytes for pair in pairs) == B.bytes_moved - A.bytes_moved


def test_pair_table_shows_the_largest_difference_first():
    rows = pair_table(A, B, count=2).rows
    assert [row[:2] for row in rows] == [("b.0", "f.1"), ("merge", "-")]
    assert rows[0][6] == "+5.0"
    assert len(pair_table(A, B).rows) == 5


def test_a_plan_without_blocks_is_refused_where_they_are_needed():
    require_blocks(A)
    with pytest.raises(BuildError, match=r"older release.*build the engine again"):
        require_blocks(KernelPlan(8, 2, A.kernels, "tensorrt-rtx", "1.7.1"))


@pytest.mark.parametrize(("mb", "shown"), [(123, "123.0"), (12345, "12,345.0")])
@pytest.mark.parametrize("render", [render_blocks, render_launches])
def test_tables_of_long_names_keep_every_digit_at_100_columns(mb, shown, render):
    names = [f"model.swin.encoder.layers.{index}.blocks.{index}" for index in range(4)]
    plan = plan_of(*[(name, 1, mb, mb) for name in names for _ in KINDS])
    kinds = itertools.cycle(KINDS)
    kernels = [dataclasses.replace(kernel, kind=next(kinds)) for kernel in plan.kernels]
    plan = dataclasses.replace(plan, kernels=tuple(kernels), blocks=plan.blocks[:: len(KINDS)])
    page = io.StringIO()
    Console(file=page, width=100).print(render(plan, [bound_plan(plan, GPUS["A100-40GB"])]))
    lines = page.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    assert "attention" in page.getvalue()
    if mb > 1000 and render is render_blocks:  # too wide for columns: a block of lines a row
        assert page.getvalue().count(f": {shown}") == 3 * len(names)
        return
    rows = [line.split() for line in lines if "…" in line]
    assert len(rows) == (4 if render is render_blocks else 4 * len(KINDS))
    assert len({len(row) for row in rows}) == 1
    assert all(shown in row and any(cell.endswith("%") for cell in row) for row in rows)
    if mb < 1000:
        ends = {cell[-8:] for row in rows for cell in row if cell.startswith("…")}
        assert ends == {f"blocks.{index}" for index in range(4)}
