"""Export a module to ONNX, at the opset asked for, and check that the file is what was asked.

The conversion to the opset is ours, because ``torch.onnx.export`` writes opset 18 at least and
converts down: if its conversion fails, it keeps 18 and only warns.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import hashlib
import json
import logging
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import helper, numpy_helper
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from exporters.errors import DeployError, ExportError
from exporters.half_precision import FLOAT32_ASKED, FLOAT32_MODULES, float32_modules, to_half
from exporters.memory import release_memory
from exporters.quantisation import calibration_of
from exporters.shared_weights import check_shared_weights
from exporters.soundness import require_sound
from exporters.spec import OPSET_RANGE, ExportSpec
from exporters.text_files import listed, shortened
from exporters.weights import check_graph, infer_shapes

# Operators that a graph with a dynamic batch only does not need; TensorRT runs these slowly, on
# the host, or not at all.
DYNAMIC_OPS = frozenset({"If", "Loop", "Scan", "Shape", "Size", "NonZero", "Where", "Range"})
EXPORTER_MINIMUM_OPSET = 18
TRACE_BATCH = 2
KEEP_FLOAT32 = "keep_float32"  # attribute of modules that compute in float32 in any precision


def export_onnx(model: nn.Module, spec: ExportSpec, *, metadata: dict[str, str]) -> onnx.ModelProto:
    """Export ``model`` as ``spec`` says, check the result and infer its shapes.

    Args:
        model: A float32 module in evaluation mode, of one input [B, *spec.input_shape] of
            ``spec.input_type``.
        spec: Shapes, names, opset, batch and precision of the export.
        metadata: Keys and values to write into the file.

    Returns:
        The graph with its weights and inferred shapes.

    Raises:
        ExportError: If the opset is not supported, the export fails, or its result is not what
            was asked for.
    """
    low, high = OPSET_RANGE
    if not low <= spec.opset <= high:
        raise ExportError(f"opset {spec.opset} is not supported; use one from {low} to {high}")
    kept = [name for name, module in model.named_modules() if getattr(module, KEEP_FLOAT32, False)]
    graph = _trace(model, spec)
    del model  # the caller may have released it: its weights are the graph's now
    gc.collect()  # the exporter's graphs are cycles, and hold the weights until they are found
    release_memory()
    _name_nodes_by_module(graph)
    _strip_trace_records(graph)
    _share_equal_tensors(graph)
    _spell_gelu(graph)
    if spec.opset < EXPORTER_MINIMUM_OPSET:
        _lower_to_17(graph)
    helper.set_model_props(graph, metadata | ({FLOAT32_MODULES: json.dumps(kept)} if kept else {}))
    if spec.precision != "fp32":
        graph = to_half(
            graph, io_precision=spec.io_precision, precision=spec.precision, keep=spec.keep
        )
    graph.producer_name = "swin-deploy"
    graph.ClearField("doc_string")
    return check_onnx(graph, spec)


def export_any(
    model: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    names: tuple[tuple[str, ...], tuple[str, ...]],
    *,
    opset: int,
    dynamic: bool,
) -> onnx.ModelProto:
    """Export a module of anybody's, of any tensors, as it is.

    Args:
        model: A module in evaluation mode, from tensors to a tuple of tensors.
        inputs: The tensors to trace it with, batch first.
        names: Names of the inputs, and of the outputs.
        opset: ONNX operator set, ``EXPORTER_MINIMUM_OPSET`` at least.
        dynamic: True for any number of images; False for the number in ``inputs``.

    Returns:
        The graph with its weights.

    Raises:
        ExportError: If PyTorch cannot export it, or what it exports is not valid ONNX.
    """
    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    shapes = tuple({0: batch} for _ in inputs) if dynamic else None
    try:
        # PyTorch 2.13: a CPU's fused attention gives strides that the exporter cannot decompose
        # ("Cannot view a tensor", transformers' Swin at one image). Remove when it can.
        with _quiet_exporter(), sdpa_kernel(SDPBackend.MATH):
            program = torch.onnx.export(
                model,
                inputs,
                dynamo=True,
                opset_version=opset,
                input_names=list(names[0]),
                output_names=list(names[1]),
                dynamic_shapes=shapes,
                verbose=False,
                optimize=False,
            )
            if program is None:
                raise ExportError("PyTorch exported nothing; use torch 2.9 or newer")
            graph = _optimized(program)
    except (torch.onnx.OnnxExporterError, RuntimeError) as err:
        cause = _one_line(err.__cause__ or err)
        raise ExportError(f"PyTorch could not export the model: {cause}") from err
    _name_nodes_by_module(graph)
    _strip_trace_records(graph)
    _share_equal_tensors(graph)
    _spell_gelu(graph)
    graph.producer_name = "swin-deploy"
    graph.ClearField("doc_string")
    try:
        check_graph(graph, full=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as err:
        raise ExportError(_not_valid(graph, err)) from err
    return graph


def check_onnx(graph: onnx.ModelProto, spec: ExportSpec) -> onnx.ModelProto:
    """Check that ``graph`` is valid and what ``spec`` asked for, infer its shapes and return it.

    Args:
        graph: The exported graph; its inferred shapes are written into it.
        spec: The specification that it was exported for.

    Raises:
        ExportError: If it has another opset, fails the ONNX checker, holds operators of other
            domains or dynamic ones, or has other inputs, outputs or batch.
    """
    opsets = {entry.domain: entry.version for entry in graph.opset_import}
    if opsets != {"": spec.opset}:
        raise ExportError(f"opset {spec.opset} was asked for, but the exporter wrote {opsets}")
    try:
        check_graph(graph, full=True)
        infer_shapes(graph)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as err:
        raise ExportError(_not_valid(graph, err)) from err
    found = dynamic_ops(graph)
    if found:
        raise ExportError(f"the exported graph holds dynamic operators: {', '.join(found)}")
    batch = str(spec.batch or "batch")
    wanted = {spec.input_name: [batch, *map(str, spec.input_shape)]}
    inputs = {value.name: _dimensions(value) for value in graph.graph.input}
    outputs = {value.name: _dimensions(value) for value in graph.graph.output}
    if inputs != wanted or tuple(outputs) != spec.output_names:
        raise ExportError(
            f"the exported graph maps {inputs} to {outputs}, "
            f"but {wanted} to {', '.join(spec.output_names)} was asked for"
        )
    for name, dimensions in outputs.items():
        if dimensions[0] != batch:
            raise ExportError(f"the batch of output {name} is {dimensions[0]}, not {batch}")
    return graph


def dynamic_ops(graph: onnx.ModelProto) -> list[str]:
    """Return the names of the operators in ``graph`` that a static graph does not need, sorted."""
    used = {node.op_type for node in graph.graph.node}
    return sorted(op for op in used if op in DYNAMIC_OPS or op.startswith("Scatter"))


def load_onnx(path: os.PathLike[str]) -> onnx.ModelProto:
    """Read and check an ONNX file.

    Raises:
        ExportError: If the file is missing, truncated, not ONNX, unsound (``exporters.soundness``),
            or takes no batch.
    """
    file = Path(path)
    shown = shortened(file)
    if not os.path.isfile(file):
        raise ExportError(f"{shown} does not exist, or is not a file; give an ONNX file")
    try:
        graph = onnx.load(file, format="protobuf", load_external_data=False)
        require_sound(graph, file.parent)
        check_shared_weights(graph, file.parent)
        onnx.load_external_data_for_model(graph, str(file.parent))
        check_graph(graph, full=False)
        for key in (FLOAT32_MODULES, FLOAT32_ASKED):
            float32_modules(graph, key)
        calibration_of(graph)
    except DeployError as err:
        raise ExportError(f"{shown} is not a whole ONNX file: {err}") from err
    except (DecodeError, ValueError, onnx.checker.ValidationError, OSError, RuntimeError) as err:
        raise ExportError(f"{shown} is not a whole ONNX file: {_one_line(err)}") from err
    if not graph.graph.node:
        raise ExportError(f"{shown} is not a whole ONNX file: its graph is empty")
    return graph


def _trace(model: nn.Module, spec: ExportSpec) -> onnx.ModelProto:
    dtype = getattr(torch, spec.input_type)
    example = torch.zeros(spec.batch or TRACE_BATCH, *spec.input_shape, dtype=dtype)
    dynamic = None if spec.batch else ({0: torch.export.Dim("batch", min=1, max=1 << 16)},)
    try:
        with _quiet_exporter():
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                opset_version=max(spec.opset, EXPORTER_MINIMUM_OPSET),
                input_names=[spec.input_name],
                output_names=list(spec.output_names),
                dynamic_shapes=dynamic,
                verbose=False,
                optimize=False,  # below, once it is known who holds the weights
            )
            if program is None:
                raise ExportError("PyTorch exported nothing; use torch 2.9 or newer")
            return _optimized(program)
    except torch.onnx.OnnxExporterError as err:
        cause = _one_line(err.__cause__ or err)  # PyTorch's own words only say where to read on
        raise ExportError(f"PyTorch could not export the model: {cause}") from err


def _optimized(program: torch.onnx.ONNXProgram) -> onnx.ModelProto:
    """Return the program's optimised graph, and release everything else that holds its weights.

    onnxscript 0.7: its rewriter's rules, which are global, keep the last graph that they saw, and
    it keeps the values that it began with. Remove when a module is freed after its export without
    this.
    """
    before = list(program.model.graph.initializers.values())
    program.optimize()
    graph = program.model_proto
    for value in (*before, *program.model.graph.initializers.values()):
        value.const_value = None
    return graph


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter's log and warnings, which are about operators that we do not use."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _name_nodes_by_module(graph: onnx.ModelProto) -> None:
    """Name each node ``<module path>/<operator>``, so that logs and plans can be read.

    A node that the exporter's optimiser made has no record of its module: it gets the module of
    the node before it.
    """
    seen: Counter[str] = Counter()
    module = ""
    for node in graph.graph.node:
        records = {entry.key: entry.value for entry in node.metadata_props}
        scopes = ast.literal_eval(records.get("pkg.torch.onnx.name_scopes", "[]"))
        module = scopes[-2] if len(scopes) > 1 else module
        name = f"{module}/{node.op_type}" if module else node.op_type
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"


def _strip_trace_records(graph: onnx.ModelProto) -> None:
    """Drop the exporter's records of the trace: they hold source paths of this machine."""
    body = graph.graph
    for entry in (*body.node, *body.input, *body.output, *body.value_info, *body.initializer):
        entry.ClearField("metadata_props")
        entry.ClearField("doc_string")
    body.ClearField("metadata_props")
    body.ClearField("value_info")
    graph.ClearField("metadata_props")


def _share_equal_tensors(graph: onnx.ModelProto) -> None:
    """Keep one of all initializers that hold the same values: masks and indices repeat."""
    # onnx_ir 1.1's passes cannot: one reads no transposed tensor, one holds every weight twice.
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    renamed: dict[str, str] = {}
    for tensor in graph.graph.initializer:
        values = numpy_helper.to_array(tensor)
        key = (tensor.data_type, tuple(tensor.dims), hashlib.sha256(values.tobytes()).digest())
        renamed[tensor.name] = first.setdefault(key, tensor.name)
    for node in graph.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    outputs = {value.name for value in graph.graph.output}
    _keep_initializers(graph, outputs | set(first.values()))


def _keep_initializers(graph: onnx.ModelProto, names: set[str]) -> None:
    """Drop the initializers not in ``names``, one by one: a new list would copy every weight."""
    initializers = graph.graph.initializer
    for index in reversed(range(len(initializers))):
        if initializers[index].name not in names:
            del initializers[index]


def _spell_gelu(graph: onnx.ModelProto) -> None:
    """Write GELU as ``(x * 0.5) * (1 + erf)``; PyTorch writes ``x * (0.5 * (1 + erf))``.

    ONNX Runtime 1.31 runs only the first as one kernel, with the bias before it. TensorRT makes the
    same plan of both. From opset 20 on, GELU is an operator.
    """
    maker = {name: node for node in graph.graph.node for name in node.output}
    uses = Counter(name for node in graph.graph.node for name in node.input)
    uses.update(value.name for value in graph.graph.output)
    for node in graph.graph.node:
        chain = [node]  # from the last product back to the division
        for kind, operand in (("Mul", 1), ("Add", 1), ("Erf", 0), ("Div", 0)):
            found = maker.get(chain[-1].input[operand]) if len(chain[-1].input) > operand else None
            if found is None or found.op_type != kind or uses[found.output[0]] != 1:
                break
            chain.append(found)
        if node.op_type == "Mul" and len(chain) == 5 and chain[4].input[0] == node.input[0]:
            scaled, one_more = chain[1:3]
            scaled.input[:] = [node.input[0], scaled.input[0]]
            node.input[:] = [scaled.output[0], one_more.output[0]]


def _lower_to_17(graph: onnx.ModelProto) -> None:
    """Rewrite in place what opset 18 spells differently from 17, and declare opset 17.

    Neither PyTorch's own down-conversion (it leaves ``Split`` with an attribute that 17 does not
    have) nor ONNX's (it has no rule for ``Split``) gives a valid file here.
    """
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    for node in graph.graph.node:
        if onnx.defs.get_schema(node.op_type, 18).since_version < 18:
            continue
        if node.op_type == "Split":  # without sizes, 17 splits evenly by itself
            _drop_attribute(node, "num_outputs")
        elif node.op_type.startswith("Reduce") and constants.keys() & node.input[1:]:
            axes = numpy_helper.to_array(constants[node.input.pop()]).tolist()
            _drop_attribute(node, "noop_with_empty_axes")
            node.attribute.append(helper.make_attribute("axes", axes))
        elif node.op_type != "Pad" or any(node.input[3:]):  # without axes, it is that of 17
            raise ExportError(f"{node.op_type} has no form at opset 17; use --opset 18 or newer")
    _keep_initializers(graph, {name for node in graph.graph.node for name in node.input})
    graph.opset_import[0].version = 17


def _drop_attribute(node: onnx.NodeProto, name: str) -> None:
    kept = [entry for entry in node.attribute if entry.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)


def _dimensions(value: onnx.ValueInfoProto) -> list[str]:
    shape = value.type.tensor_type.shape
    return [dim.dim_param or str(dim.dim_value) for dim in shape.dim]


def _not_valid(graph: onnx.ModelProto, err: BaseException) -> str:
    """Say why a graph is not valid ONNX; the opset to export at, if it has an operator too early.

    PyTorch writes some operators, such as DeformConv, at opsets before the one that they came with.
    """
    opset = next((entry.version for entry in graph.opset_import if not entry.domain), 0)
    used = {node.op_type for node in graph.graph.node if not node.domain}
    first: dict[str, int] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.name in used and not schema.domain:
            since = schema.since_version
            first[schema.name] = min(since, first.get(schema.name, since))
    late = [name for name in sorted(first) if opset < first[name] <= OPSET_RANGE[1]]
    if not late:
        return f"the exported graph is not valid ONNX: {_one_line(err)}"
    needed = max(first[name] for name in late)
    return f"ONNX has {listed(late)} from opset {needed} on; export at opset {needed} or later"


def _one_line(err: BaseException) -> str:
    return " ".join(str(err).split())[:300]
