import dataclasses
import io
import json
import os
import pickle
import random
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build_reference
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from exporters.errors import CheckpointError, ConfigError
from swin_deploy.checkpoints.files import read_tensors
from swin_deploy.checkpoints.notebook import CONFIG_KEY, check_state, infer_config
from swin_deploy.config import BUNDLED_WEIGHTS, Preprocessing, notebook_config, variant

State = dict[str, Tensor]
SMALL = notebook_config(img_size=56, embed_dim=16, depths=(2, 2), num_classes=3)
TABLE = "stages.0.WSA.WMSA.embeddings.embeddings"
EMBEDDING = "Embedding.linear_embedding.weight"


@pytest.fixture(scope="module")
def state() -> State:
    return {
        name: value.detach().clone() for name, value in build_reference(SMALL).named_parameters()
    }


def failure(path: Path) -> str:
    """The one line that says why ``path`` is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's notes on odd pickles
        with pytest.raises(CheckpointError) as info:
            read_tensors(path)
    message = str(info.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def assert_same(found: State, expected: State, *, atol: float = 0.0) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == torch.float32
        assert tensor.device.type == "cpu"
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=atol)


def save_plain(state: State, path: Path) -> None:
    torch.save(state, path)


def save_legacy(state: State, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def save_wrapped(key: str) -> Callable[[State, Path], None]:
    return lambda state, path: torch.save({"epoch": 3, key: state, "optimizer": {"lr": 0.1}}, path)


def save_parallel(state: State, path: Path) -> None:
    torch.save({f"module.{name}": value for name, value in state.items()}, path)


def save_twice_wrapped(state: State, path: Path) -> None:
    parallel = {f"module.{name}": value for name, value in state.items()}
    torch.save({"model": {"state_dict": parallel}, "epoch": 1}, path)


def save_parameters(state: State, path: Path) -> None:
    torch.save({name: nn.Parameter(value) for name, value in state.items()}, path)


@pytest.mark.parametrize(
    "save",
    [
        pytest.param(save_plain, id="torch-zip"),
        pytest.param(save_legacy, id="torch-legacy-pickle"),
        pytest.param(save_wrapped("state_dict"), id="under-state_dict"),
        pytest.param(save_wrapped("model"), id="under-model"),
        pytest.param(save_wrapped("model_state_dict"), id="under-model_state_dict"),
        pytest.param(save_parallel, id="data-parallel"),
        pytest.param(save_twice_wrapped, id="wrapped-twice-and-parallel"),
        pytest.param(save_parameters, id="parameters"),
        pytest.param(save_file, id="safetensors"),
    ],
)
def test_read_tensors_takes_every_dialect(
    save: Callable[[State, Path], None], state: State, tmp_path: Path
) -> None:
    path = tmp_path / "weights.bin"
    save(state, path)
    tensors, metadata = read_tensors(path)
    assert_same(tensors, state)
    assert metadata == {}
    assert not any(tensor.requires_grad for tensor in tensors.values())


@pytest.mark.parametrize("save", [save_plain, save_file], ids=["torch", "safetensors"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_read_tensors_gives_float32_whatever_is_stored(
    dtype: torch.dtype, save: Callable[[State, Path], None], state: State, tmp_path: Path
) -> None:
    stored = {name: value.to(dtype) for name, value in state.items()}
    save(stored, tmp_path / "weights")
    assert_same(
        read_tensors(tmp_path / "weights")[0],
        {name: value.float() for name, value in stored.items()},
    )


def test_read_tensors_keeps_index_tensors_as_they_are(state: State, tmp_path: Path) -> None:
    torch.save(
        {**state, "index": torch.arange(4), "mask": torch.ones(2, dtype=torch.bool)},
        tmp_path / "w.pt",
    )
    tensors = read_tensors(tmp_path / "w.pt")[0]
    assert tensors["index"].dtype == torch.int64
    assert tensors["mask"].dtype == torch.bool


def test_read_tensors_only_strips_the_prefix_that_all_keys_have(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "w.pt")
    assert set(read_tensors(tmp_path / "w.pt")[0]) == {"module.a", "b"}


@pytest.mark.parametrize("length", [0x180, 0x4B50], ids=["as-a-pickle", "as-a-zip"])
def test_read_tensors_safetensors_whose_length_looks_otherwise(length: int, tmp_path: Path) -> None:
    """The header's length comes first, and may be spelt like the start of another format."""
    header = json.dumps(
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "__metadata__": {"k": "v"}}
    )
    data = struct.pack("<Q", length) + header.ljust(length).encode() + struct.pack("<f", 2.5)
    assert data[:1] == b"\x80" or data[:2] == b"PK"
    (tmp_path / "w.safetensors").write_bytes(data)
    tensors, metadata = read_tensors(tmp_path / "w.safetensors")
    assert tensors["a"].tolist() == [2.5]
    assert metadata == {"k": "v"}


def write_image(path: Path) -> None:
    Image.new("RGB", (20, 20)).save(path, "PNG")


def write_plain_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no checkpoint")


def write_cycle(path: Path) -> None:
    cycle: dict[str, Any] = {}
    cycle["model"] = cycle
    torch.save(cycle, path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        pytest.param(lambda path: None, "does not exist; give a checkpoint", id="missing"),
        pytest.param(Path.mkdir, "is a folder", id="folder"),
        pytest.param(lambda path: path.write_bytes(b""), "it is empty", id="empty"),
        pytest.param(
            lambda path: path.write_text("hello, world\n" * 9), "neither a torch.save", id="text"
        ),
        pytest.param(
            lambda path: path.write_text('{"mode":{"depths": [2, 2]}}'),
            "no checkpoint",
            id="json",
        ),
        pytest.param(
            lambda path: path.write_text('{"a": 1}'), "neither a torch.save", id="short-json"
        ),
        pytest.param(write_image, "neither a torch.save", id="image"),
        pytest.param(write_plain_zip, "truncated or damaged, or no checkpoint", id="plain-zip"),
        pytest.param(write_cycle, "not tensors by name: model", id="dict-in-itself"),
        pytest.param(lambda path: torch.save([torch.ones(1)], path), "holds a list", id="list"),
        pytest.param(lambda path: torch.save(torch.ones(1), path), "holds a Tensor", id="tensor"),
        pytest.param(lambda path: torch.save({}, path), "holds no tensors", id="empty-dict"),
        pytest.param(
            lambda path: torch.save({"model": {}}, path), "holds no tensors", id="empty-inner-dict"
        ),
        pytest.param(
            lambda path: torch.save({0: torch.ones(1)}, path), "by name: 0;", id="keys-are-numbers"
        ),
        pytest.param(
            lambda path: torch.save({"optimizer": {"lr": 1}, "epoch": 3}, path),
            "not tensors by name: optimizer, epoch; save the weights alone",
            id="optimizer-only",
        ),
        pytest.param(
            lambda path: torch.save({"a": torch.ones(1), "epoch": 3}, path),
            "not tensors by name: epoch;",
            id="number-beside-tensors",
        ),
        pytest.param(
            lambda path: torch.save({"a": torch.ones(1, dtype=torch.complex64)}, path),
            "not dense real arrays: a (complex64",
            id="complex",
        ),
        pytest.param(
            lambda path: torch.save({"a": torch.eye(2).to_sparse()}, path),
            "not dense real arrays: a (float32, torch.sparse_coo",
            id="sparse",
        ),
        pytest.param(
            lambda path: torch.save({"a": torch.ones(2, device="meta")}, path),
            "not dense real arrays: a (float32, torch.strided, meta",
            id="without-values",
        ),
        pytest.param(
            lambda path: torch.save({"a": torch.tensor(float("nan")), "b": torch.ones(1)}, path),
            "NaN or infinity in a;",
            id="nan-scalar",
        ),
        pytest.param(
            lambda path: save_file(
                {
                    "a": torch.ones(1),
                    "b": torch.tensor([1, -torch.inf]),
                    "c": torch.tensor([torch.nan]),
                },
                path,
            ),
            "NaN or infinity in b, c;",
            id="infinities",
        ),
        pytest.param(
            lambda path: torch.save({"a": torch.tensor([1e300], dtype=torch.float64)}, path),
            "NaN or infinity in a;",
            id="too-large-for-float32",
        ),
        pytest.param(lambda path: torch.save(nn.Linear(2, 2), path), "could run code", id="module"),
    ],
)
def test_read_tensors_refuses(
    write: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pt"
    write(path)
    assert message in failure(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_read_tensors_refuses_torchscript(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "w.pt"))
    assert "could run code" in failure(tmp_path / "w.pt")


def test_read_tensors_refuses_a_pipe_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is a device or a pipe" in failure(tmp_path / "pipe")


def test_read_tensors_says_why_it_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "w.pt").write_bytes(b"PK")
    monkeypatch.setattr(Path, "open", refuse)
    assert "cannot read" in (message := failure(tmp_path / "w.pt"))
    assert "Permission denied" in message
    assert "name too long" in failure(tmp_path / ("w" * 300))


class Intruder:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (open, (str(self.target), "w"))


def pickle_zip(value: object, path: Path) -> None:
    torch.save(value, path)


def pickle_legacy(value: object, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def pickle_plain(value: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(value))


@pytest.mark.parametrize("save", [pickle_zip, pickle_legacy, pickle_plain])
@pytest.mark.parametrize("place", ["alone", "among-tensors", "under-model"])
def test_read_tensors_does_not_run_what_is_in_a_pickle(
    place: str, save: Callable[[object, Path], None], tmp_path: Path
) -> None:
    target = tmp_path / "made-by-the-pickle"
    intruder = Intruder(target)
    tensors = {"a": torch.ones(1)} if save is not pickle_plain else {}
    values: object = {
        "alone": intruder,
        "among-tensors": {**tensors, "hook": intruder},
        "under-model": {"model": {**tensors, "hook": intruder}},
    }[place]
    save(values, tmp_path / "w.pt")
    message = failure(tmp_path / "w.pt")
    assert not target.exists()
    if save is not pickle_plain:
        assert "could run code, and was not loaded; save the weights alone" in message
    else:  # the same file does run code in an ordinary reader
        pickle.loads((tmp_path / "w.pt").read_bytes())
        assert target.exists()


@pytest.mark.parametrize("save", [save_plain, save_legacy, save_file])
def test_read_tensors_refuses_files_cut_anywhere(
    save: Callable[[State, Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "w"
    save({"a": torch.arange(300.0), "b": torch.ones(3, 3)}, path)
    whole = path.read_bytes()
    cuts = {1, 2, 3, 7, 8, 9, 20, 64, len(whole) // 3, len(whole) // 2, len(whole) - 9}
    for cut in sorted(cuts | set(range(100, len(whole) - 4, len(whole) // 30))):
        path.write_bytes(whole[:cut])
        failure(path)


@pytest.mark.parametrize("save", [save_plain, save_legacy, save_file])
def test_read_tensors_damaged_bytes_give_one_line_or_tensors(
    save: Callable[[State, Path], None], tmp_path: Path
) -> None:
    """Bytes changed at random: never another exception than ours."""
    path = tmp_path / "w"
    save({"a": torch.ones(30), "b": torch.ones(3, 3)}, path)
    whole, generator = path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(200):
        changed = bytearray(whole)
        for _ in range(3):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        path.write_bytes(changed)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read_tensors(path)
        except CheckpointError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("start", [b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x04\x95"], ids=repr)
def test_read_tensors_refuses_random_bytes(start: bytes, tmp_path: Path) -> None:
    generator = random.Random(1)
    for length in (1, 3, 16, 50, 500, 500, 500):
        (tmp_path / "w").write_bytes(start + generator.randbytes(length))
        assert "checkpoint" in failure(tmp_path / "w")


def test_infer_config_reads_the_sizes(state: State) -> None:
    config = infer_config(state, {}, img_size=56)
    assert config == SMALL
    check_state(state, config)


def test_infer_config_takes_224_pixels_where_nothing_tells(state: State) -> None:
    assert infer_config(state, {}, img_size=None).img_size == 224


def test_infer_config_takes_what_the_variant_of_these_sizes_has() -> None:
    tensors = load_file(BUNDLED_WEIGHTS["notebook-digits"])
    assert infer_config(tensors, {}, img_size=None) == variant("notebook-digits")
    resized = dataclasses.replace(variant("notebook-digits"), img_size=112)
    assert infer_config(tensors, {}, img_size=112) == resized


def test_infer_config_believes_the_metadata(state: State) -> None:
    saved = dataclasses.replace(
        SMALL, img_size=112, num_heads=(2, 4), preprocessing=Preprocessing(crop_ratio=1.0)
    )
    metadata = {CONFIG_KEY: json.dumps(saved.to_dict())}
    assert infer_config(state, metadata, img_size=None) == saved
    assert infer_config(state, metadata, img_size=168) == dataclasses.replace(saved, img_size=168)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "no model config", id="empty"),
        pytest.param("{", "no model config", id="half"),
        pytest.param("[1, 2]", "no model config", id="list"),
        pytest.param("null", "no model config", id="null"),
        pytest.param("[" * 100_000, "no model config", id="too-deep"),
        pytest.param('{"depth": 2}', "no model config", id="unknown-field"),
        pytest.param('{"preprocessing": 3}', "no model config", id="preprocessing"),
        pytest.param('{"patch_size": 0}', "no model config", id="zero-patch"),
        pytest.param('{"img_size": 57}', "no model config", id="illegal-image"),
        pytest.param('{"img_size": 224.5}', "no model config", id="fraction"),
        pytest.param('{"mlp_ratio": Infinity}', "no model config", id="infinity"),
        pytest.param('{"mlp_ratio": NaN}', "no model config", id="nan"),
        pytest.param('{"preprocessing": {"mean": [1, 2]}}', "no model config", id="two-means"),
        pytest.param('{"preprocessing": {"std": [0, 1, 1]}}', "no model config", id="no-spread"),
        pytest.param('{"preprocessing": {"crop_ratio": "x"}}', "no model config", id="crop"),
        pytest.param(
            '{"embed_dim": 32, "depths": [2, 2], "num_heads": [1, 2]}',
            "disagrees with the tensors: it has embed_dim 32, not 16; num_classes 0, not 3;",
            id="other-sizes",
        ),
    ],
)
def test_infer_config_refuses_metadata(text: str, message: str, state: State) -> None:
    with pytest.raises(CheckpointError) as info:
        infer_config(state, {CONFIG_KEY: text}, img_size=None)
    assert message in str(info.value)
    assert CONFIG_KEY in str(info.value)


def without(start: str) -> Callable[[State], State]:
    return lambda state: {key: value for key, value in state.items() if not key.startswith(start)}


def having(key: str, value: Tensor) -> Callable[[State], State]:
    return lambda state: {**state, key: value}


def renumbered(state: State) -> State:
    return {key.replace("stages.2.", "stages.5."): value for key, value in state.items()}


def starting_with_a_merge(state: State) -> State:
    merge = {f"stages.1.{key}": torch.ones(1) for key in ("linear_layer.weight", "layer_norm.bias")}
    kept = {
        key: value for key, value in state.items() if not key.startswith(("stages.1", "stages.2"))
    }
    return {**kept, **merge}


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        pytest.param(
            without("stages"), (f"not a notebook checkpoint: it lacks {TABLE}, ",), id="no-stages"
        ),
        pytest.param(
            lambda state: {"patch_embed.proj.weight": torch.ones(1)},
            ("not a notebook checkpoint", EMBEDDING, "such as patch_embed.proj.weight"),
            id="other-model",
        ),
        pytest.param(
            without("stages.0.SWSA.MLP.0"),
            ("missing keys: stages.0.SWSA.MLP.0.bias, stages.0.SWSA.MLP.0.weight",),
            id="missing",
        ),
        pytest.param(
            having("norm.weight", torch.ones(3)), ("unknown keys: norm.weight",), id="unknown"
        ),
        pytest.param(
            lambda state: having("head.bias", torch.ones(4))(
                having("norm.bias", torch.ones(2))(without("stages.2.WSA.layer_norm.bias")(state))
            ),
            (
                "missing keys: stages.2.WSA.layer_norm.bias",
                "unknown keys: norm.bias",
                "wrong shapes: head.bias is [4], not [3]",
            ),
            id="everything-at-once",
        ),
        pytest.param(
            having(TABLE, torch.ones(49, 48)), (f"{TABLE} is [49, 48], not [49, 49]",), id="table"
        ),
        pytest.param(
            having(TABLE, torch.ones(50, 50)),
            (f"{TABLE} is [50, 50], not [49, 49]",),
            id="no-square",
        ),
        pytest.param(having(TABLE, torch.ones(49)), (f"{TABLE} is [49], not of 2",), id="table-1d"),
        pytest.param(having(TABLE, torch.tensor(1.0)), (f"{TABLE} is [], not",), id="scalar"),
        pytest.param(having(TABLE, torch.ones(0, 0)), (f"{TABLE} is [0, 0]",), id="empty-table"),
        pytest.param(
            having(EMBEDDING, torch.ones(16, 48)),
            (f"{EMBEDDING} is [16, 48], not of 4",),
            id="flat",
        ),
        pytest.param(
            having(EMBEDDING, torch.ones(0, 3, 4, 4)),
            (f"{EMBEDDING} is [0, 3, 4, 4]",),
            id="no-width",
        ),
        pytest.param(
            having(EMBEDDING, torch.ones(16, 1, 4, 4)),
            (f"{EMBEDDING} is [16, 1, 4, 4], not [16, 3, 4, 4]",),
            id="grey",
        ),
        pytest.param(
            having(EMBEDDING, torch.ones(16, 3, 4, 5)), ("[16, 3, 4, 5], not",), id="oblong-patch"
        ),
        pytest.param(
            having("head.weight", torch.ones(3)), ("head.weight is [3], not of 2",), id="head-1d"
        ),
        pytest.param(without("stages.1"), ("missing keys: stages.1.*",), id="gap"),
        pytest.param(renumbered, ("missing keys: stages.2.*", "there is stages.5"), id="far-gap"),
        pytest.param(
            having("stages.99999999999.WSA.x", torch.ones(1)),
            ("unknown keys: stages.9999",),
            id="far",
        ),
        pytest.param(
            starting_with_a_merge, ("before and after each merge, and have 2, 0",), id="merge"
        ),
        pytest.param(
            having("head.bias", torch.ones(3, dtype=torch.int64)),
            ("not floating point: head.bias is int64",),
            id="integers",
        ),
        pytest.param(
            having("head.bias", torch.ones(3, dtype=torch.bool)),
            ("not floating point: head.bias is bool",),
            id="booleans",
        ),
    ],
)
def test_unfit_tensors_are_all_named(
    change: Callable[[State], State], messages: tuple[str, ...], state: State
) -> None:
    changed = change(state)
    with pytest.raises(CheckpointError) as info:
        check_state(changed, infer_config(changed, {}, img_size=56))
    for message in messages:
        assert message in str(info.value)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("img_size", [55, 57, 84, 224 + 28])
def test_infer_config_names_the_legal_image_sizes(img_size: int, state: State) -> None:
    with pytest.raises(ConfigError, match=f"image size {img_size} .* multiple of 56: 56, 112, 168"):
        infer_config(state, {}, img_size=img_size)


def test_zip_members_are_read_from_memory_alone(state: State, tmp_path: Path) -> None:
    """A zip whose member names point elsewhere writes nothing there."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(tmp_path / "w.pt", "w") as target:
        for name in source.namelist():
            target.writestr(name.replace("archive/", "../outside/"), source.read(name))
    (tmp_path / "inside").mkdir()
    failure(tmp_path / "w.pt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inside", "w.pt"]
