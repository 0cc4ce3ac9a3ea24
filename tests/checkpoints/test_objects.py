"""Objects beside the weights, whole modules, arrays: read without importing anything."""

import argparse
import collections
import datetime
import functools
import pathlib
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gone
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from exporters.errors import CheckpointError
from swin_deploy.checkpoints.files import read_values, read_weights

STATE = {"a": torch.randn(3, 4), "b.c": torch.arange(5), "half": torch.randn(7).half()}
Make = Callable[[Any], Any]
OBJECTS: dict[str, Make] = {
    "namespace": lambda _: argparse.Namespace(model="swin", lr=0.1, betas=(0.9, 0.999)),
    "cfg-node": lambda p: p.CfgNode({"MODEL": {"NAME": "swin"}, "DATA": {"IMG_SIZE": 56}}),
    "attribute-dict": lambda p: p.AttributeDict(lr=0.1),
    "easydict": lambda p: p.EasyDict({"lr": 0.1}),
    "omegaconf": lambda p: p.DictConfig({"lr": 0.1}),
    "enum": lambda p: p.Color.RED,
    "dataclass": lambda p: p.Settings(),
    "slots": lambda p: p.Slotted(),
    "own-state": lambda p: p.Scheduler(),
    "class": lambda p: p.Settings,
    "numpy-scalar": lambda _: np.float64(0.93),
    "numpy-array": lambda _: np.arange(6.0).reshape(2, 3),
    "numpy-objects": lambda _: np.array([{"a": 1}, None], dtype=object),
    "numpy-text": lambda _: np.array(["a", "b"]),
    "numpy-time": lambda _: np.datetime64("2024-01-01"),
    "path": lambda _: pathlib.PurePosixPath("/data/imagenet"),
    "datetime": lambda _: datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC),
    "partial": lambda _: functools.partial(int, base=2),
    "defaultdict": lambda _: collections.defaultdict(list, {"loss": [1.0]}),
    "counter": lambda _: collections.Counter("abca"),
    "deque": lambda _: collections.deque([1, 2], maxlen=3),
    "set": lambda _: {1, 2},
    "complex": lambda _: 1j,
    "optimizer": lambda _: torch.optim.AdamW([nn.Parameter(torch.ones(2))]),
    "scheduler": lambda _: torch.optim.lr_scheduler.StepLR(
        torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1), 2
    ),
    "generator": lambda _: torch.Generator().get_state(),
    "torch-dtype": lambda _: torch.bfloat16,
    "torch-device": lambda _: torch.device("cuda:0"),
}


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        expected = tensor.float() if tensor.is_floating_point() else tensor
        assert found[name].dtype == expected.dtype
        torch.testing.assert_close(found[name], expected, rtol=0, atol=0)


def save(values: object, path: Path, *, form: str, protocol: int) -> None:
    if form == "pickle":
        path.write_bytes(pickle.dumps(values, protocol))
    else:
        zipped = form == "zip"
        torch.save(values, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("name", OBJECTS)
def test_read_weights_with_an_object_beside_gives_the_weights(
    name: str, form: str, tmp_path: Path
) -> None:
    """Every protocol; the object's class cannot be imported, or must not be."""
    for protocol in range(2 if form == "zip" else 0, 6):
        if form == "legacy" and protocol < 2:
            continue  # torch.save writes persistent ids that no reader reads
        with gone.package() as package:
            values = {"model": STATE, "epoch": 3, "other": OBJECTS[name](package)}
            try:
                save(values, tmp_path / "w.pt", form=form, protocol=protocol)
            except (TypeError, AssertionError, pickle.PicklingError):
                assert protocol < 2  # no such object in this protocol
                continue
        before = set(sys.modules)
        weights = read_weights(tmp_path / "w.pt")
        assert set(sys.modules) == before
        assert_same(weights.chosen.tensors, STATE)
        assert weights.chosen.name == "model"


@pytest.mark.parametrize("name", ["namespace", "cfg-node", "slots", "path", "numpy-scalar"])
def test_read_weights_with_an_object_among_them_gives_the_weights(
    name: str, tmp_path: Path
) -> None:
    with gone.package() as package:
        torch.save({**STATE, "other": OBJECTS[name](package)}, tmp_path / "w.pt")
    chosen = read_weights(tmp_path / "w.pt").chosen
    assert_same(chosen.tensors, STATE)
    assert "left aside what is no weight: other" in chosen.notes


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("namespace", "argparse.Namespace"),
        ("cfg-node", "gone_package.CfgNode"),
        ("partial", "functools.partial"),
        ("numpy-scalar", ""),
        ("numpy-array", ""),
        ("defaultdict", ""),
        ("set", ""),
        ("torch-dtype", ""),
    ],
)
def test_read_weights_names_the_classes_that_are_left_aside(
    name: str, classes: str, tmp_path: Path
) -> None:
    with gone.package() as package:
        torch.save({"model": STATE, "other": OBJECTS[name](package)}, tmp_path / "w.pt")
    notes = [note for note in read_weights(tmp_path / "w.pt").chosen.notes if "objects" in note]
    assert notes == ([f"left aside objects of {classes}: not imported"] if classes else [])


def test_read_values_gives_items_and_attributes_as_dicts(tmp_path: Path) -> None:
    with gone.package() as package:
        values = {name: make(package) for name, make in OBJECTS.items()}
        torch.save(values, tmp_path / "w.pt")
    found: Any = read_values(tmp_path / "w.pt")
    assert found["namespace"] == {"model": "swin", "lr": 0.1, "betas": (0.9, 0.999)}
    assert found["cfg-node"] == {"MODEL": {"NAME": "swin"}, "DATA": {"IMG_SIZE": 56}}
    assert found["attribute-dict"] == found["easydict"] == {"lr": 0.1} == found["omegaconf"]
    assert found["dataclass"] == {"lr": 0.1, "img_size": 56}
    assert found["defaultdict"] == {"loss": [1.0]}
    assert found["counter"] == {"a": 2, "b": 1, "c": 1}
    assert found["numpy-scalar"] == 0.93
    assert found["numpy-array"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["set"] == (1, 2)
    assert found["enum"] == found["path"] == found["own-state"] == found["numpy-objects"] == {}


ARRAYS = {
    "rows": np.arange(6, dtype=np.float32).reshape(2, 3),
    "columns": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "big-endian": np.arange(4, dtype=">f4"),
    "half": np.arange(4, dtype=np.float16),
    "double": np.arange(4, dtype=np.float64),
    "integers": np.arange(4),
    "flags": np.array([True, False]),
    "number": np.array(2.5, dtype=np.float32),
    "empty": np.zeros((0, 3), np.float32),
    "sliced": np.arange(12, dtype=np.float32).reshape(3, 4)[::2, 1::2],
    "read-only": np.broadcast_to(np.float32(3), (2, 2)),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("wrapped", [False, True], ids=["flat", "under-model"])
def test_read_weights_of_a_pickle_of_arrays(protocol: int, wrapped: bool, tmp_path: Path) -> None:
    """Detectron2's .pkl, with the encoding of each protocol, and torch.save of such a dict."""
    extra = {"__author__": "third_party", "matching_heuristics": True}
    values: object = {"model": ARRAYS, **extra} if wrapped else ARRAYS
    wanted = {
        name: torch.from_numpy(np.array(v, v.dtype.newbyteorder("="))) for name, v in ARRAYS.items()
    }
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(values, protocol))
    assert_same(read_weights(tmp_path / "w.pkl").chosen.tensors, wanted)
    if protocol >= 2:
        torch.save(values, tmp_path / "w.pth", pickle_protocol=protocol)
        assert_same(read_weights(tmp_path / "w.pth").chosen.tensors, wanted)


def test_read_weights_of_a_pickle_of_python_2(tmp_path: Path) -> None:
    """Texts were bytes there: the data of an array is a text in Latin-1."""
    data = np.arange(3, dtype="<f4").tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        b"(K\x01(K\x03tcnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x0c" + data + b"tb"
    )
    (tmp_path / "w.pkl").write_bytes(b"\x80\x02}U\x01a" + array + b"s.")
    assert_same(read_weights(tmp_path / "w.pkl").chosen.tensors, {"a": torch.arange(3.0)})


VIEWS: dict[str, Callable[[], dict[str, Tensor]]] = {
    "tied": lambda: dict.fromkeys("ab", torch.randn(4)),
    "views": lambda: (lambda t: {"a": t[1:, ::2], "b": t.T, "c": t[0, 0]})(torch.randn(4, 6)),
    "expanded": lambda: {"a": torch.randn(1, 4).expand(3, 4)},
    "empty": lambda: {"a": torch.zeros(0, 5), "b": torch.randn(2)},
    "parameter": lambda: {
        "a": nn.Parameter(torch.randn(3)), "b": nn.Parameter(torch.randn(3), requires_grad=False),
    },
    "buffer": lambda: {"a": nn.Buffer(torch.randn(3))},
    "types": lambda: {
        str(kind): torch.ones(3).to(kind)
        for kind in (torch.float64, torch.bfloat16, torch.int8, torch.uint8, torch.bool)
    },
}  # fmt: skip


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("name", VIEWS)
def test_read_values_are_those_of_pytorch(name: str, form: str, tmp_path: Path) -> None:
    """The oracle is PyTorch's own reader."""
    tensors = VIEWS[name]()
    save(collections.OrderedDict(tensors), tmp_path / "w.pt", form=form, protocol=2)
    wanted = (
        pickle.loads((tmp_path / "w.pt").read_bytes())
        if form == "pickle"
        else torch.load(tmp_path / "w.pt", weights_only=True)
    )
    found: Any = read_values(tmp_path / "w.pt")
    assert list(found) == list(wanted)
    for key, tensor in wanted.items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor)
        assert found[key].stride() == tensor.stride()
    if name == "tied" and form != "pickle":
        assert found["a"].data_ptr() == found["b"].data_ptr()


def test_read_values_of_the_other_byte_order(tmp_path: Path) -> None:
    """As PyTorch on a big-endian machine writes them; its own reader is the oracle."""
    wanted = {"a": torch.randn(5), "b": torch.randn(3).double(), "c": torch.arange(4)}
    torch.save(wanted, tmp_path / "little.pt")
    with (
        zipfile.ZipFile(tmp_path / "little.pt") as old,
        zipfile.ZipFile(tmp_path / "w.pt", "w") as new,
    ):
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("/byteorder"):
                data = b"big"
            elif "/data/" in name:
                width = {"0": 4, "1": 8, "2": 8}[name[-1]]
                data = np.frombuffer(data, f"u{width}").byteswap().tobytes()
            new.writestr(name, data)
    found: Any = read_values(tmp_path / "w.pt")
    for key, tensor in torch.load(tmp_path / "w.pt", weights_only=True).items():
        assert torch.equal(found[key], tensor)
        assert torch.equal(found[key], wanted[key])


class Block(nn.Module):
    """Everything that a state dict has or leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 4), nn.Linear(4, 3, bias=False)])
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("kept", torch.randn(3))
        self.register_buffer("unsaved", torch.randn(3), persistent=False)
        self.register_parameter("absent", None)
        self.tied = self.layers[0]
        self.plain = torch.ones(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[1](self.layers[0](x)) + self.kept + self.unsaved


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("wrap", ["plain", "parallel", "compiled", "in-dict", "ema", "gone"])
def test_read_weights_of_a_pickled_module_are_its_state_dict(
    wrap: str, form: str, tmp_path: Path
) -> None:
    block = Block().eval()
    wanted = dict(block.state_dict())
    with gone.package() as package:
        values: object = {
            "plain": block,
            "parallel": nn.DataParallel(block),
            "compiled": nn.ModuleDict({"_orig_mod": block}),
            "in-dict": {"model": block, "epoch": 3},
            "ema": {"model": Block(), "ema": block},
            "gone": package.Net(block),
        }[wrap]
        save(values, tmp_path / "w.pt", form=form, protocol=2)
    wanted_role = "ema" if wrap == "ema" else None
    found = read_weights(tmp_path / "w.pt", wanted=wanted_role).chosen
    start = "model." if wrap == "gone" else ""  # what wrappers add is taken off
    assert_same(found.tensors, {f"{start}{name}": value for name, value in wanted.items()})
    assert any("not imported" in note and "Linear" in note for note in found.notes)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("how", ["trace", "script"])
def test_read_weights_of_torchscript_are_its_state_dict(how: str, tmp_path: Path) -> None:
    block = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Sequential(nn.Linear(4, 2))).eval()
    scripted = (
        torch.jit.trace(block, torch.ones(2, 3)) if how == "trace" else torch.jit.script(block)
    )
    scripted.save(str(tmp_path / "w.pt"))
    found = read_weights(tmp_path / "w.pt").chosen
    assert_same(found.tensors, dict(block.state_dict()))
    assert "read a module as a state dict, its classes not imported: TorchScript" in found.notes


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_read_weights_of_frozen_torchscript_says_that_they_have_no_names(tmp_path: Path) -> None:
    torch.jit.freeze(torch.jit.script(nn.Linear(3, 4).eval())).save(str(tmp_path / "w.pt"))
    with pytest.raises(CheckpointError, match=r"TorchScript.* frozen, .* no names; give the"):
        read_weights(tmp_path / "w.pt")


def test_read_weights_of_a_module_in_itself_ends(tmp_path: Path) -> None:
    loop = nn.Module()
    loop._modules["again"] = loop
    torch.save(loop, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="asks for modules in modules"):
        read_weights(tmp_path / "w.pt")


def test_read_weights_of_modules_that_double_ends(tmp_path: Path) -> None:
    inner = nn.Module()
    for _ in range(60):
        outer = nn.Module()
        outer.left = outer.right = inner
        inner = outer
    torch.save(inner, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="asks for more than 500,000 entries"):
        read_weights(tmp_path / "w.pt")
