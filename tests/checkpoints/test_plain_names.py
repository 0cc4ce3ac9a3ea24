"""Names that wrappers add are taken off wherever they stand; pruned weights are multiplied out."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import peers
import pytest
import torch
from command_line import Command
from conftest import FLOAT32_TOLERANCE, rms_error, seeded_images
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel

from swin_deploy.checkpoints.load import load_model
from swin_deploy.checkpoints.plain_names import unpruned, without_counters, without_wrappers
from swin_deploy.original.build import build_original

State = dict[str, Tensor]
SMALL = {"img_size": 32, "window_size": 4, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2)}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return peers.build_timm("swin", **SMALL)


def compiled(model: nn.Module) -> nn.Module:
    """The wrapper of torch.compile; nothing is compiled before a call."""
    return cast("nn.Module", torch.compile(model))


def in_each(state: State, start: str, wrapper: str) -> State:
    """Put a wrapper after every start of this pattern, as one around each block does."""
    put = f"{start}{wrapper}."
    return {name.replace(start, put): value for name, value in state.items()}


def under(prefix: str) -> Callable[[nn.Module], State]:
    return lambda model: {f"{prefix}{name}": one for name, one in model.state_dict().items()}


WRAPPED: dict[str, Callable[[nn.Module], State]] = {
    "data-parallel": lambda model: nn.DataParallel(model).state_dict(),
    "compiled": lambda model: compiled(model).state_dict(),
    "compiled-in-parallel": lambda m: nn.DataParallel(compiled(m)).state_dict(),
    "parallel-compiled": lambda m: compiled(nn.DataParallel(m)).state_dict(),
    "average-of-compiled": lambda m: AveragedModel(compiled(m)).state_dict(),
    "average-in-a-module": lambda model: {
        f"net.{name}": one for name, one in AveragedModel(model).state_dict().items()
    },
    "lightning-strategy": under("_forward_module.model."),
    "lightning-of-compiled-in-parallel": under("model._orig_mod.module."),
    "fsdp": lambda model: in_each(under("_fsdp_wrapped_module.")(model), "blocks.0.",
                                  "_fsdp_wrapped_module"),
    "fsdp-of-checkpoints": lambda model: in_each(
        in_each(model.state_dict(), "blocks.0.", "_checkpoint_wrapped_module"),
        "layers.1.", "_fsdp_wrapped_module",
    ),
    "blocks-compiled": lambda model: in_each(model.state_dict(), "blocks.0.", "_orig_mod"),
    "one-layer-in-parallel": lambda model: in_each(model.state_dict(), "layers.1.", "module"),
    "head-beside-the-compiled": lambda model: {
        name if name.startswith("head") else f"_orig_mod.{name}": one
        for name, one in model.state_dict().items()
    },
}  # fmt: skip


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED.keys())
def test_load_model_of_wrapped_names_gives_the_models_outputs(
    wrap: Callable[[nn.Module], State], model: nn.Module, tmp_path: Path
) -> None:
    state = wrap(model)
    assert any(name not in model.state_dict() for name in state)
    path = tmp_path / "w.pt"
    torch.save({"state_dict": state}, path)
    loaded = load_model(None, path)
    images = seeded_images(loaded.config)
    with torch.no_grad():
        wanted = model(images)
        assert rms_error(loaded.reference(images), wanted) < FLOAT32_TOLERANCE
        assert loaded.reading is not None
        original = build_original(loaded.config, loaded.reading, "timm")
        assert rms_error(original(images)[0], wanted) < FLOAT32_TOLERANCE


def test_without_wrappers_keeps_names_that_would_be_the_same() -> None:
    both = ["a.weight", "_orig_mod.a.weight", "_orig_mod.b.weight"]
    assert without_wrappers(both) == {name: name for name in both}
    deep = ["x.a", "x._orig_mod.module.a"]
    assert without_wrappers(deep) == {name: name for name in deep}


def test_without_wrappers_keeps_a_module_of_ones_own() -> None:
    own = ["module.a", "head.weight", "decoder.module.a", "decoder.b"]
    assert without_wrappers(own) == {name: name for name in own}
    assert without_wrappers(["x.module.a", "x.n_averaged"])["x.module.a"] == "x.a"
    assert without_wrappers(["a.module", "a._orig_mod"]) == {
        "a.module": "a.module", "a._orig_mod": "a._orig_mod"
    }  # fmt: skip


def test_without_wrappers_ends_with_very_deep_names() -> None:
    name = "module." * 10_000 + "a"
    assert len(without_wrappers([name])) == 1


def test_without_counters_leaves_out_what_a_profiler_counts_in_every_module() -> None:
    one = torch.zeros(1, dtype=torch.float64)
    counts = {"total_ops": one, "layers.0.blocks.1.attn.total_params": one}
    kept, aside = without_counters({"norm.weight": torch.ones(4), **counts})
    assert (list(kept), aside) == (["norm.weight"], list(counts))
    assert without_counters({"head.total_ops": torch.ones(4)})[1] == []


def test_without_counters_leaves_tensors_of_values() -> None:
    one, several = torch.tensor(3), torch.ones(3)
    state = {"n_averaged": one, "x.module.a": several, "x.n_averaged": one, "y.step": one}
    kept, aside = without_counters(state)
    assert aside == ["n_averaged", "x.n_averaged"]
    assert list(kept) == ["x.module.a", "y.step"]
    assert without_counters({"steps": several})[1] == []


@pytest.fixture
def pruned(tmp_path: Path) -> tuple[nn.Module, Path]:
    model = peers.build_timm("swin", **SMALL)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            prune.random_unstructured(module, "weight", amount=0.3)
    path = tmp_path / "pruned.pt"
    torch.save(model.state_dict(), path)
    return model, path


def test_pruned_weights_give_the_pruned_models_outputs(
    pruned: tuple[nn.Module, Path], swin: Command
) -> None:
    model, path = pruned
    loaded = load_model(None, path)
    images = seeded_images(loaded.config)
    with torch.no_grad():
        assert rms_error(loaded.reference(images), model(images)) < FLOAT32_TOLERANCE
        assert loaded.reading is not None
        original = build_original(loaded.config, loaded.reading, "timm")
        assert rms_error(original(images)[0], model(images)) < FLOAT32_TOLERANCE
    done = swin("export", "--checkpoint", path, "--output", "x.onnx").assert_done()
    assert "pruned weights multiplied by their masks: layers.0.blocks.0.attn.qkv.weight" in done.err


def test_pruned_weight_without_its_mask_is_refused(
    pruned: tuple[nn.Module, Path], swin: Command
) -> None:
    model, path = pruned
    state = model.state_dict()
    del state["layers.0.blocks.0.mlp.fc1.weight_mask"]
    torch.save(state, path)
    swin("export", "--checkpoint", path).assert_error("layers.0.blocks.0.mlp.fc1.weight_orig")


def test_unpruned_leaves_what_is_no_pair() -> None:
    odd = {"a.weight_orig": torch.ones(3), "a.weight_mask": torch.ones(2), "b_mask": torch.ones(1)}
    assert unpruned(odd) == (odd, [])
    there = {"a_orig": torch.ones(2), "a_mask": torch.ones(2), "a": torch.ones(2)}
    assert unpruned(there) == (there, [])
