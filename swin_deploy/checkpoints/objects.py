"""Plain values from the stand-ins of a pickle: dicts, tensors, and the state of modules by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

from swin_deploy.checkpoints.limits import MOST_GROWTH, SPARE
from swin_deploy.checkpoints.pickles import Inert, Stored, TooLargeError, safe_key
from swin_deploy.checkpoints.tensors import TORCH_TYPES, rebuilt
from swin_deploy.checkpoints.torch_files import TorchFile, as_bytes

MOST_DEPTH = 150  # values in values; a module in a module takes two
MOST_ENTRIES = 500_000  # of dicts, sets and modules, those that are met twice counted twice
SCRIPTED = "__torch__."  # start of the names of classes in TorchScript archives
OMEGACONF = "omegaconf."
# Attributes of a module or of one in it that tell how it is used.
ABOUT = frozenset({
    "args", "cfg", "class_names", "class_to_idx", "classes", "config", "default_cfg",
    "hparams", "idx_to_class", "img_size", "num_classes", "pretrained_cfg",
})  # fmt: skip
MAKERS = frozenset(  # functions by which old protocols make an object of their first argument
    f"{home}.{name}"
    for home in ("copyreg", "copy_reg")
    for name in ("_reconstructor", "__newobj__", "__newobj_ex__")
)
PLAIN_TYPES = (
    "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "long",
    "object", "set", "str", "tuple",
)  # fmt: skip
# Imports for tensors and plain values, which are not worth a note.
PLAIN = frozenset({
    "_codecs.encode", "collections.Counter", "collections.OrderedDict", "collections.defaultdict",
    "numpy.dtype", "numpy.ndarray", "torch.Size", "torch.device", "torch.nn.parameter.Buffer",
    "torch.nn.parameter.Parameter", "torch.storage._load_from_bytes",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core")
      for name in ("_reconstruct", "scalar")),
    *(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")),
    *(f"{home}.{name}" for home in ("builtins", "__builtin__") for name in PLAIN_TYPES),
    *MAKERS, *TORCH_TYPES,
})  # fmt: skip


BUILTINS = ("builtins.", "__builtin__.")


class Held(dict[Any, Any]):
    """The content of an object whose class was not imported: its items, or its attributes.

    A module's is its state dict.

    Attributes:
        kind: Full name of the class.
        about: Attributes of a module that tell how it is used.
    """

    kind: str = ""
    about: dict[str, Any]


def plain_values(file: TorchFile) -> Any:  # noqa: ANN401 - whatever a file holds
    """Return the values of a file with tensors and plain types in the place of stand-ins.

    1. A call that rebuilds a tensor, an array or a NumPy number: the tensor or number.
    2. A module, pickled whole or in a TorchScript archive: its state dict, as ``Held``.
    3. Any other object: its items, else its attributes, as ``Held``, empty if it shows none.

    Args:
        file: The file.

    Raises:
        TooLargeError: If it has more modules than any model.
        ValueError, LookupError, TypeError, RuntimeError: If it is damaged.
    """
    return _Converter(file).plain(file.pickled.value)


def foreign_names(names: Iterable[str]) -> list[str]:
    """Return those imports of a pickle that are for more than tensors and plain values.

    Args:
        names: Names of its imports; those of a TorchScript archive become one.
    """
    found = [name for name in names if not _is_plain(name)]
    return list(dict.fromkeys("TorchScript" if n.startswith(SCRIPTED) else n for n in found))


def _is_plain(name: str) -> bool:
    home, _, last = name.rpartition(".")
    storage = home in ("torch", "torch.cuda", "torch.storage") and last.endswith("Storage")
    tensor = home in ("torch._utils", "torch._tensor") and last.startswith("_rebuild_")
    return name in PLAIN or storage or tensor


class _Converter:
    """The values that were converted, each once, so that what is shared stays shared."""

    def __init__(self, file: TorchFile) -> None:
        self.fetch = file.fetch
        self.done: dict[int, Any] = {}
        self.entries = self.bytes = 0
        self.held: dict[int, int] = {}  # bytes of each piece of memory
        self.most_bytes = MOST_GROWTH * file.size + SPARE

    def plain(self, value: Any, depth: int = 0) -> Any:  # noqa: ANN401 - whatever a file holds
        """Convert a value and what is in it."""
        if not isinstance(value, dict | list | tuple | set | frozenset | Inert | Stored):
            return value
        if id(value) in self.done:
            return self.done[id(value)]
        if depth > MOST_DEPTH:
            raise ValueError(f"values in values, more than {MOST_DEPTH} deep")
        if isinstance(value, Inert):
            return self._object(value, depth)
        if isinstance(value, dict):
            return self._fill({}, value, value.items(), depth)
        if isinstance(value, list):
            found: list[Any] = []
            self.done[id(value)] = found
            found += [self.plain(one, depth + 1) for one in value]
            return found
        parts = () if isinstance(value, Stored) else value
        self.done[id(value)] = tuple([self.plain(one, depth + 1) for one in parts])
        return self.done[id(value)]

    def _fill(
        self, into: dict[Any, Any], value: object, items: Iterable[tuple[Any, Any]], depth: int
    ) -> dict[Any, Any]:
        self.done[id(value)] = into
        for key, one in items:
            self._count()
            into[safe_key(key)] = self.plain(one, depth + 1)
        return into

    def _object(self, value: Inert, depth: int) -> Any:  # noqa: ANN401 - whatever it was
        found = rebuilt(value, self.fetch) if value.made else None
        if found is not None:  # 1
            if isinstance(found, Tensor):
                self._keep(found.untyped_storage().data_ptr(), found.untyped_storage().nbytes())
            self.done[id(value)] = found
            return found
        if value.made and value.name.startswith((*BUILTINS, "_codecs.")):
            return self._spelt(value, depth)
        if value.name.startswith(OMEGACONF) and isinstance(value.state, dict):
            inner = value.state.get("_content", value.state.get("_val"))
            return self.plain(inner, depth + 1)
        if value.made and value.name == "collections.OrderedDict":
            return self._fill({}, value, _items(value), depth)
        held = Held()
        held.kind, held.about = _class_of(value), {}
        if not _is_module(value):
            return self._fill(held, value, _items(value) or _attributes(value), depth)  # 3
        return self._module(value, held, depth)  # 2

    def _module(self, value: Inert, held: Held, depth: int) -> Held:
        """Fill in the state dict of a module, and what its attributes tell."""
        self.done[id(value)] = held
        about: dict[str, Any] = {}
        for name, one in self._state(value, "", about):
            tensor = self.plain(one, depth + 1)
            if isinstance(tensor, Tensor):
                held[name] = tensor
        held.about |= {name: self.plain(one, depth + 1) for name, one in about.items()}
        return held

    def _count(self, entries: int = 1) -> None:
        """Count entries of dicts, sets and modules; what is shared in the file may be many."""
        self.entries += entries
        if self.entries > MOST_ENTRIES:
            raise TooLargeError(f"more than {MOST_ENTRIES:,} entries in its objects")

    def _keep(self, place: int, size: int) -> None:
        """Count memory that was made; the same data may be the data of many arrays."""
        self.bytes += size - self.held.get(place, 0)
        self.held[place] = size
        if self.bytes > self.most_bytes:
            raise TooLargeError(f"{self.bytes:,} bytes of values, far more than it has")

    def _spelt(self, value: Inert, depth: int) -> Any:  # noqa: ANN401 - of these types
        """Return bytes and sets, which protocols before 3 and 4 spell as calls."""
        if value.name.endswith("set"):
            members = _members(value)
            self._count(len(members))
            return tuple(self.plain(one, depth + 1) for one in members)
        try:
            data = as_bytes(value)
        except ValueError:
            held = Held()
            held.kind, held.about = value.name, {}
            return held
        self._keep(id(value), len(data))
        self.done[id(value)] = data
        return data

    def _state(
        self, module: Inert, prefix: str, about: dict[str, Any]
    ) -> Iterator[tuple[str, Any]]:
        """Yield name and stand-in of the parameters and buffers of a module and those in it.

        Attributes that tell how it is used go to ``about``, those of the outermost module first.
        """
        self._count()
        if prefix.count(".") > MOST_DEPTH:
            raise TooLargeError(f"modules in modules, more than {MOST_DEPTH} deep")
        for name in ABOUT & module.state.keys():
            about.setdefault(name, module.state[name])
        inner: list[tuple[str, Inert]] = []
        for name, one in _parts(module):
            self._count()
            if isinstance(one, Inert) and _is_module(one):
                inner.append((name, one))
            elif isinstance(one, Inert) and one.made:
                yield prefix + name, one
        for name, one in inner:
            yield from self._state(one, f"{prefix}{name}.", about)


def _is_module(value: Inert) -> bool:
    state = value.state
    scripted = value.name.startswith(SCRIPTED)
    return isinstance(state, dict) and (scripted or state.keys() >= {"_parameters", "_modules"})


def _parts(module: Inert) -> Iterator[tuple[str, Any]]:
    """Yield parameters, buffers that are saved, and modules directly in a module."""
    if module.name.startswith(SCRIPTED):
        yield from ((name, one) for name, one in module.state.items() if isinstance(name, str))
        return
    unsaved = _members(module.state.get("_non_persistent_buffers_set"))
    for part in ("_parameters", "_buffers", "_modules"):
        for name, one in _pairs(module.state.get(part)):
            hidden = part == "_buffers" and name in unsaved
            if isinstance(name, str) and not hidden:
                yield name, one


def _members(value: Any) -> list[Any]:  # noqa: ANN401 - whatever a file holds
    """Return the members of a set; empty if it is none."""
    if isinstance(value, Inert):
        value = value.args[0] if value.args else value.entries
    return list(value) if isinstance(value, set | frozenset | list) else []


def _pairs(value: Any) -> list[tuple[Any, Any]]:  # noqa: ANN401 - whatever a file holds
    """Return the items of a dict, or of an object that is one."""
    if isinstance(value, dict):
        return list(value.items())
    return _items(value) if isinstance(value, Inert) else []


def _items(value: Inert) -> list[tuple[Any, Any]]:
    """Return the items of an object that is a dict; empty if it is not one."""
    if value.items or not value.made or not value.args:
        return value.items
    base = value.args[-1]  # of Counter, of a dict made by an old protocol
    if isinstance(base, list):
        two = [one for one in base if isinstance(one, tuple | list) and len(one) == 2]
        return [(key, one) for key, one in two]
    return list(base.items()) if isinstance(base, dict) else []


def _attributes(value: Inert) -> list[tuple[Any, Any]]:
    """Return the attributes of an object: its state, or the dicts in a tuple that is its state."""
    if isinstance(value.state, tuple):
        return [pair for part in value.state for pair in _pairs(part)]
    return _pairs(value.state)


def _class_of(value: Inert) -> str:
    first = value.args[0] if value.args else None
    made_of = value.name in MAKERS and isinstance(first, Inert)
    return first.name if isinstance(first, Inert) and made_of else value.name
