"""Window attention as one Triton kernel: interpreted on the CPU, and compiled for GPUs."""

from __future__ import annotations

import functools
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import CONFIGS, trained_like
from torch import nn

from exporters.errors import MissingBackendError
from swin_deploy.deploy.fold import fold
from swin_deploy.runners import fused
from swin_deploy.runners.fused import fuse, fused_blocks, why_not_fused

HERE = Path(__file__).parent.parent / "support"
# Bytes of shared memory that a block of threads may have (CUDA C++ Programming Guide, table
# "Technical Specifications per Compute Capability").
SHARED = {80: 163 * 1024, 90: 227 * 1024}

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")


@functools.cache
def interpreted(part: str) -> dict[str, Any]:
    """A part of ``window_interpreter.py``, in a process whose Triton interprets."""
    folders = os.pathsep.join((str(HERE), str(HERE.parent)))
    environment = {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": folders}
    done = subprocess.run(
        [sys.executable, HERE / "window_interpreter.py", part],
        env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@needs_triton
@pytest.mark.slow
def test_kernel_gives_what_the_plain_block_gives() -> None:
    """Windows of 7, 8, 12 and 16: of one tile and of several, with padding and without."""
    found = interpreted("blocks")
    assert len(found) == 4 * 3 * 2
    for name, error in found.items():
        # V2 multiplies cosines, and so their rounding, by up to 100.
        limit = {(False, False): 1e-6, (True, False): 5e-6, (False, True): 2e-3, (True, True): 2e-2}
        assert error <= limit["V2" in name, name.endswith("float16")], name


@needs_triton
def test_fused_model_gives_what_the_deploy_model_gives() -> None:
    found = interpreted("models")
    assert set(found) == {"V1", "V1, one head", "S3", "notebook", "V2"}
    for name, one in found.items():
        assert one["error"] <= 1e-6, name
        assert one["blocks"] == [4, 4], name
        assert one["untouched"], name
    assert found["S3"]["tables"] == [1, 4, 1, 4]  # of four windows each kind is another


@needs_triton
@pytest.mark.slow
def test_parity_passes_the_kernel_and_finds_each_fault() -> None:
    expected = dict.fromkeys(("none", "bias", "mask", "heads", "stride"), False) | {"none": True}
    assert interpreted("verdicts") == expected


@needs_triton
@pytest.mark.parametrize("arch", SHARED)
@pytest.mark.parametrize("window", [7, 8, 12, 16, 24])
@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_kernel_compiled_for_a_gpu_spills_nothing(arch: int, window: int, precision: str) -> None:
    compiled = compile_kernel(arch, window**2, precision)
    assert resources(compiled) == {"stack": 0, "local": 0}
    assert compiled.metadata.shared <= SHARED[arch]
    ptx = compiled.asm["ptx"]
    matrix_unit = {80: "mma.sync", 90: "wgmma"}[arch]
    assert (matrix_unit in ptx) == (precision != "fp32")
    assert "tf32" not in ptx  # float32 means float32


@needs_triton
@pytest.mark.parametrize("cosine", [False, True], ids=["V1", "V2"])
@pytest.mark.parametrize("head_dim", fused.HEAD_DIMS)
def test_kernel_for_other_heads_and_one_image_spills_nothing(head_dim: int, cosine: bool) -> None:
    compiled = compile_kernel(90, 49, "fp16", head_dim=head_dim, COSINE=cosine, batch=1)
    assert resources(compiled) == {"stack": 0, "local": 0}


@needs_triton
def test_spilling_kernel_is_noticed() -> None:
    """Tiles of 128 x 128 scores do not fit the registers of four warps."""
    found = resources(compile_kernel(80, 144, "fp32", TILE=128, SIDE=256))
    assert found["stack"] > 0


def compile_kernel(
    arch: int, area: int, precision: str, *, head_dim: int = 32, **constants: object
) -> Any:  # noqa: ANN401 - what Triton makes
    """The kernel as it is for three heads, its pointers aligned as PyTorch's are."""
    triton = importlib.import_module("triton")
    compiler = importlib.import_module("triton.compiler")
    target = importlib.import_module("triton.backends.compiler").GPUTarget("cuda", arch, 32)
    window = importlib.import_module("swin_deploy.runners.window_triton")
    side = -(-area // fused.SIDE) * fused.SIDE
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    fixed = {
        "C": 3 * head_dim, "D": head_dim, "AREA": area, "SIDE": side,
        "TILE": window.tile_of(area, dtype), "COSINE": False, **constants,
    }  # fmt: skip
    pointers = {"qkv": precision, "table": "fp32", "kind": "i32", "scale": "fp32", "out": precision}
    signature = {name: f"*{kind}" for name, kind in pointers.items()}
    signature |= {"batch": "i32", "rows": "i32"} | dict.fromkeys(fixed, "constexpr")
    source = compiler.ASTSource(
        fn=window.window_kernel,
        signature={name: signature[name] for name in window.window_kernel.arg_names},
        constexprs=fixed,
        attrs={(place,): [["tt.divisibility", 16]] for place in range(len(pointers))},
    )
    return triton.compile(source, target=target)


def resources(compiled: Any) -> dict[str, int]:  # noqa: ANN401 - what Triton makes
    """Bytes of stack and local memory that a thread needs: what spilled from its registers."""
    triton = importlib.import_module("triton")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {
        name: int(re.search(rf"{name.upper()}:(\d+)", text)[1])  # type: ignore[index]
        for name in ("stack", "local")
    }


def test_head_size_without_a_kernel_stays_plain() -> None:
    pytest.importorskip("triton")
    assert fused_blocks(fuse(fold(trained_like(CONFIGS["swin"])))) == (0, 4)  # 8 channels a head
    mixed = replace(CONFIGS["swin"], embed_dim=48, num_heads=(2, 6))  # 24 and 16 channels
    assert fused_blocks(fuse(fold(trained_like(mixed)))) == (2, 4)


def test_tables_stay_float32_when_the_model_is_cast() -> None:
    pytest.importorskip("triton")
    model: Any = fuse(
        fold(trained_like(replace(CONFIGS["swinv2"], embed_dim=32, num_heads=(2, 4))))
    )
    exact = model.layers[0].attention.table.clone()
    model.half()
    attention = model.layers[0].attention
    assert (attention.table.dtype, attention.scale.dtype) == (torch.float32, torch.float32)
    assert (attention.kind.dtype, attention.qkv.weight.dtype) == (torch.int32, torch.float16)
    assert torch.equal(attention.table, exact)


def test_without_triton_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    assert why_not_fused() == "triton is not installed"
    with pytest.raises(MissingBackendError, match="pip install triton"):
        fuse(fold(trained_like(replace(CONFIGS["swin"], embed_dim=32))))


def test_without_a_gpu_it_says_so() -> None:
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert why_not_fused() == "its kernel needs a GPU"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_fused_model_on_a_gpu_gives_what_the_deploy_model_gives(
    family: str, dtype: torch.dtype
) -> None:
    config = replace(CONFIGS[family], embed_dim=64, num_heads=(2, 4))
    deploy: nn.Module = fold(trained_like(config)).cuda()
    model = fuse(deploy).to(dtype)
    assert fused_blocks(model) == (4, 4)
    generator = torch.Generator("cuda").manual_seed(0)
    images = torch.randn(5, 3, *config.image, device="cuda", generator=generator)
    with torch.inference_mode():
        expected, actual = deploy(images), model(images.to(dtype)).float()
    error = float((actual - expected).norm() / expected.norm())
    assert error < {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}[dtype]
