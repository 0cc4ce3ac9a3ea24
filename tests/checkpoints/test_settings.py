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
from library_folders import TINY, huggingface, timm
from torch import Tensor, nn

from exporters.errors import CheckpointError
from exporters.spec import ExportSpec
from exporters.to_onnx import export_onnx
from swin_deploy.checkpoints.load import LoadedModel, load_model
from swin_deploy.config import SwinConfig
from swin_deploy.config.activations import ACTIVATIONS, OTHER_NAMES, find_activation
from swin_deploy.reference.activations import activation

Fields = dict[str, Any]


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
    "hf-quick": (huggingface, "swin", {"hidden_act": "quick_gelu"}, {"activation": "quick_gelu"}),
    "hf-v2-swish": (huggingface, "swinv2", {"hidden_act": "swish"}, {"activation": "silu"}),
    "timm-hard": (timm, "swinv2", {"act_layer": "hardswish"}, {"activation": "hard_swish"}),
    "hf-places": (huggingface, "swin", {"use_absolute_embeddings": True},
                  {"absolute_positions": True}),
    "hf-epsilon": (huggingface, "swin", {"layer_norm_eps": 0.1, "qkv_bias": False},
                   {"layer_norm_eps": 0.1}),
    "hf-v2-epsilon": (huggingface, "swinv2", {"layer_norm_eps": 0.1}, {"layer_norm_eps": 0.1}),
    "timm-max": (timm, "swin", {"global_pool": "max"}, {"pool": "max"}),
    "timm-v2-both": (timm, "swinv2", {"global_pool": "fastavgmax"}, {"pool": "avgmax"}),
    "timm-ratios": (timm, "swin", {"mlp_ratio": [2.0, 8 / 3]}, {"mlp_ratio": (2.0, 8 / 3)}),
    "timm-patch-3": (timm, "swinv2", {"patch_size": 3, "img_size": 24}, {"patch_size": 3}),
    "hf-patch-16": (huggingface, "swinv2", {"patch_size": 16, "image_size": 128},
                    {"patch_size": 16}),
    "one-stage": (timm, "swin", {"depths": [3], "num_heads": [2]}, {"depths": (3,)}),
    "five-stages": (
        huggingface, "swin",
        {"depths": [1] * 5, "num_heads": [1, 2, 3, 4, 6], "embed_dim": 12, "image_size": 128,
         "window_size": 2},
        {"depths": (1,) * 5, "num_heads": (1, 2, 3, 4, 6)},
    ),
    "window-5": (timm, "swinv2", {"window_size": 5, "img_size": 40, "mlp_ratio": 3},
                 {"window_size": 5, "mlp_ratio": 3.0}),
    "window-16": (timm, "swin", {"window_size": 16, "img_size": 64, "depths": [2],
                                 "num_heads": [1]},
                  {"window_size": 16}),
}  # fmt: skip


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


def authors_state(*, norm: bool = True) -> tuple[nn.Module, dict[str, Tensor]]:
    """timm's V1 of 32 pixels, and its weights in the authors' names, with or without a norm."""
    model: Any = peers.build_timm("swin", img_size=32, **TINY)
    if not norm:
        model.patch_embed.norm = nn.Identity()
    return model, peers.microsoft_state(model)


def add_places(model: Any, places: Tensor) -> None:  # noqa: ANN401 - timm's
    """Let timm's model add values [1, N, C] to its embedding, as the authors' code does."""
    rows = round(places.shape[1] ** 0.5)
    values = places.unflatten(1, (rows, rows))  # [1, N, C] -> [1, H, W, C]
    model.patch_embed.register_forward_hook(lambda *passed: passed[2] + values)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("form", ["none", "tokens", "map"])
def test_authors_options_of_the_embedding_equal_their_code(
    norm: bool, form: str, tmp_path: Path
) -> None:
    model, state = authors_state(norm=norm)
    places = torch.randn(1, 64, 16)
    if form != "none":
        add_places(model, places)
        # The authors' classifier has tokens [1, N, C], their detector a map [1, C, H, W].
        saved = places if form == "tokens" else places.transpose(1, 2).reshape(1, 16, 8, 8)
        state["absolute_pos_embed"] = saved
    torch.save({"model": state}, tmp_path / "swin.pth")
    loaded = load_model(None, tmp_path / "swin.pth", img_size=32)
    assert loaded.config.patch_norm == norm
    assert loaded.config.absolute_positions == (form != "none")
    images = seeded_images(loaded.config)
    with torch.no_grad():
        wanted = model(images)
        assert rms_error(loaded.reference(images), wanted) < FLOAT32_TOLERANCE
        assert rms_error(loaded.deploy(images), wanted) < FLOAT32_TOLERANCE
    if form == "map" and not norm:
        assert_equal_in_every_form(loaded, wanted, images)


def test_places_at_another_image_size_are_interpolated_as_transformers_does(
    tmp_path: Path,
) -> None:
    model: Any = huggingface(tmp_path, "swin", use_absolute_embeddings=True)
    loaded = load_model(None, tmp_path, img_size=64)
    note = "absolute positions of 8 tokens interpolated to 16, bicubic"
    assert any(one == note for one in loaded.notes)
    images = seeded_images(loaded.config)
    with torch.no_grad():
        wanted = model(images, interpolate_pos_encoding=True).logits
        assert rms_error(loaded.reference(images), wanted) < FLOAT32_TOLERANCE
        assert rms_error(loaded.deploy(images), wanted) < FLOAT32_TOLERANCE
        other = torch.cat((images[..., :32], images[..., 32:].flip(-1)), dim=-1)
        assert rms_error(loaded.deploy(other), wanted) > REJECTED


def test_places_tell_the_image_size_and_other_shapes_are_refused(tmp_path: Path) -> None:
    _, state = authors_state()
    path = tmp_path / "swin.pth"
    shapes = {
        (1, 64, 16): "", (1, 65, 16): "is [1, 65, 16], which has not one place for each patch",
        (64, 16): "is [64, 16]", (2, 64, 16): "is [2, 64, 16]",
        (1, 64, 8): "has 8 channels, not 16",
    }  # fmt: skip
    for shape, refusal in shapes.items():
        torch.save({"model": state | {"absolute_pos_embed": torch.zeros(shape)}}, path)
        if not refusal:
            assert load_model(None, path).config.img_size == 32
            continue
        with pytest.raises(CheckpointError) as error:
            load_model(None, path)
        assert refusal in str(error.value)


@pytest.mark.parametrize("source", ["huggingface", "torchvision"])
def test_file_that_lost_its_patch_norm_is_refused_where_the_library_has_one(
    source: str, tmp_path: Path
) -> None:
    build: Any = peers.build_huggingface if source == "huggingface" else peers.build_torchvision
    kept = {"huggingface": "embeddings.norm.", "torchvision": "features.0.2."}[source]
    state = build("swin", **TINY).state_dict()
    left = {name: value for name, value in state.items() if kept not in name}
    assert len(left) == len(state) - 2
    peers.saved(left, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="missing keys"):
        load_model(None, tmp_path / "w.pth", img_size=64)


@pytest.mark.parametrize("kind", ["swinv2", "donut-swin", "maskformer-swin"])
def test_positions_that_transformers_cannot_run_are_refused(kind: str, tmp_path: Path) -> None:
    huggingface(tmp_path, "swin")
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "use_absolute_embeddings": True, "model_type": kind}))
    with pytest.raises(CheckpointError, match=f"transformers' {kind} cannot run"):
        load_model(None, tmp_path)
    library = peers.import_peer("transformers")
    config = library.Swinv2Config(image_size=32, window_size=4, use_absolute_embeddings=True)
    with pytest.raises(RuntimeError, match="must match the size"):
        library.Swinv2Model(config)(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("output", ["tokens", "features"])
def test_model_without_pooling_gives_its_tokens(output: Any, tmp_path: Path) -> None:  # noqa: ANN401
    model: Any = timm(tmp_path, "swin", global_pool="", num_classes=0)
    loaded = load_model(None, tmp_path)
    assert loaded.config.output_name == "tokens"
    images = seeded_images(loaded.config)
    with torch.no_grad():
        wanted = model(images).flatten(1, 2)
        assert rms_error(loaded.deploy(images), wanted) < FLOAT32_TOLERANCE
        other = load_model(None, tmp_path, output=output)
        pooled = wanted if output == "tokens" else wanted.mean(1)
        assert rms_error(other.deploy(images), pooled) < FLOAT32_TOLERANCE


@pytest.mark.parametrize("pool", ["max", "avgmax"])
def test_option_pool_settles_what_a_file_alone_does_not_say(pool: Any, tmp_path: Path) -> None:  # noqa: ANN401
    model: Any = peers.build_timm("swin", img_size=32, global_pool=pool, **TINY)
    path = peers.saved(model.state_dict(), tmp_path / "w.pth")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = model(images)
        asked = load_model(None, path, img_size=32, pool=pool)
        assert rms_error(asked.reference(images), wanted) < FLOAT32_TOLERANCE
        plain = load_model(None, path, img_size=32)
        assert rms_error(plain.reference(images), wanted) > REJECTED
        features = load_model(None, path, img_size=32, pool=pool, output="features").deploy(images)
        pooled = model.forward_head(model.forward_features(images), pre_logits=True)
        assert rms_error(features, pooled) < FLOAT32_TOLERANCE
