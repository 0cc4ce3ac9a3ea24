"""Models that differ from the papers' by a field: equal to the library's in every form of ours."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import peers
import pytest
import torch
from command_line import Command
from conftest import FLOAT32_TOLERANCE, REJECTED, rms_error, seeded_images
from torch import Tensor, nn

from exporters.errors import CheckpointError
from exporters.spec import ExportSpec
from exporters.to_onnx import export_onnx
from swin_deploy.checkpoints.load import LoadedModel, load_model
from swin_deploy.config import SwinConfig
from swin_deploy.config.activations import ACTIVATIONS, OTHER_NAMES, find_activation
from swin_deploy.reference.activations import activation

Fields = dict[str, Any]
TINY: Fields = {"embed_dim": 16, "depths": (2, 1), "num_heads": (1, 2)}
TIMM_NAMES = {"swin": "swin_tiny_patch4_window7_224", "swinv2": "swinv2_tiny_window8_256"}


def huggingface(folder: Path, family: str, **fields: Any) -> nn.Module:  # noqa: ANN401
    """A folder of transformers with trained-like weights, and its model."""
    sizes = {**TINY, "image_size": 32, **fields}
    model = peers.build_huggingface(family, **sizes)
    model.save_pretrained(folder)
    return model


def timm(folder: Path, family: str, **fields: Any) -> nn.Module:  # noqa: ANN401
    """A folder of timm with trained-like weights, and its model."""
    library = peers.import_peer("timm")
    sizes = {"img_size": 32, "window_size": 4, "num_classes": 10, **TINY, **fields}
    model = peers.trained_like(library.create_model(TIMM_NAMES[family], **sizes))
    library.models.save_for_hf(model, str(folder), model_args=sizes)
    return model


def onnx_output(loaded: LoadedModel, images: Tensor) -> Tensor:
    """What ONNX Runtime gives for the exported model."""
    ort = pytest.importorskip("onnxruntime")
    config = loaded.config
    spec = ExportSpec((3, *config.image), config.output_names, opset=18)
    graph = export_onnx(loaded.deploy, spec, metadata={}).SerializeToString()
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {spec.input_name: np.asarray(images)})
    return torch.from_numpy(found)


def assert_equal_in_every_form(loaded: LoadedModel, wanted: Tensor, images: Tensor) -> None:
    with torch.no_grad():
        assert rms_error(loaded.reference(images), wanted) < FLOAT32_TOLERANCE
        assert rms_error(loaded.deploy(images), wanted) < FLOAT32_TOLERANCE
        assert rms_error(onnx_output(loaded, images), wanted) < FLOAT32_TOLERANCE


MODELS: dict[str, tuple[Any, str, Fields, Fields]] = {
    "hf-relu": (huggingface, "swin", {"hidden_act": "relu"}, {"activation": "relu"}),
    "hf-new": (huggingface, "swin", {"hidden_act": "gelu_new"}, {"activation": "gelu_tanh"}),
    "hf-fast": (huggingface, "swinv2", {"hidden_act": "gelu_fast"}, {"activation": "gelu_tanh"}),
    "hf-quick": (huggingface, "swin", {"hidden_act": "quick_gelu"}, {"activation": "quick_gelu"}),
    "hf-v2-swish": (huggingface, "swinv2", {"hidden_act": "swish"}, {"activation": "silu"}),
    "hf-mish": (huggingface, "swin", {"hidden_act": "mish"}, {"activation": "mish"}),
    "timm-silu": (timm, "swinv2", {"act_layer": "silu"}, {"activation": "silu"}),
    "timm-case": (timm, "swinv2", {"act_layer": "GELU_tanh"}, {"activation": "gelu_tanh"}),
    "timm-hard": (timm, "swinv2", {"act_layer": "hardswish"}, {"activation": "hard_swish"}),
    "timm-elu": (timm, "swinv2", {"act_layer": "celu"}, {"activation": "elu"}),
}


@pytest.mark.parametrize(("build", "family", "fields", "found"), MODELS.values(), ids=MODELS.keys())
def test_model_of_a_field_equals_the_librarys(
    build: Any,  # noqa: ANN401 - a function of this file
    family: str,
    fields: Fields,
    found: Fields,
    tmp_path: Path,
) -> None:
    model = build(tmp_path, family, **fields)
    loaded = load_model(None, tmp_path)
    assert {name: getattr(loaded.config, name) for name in found} == found
    images = seeded_images(loaded.config)
    with torch.no_grad():
        wanted = peers.logits_of(model, images)
    assert_equal_in_every_form(loaded, wanted, images)
    plain = SwinConfig()
    assert all(getattr(plain, name) != value for name, value in found.items())


@pytest.mark.parametrize("family", ["swin", "swinv2"])
def test_activation_that_is_not_said_is_gelu_and_wrong(family: str, tmp_path: Path) -> None:
    """The check above must reject a model whose field was passed over."""
    model = huggingface(tmp_path, family, hidden_act="gelu_new")
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    del values["hidden_act"]
    path.write_text(json.dumps(values))
    loaded = load_model(None, tmp_path)
    assert loaded.config.activation == "gelu"
    images = seeded_images(loaded.config)
    with torch.no_grad():
        wanted = peers.logits_of(model, images)
        assert rms_error(loaded.reference(images), wanted) > 10 * FLOAT32_TOLERANCE
    loaded = load_model(None, tmp_path, activation="gelu_tanh")
    assert_equal_in_every_form(loaded, wanted, images)
    with torch.no_grad():
        wrong = load_model(None, tmp_path, activation="relu").deploy(images)
    assert rms_error(wrong, wanted) > REJECTED


VALUES = torch.linspace(-9, 9, 997)


@pytest.mark.parametrize("name", sorted({*ACTIVATIONS, *OTHER_NAMES}))
def test_activation_of_a_name_is_the_libraries_function(name: str) -> None:
    found = find_activation(name)
    assert found is not None
    values = activation(found)(VALUES)
    tables = (
        peers.import_peer("transformers.activations").ACT2FN,
        peers.import_peer("timm.layers.create_act")._ACT_LAYER_DEFAULT,
    )
    functions = [table[name] for table in tables if name in table]
    assert functions
    for function in functions:
        module = function() if isinstance(function, type) else function
        assert rms_error(values, module(VALUES.clone())) < 1e-6


def test_find_activation_of_another_function_is_none() -> None:
    """What both libraries have and we do not is not taken for anything else."""
    names = {
        *peers.import_peer("transformers.activations").ACT2FN,
        *peers.import_peer("timm.layers.create_act")._ACT_LAYER_DEFAULT,
    }
    strange = {name for name in names if find_activation(name) is None}
    assert strange == {
        "gelu_10", "hard_mish", "identity", "laplace", "linear", "prelu", "relu2", "sqrtsoftplus",
        "xielu",
    }  # fmt: skip


def test_option_activation_settles_what_a_file_alone_does_not_say(
    swin: Command, tmp_path: Path
) -> None:
    huggingface(tmp_path, "swin", hidden_act="relu")
    alone = tmp_path / "alone.safetensors"
    (tmp_path / "model.safetensors").rename(alone)
    (tmp_path / "config.json").unlink()
    asked = ("--checkpoint", alone, "--image-size", "32", "--output", "x.onnx")
    done = swin("export", *asked, "--activation", "relu").assert_done()
    assert "activation relu" in done.err
    huggingface(tmp_path, "swin", hidden_act="relu")
    with pytest.raises(CheckpointError, match="relu, not silu; leave --activation out"):
        load_model(None, tmp_path, activation="silu")
    refused = swin("export", *asked, "--activation", "prelu")
    assert refused.status == 2
    assert "'prelu' is not one of" in refused.err


def test_activation_of_random_weights_is_the_one_asked_for() -> None:
    for name in ("swin_tiny", "notebook-digits"):
        with torch.device("cpu"):
            loaded = load_model(name, activation="relu")
        kinds = {type(module).__name__ for module in loaded.deploy.modules()}
        assert "ReLU" in kinds
        assert "GELU" not in kinds
