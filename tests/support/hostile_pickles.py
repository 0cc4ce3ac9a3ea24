"""Hostile pickles: code, bombs, hangs, and calls of what PyTorch's reader lets through."""

import io
import pickle
import struct
import zipfile
from collections.abc import Iterator

import torch
from hostile_run import Case, data_case

CALLS = ("os.system", "os.popen", "subprocess.Popen", "builtins.eval", "builtins.exec")


def saved(values: object, kind: str = "zip", protocol: int = 2) -> bytes:
    """The bytes of ``torch.save``, in a ``zip`` or ``legacy``."""
    stream = io.BytesIO()
    zipped = kind == "zip"
    torch.save(values, stream, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    return stream.getvalue()


def rezipped(data: bytes, pickled: bytes | None = None, method: int = zipfile.ZIP_STORED) -> bytes:
    """A ``torch.save`` file with another data.pkl, or packed otherwise."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w", method) as new:
        for name in old.namelist():
            own = pickled if name.endswith("/data.pkl") else None
            new.writestr(name, old.read(name) if own is None else own)
    return stream.getvalue()


class Runs:
    """Calls something when it is unpickled."""

    def __init__(self, call: str, argument: object) -> None:
        module, _, name = call.rpartition(".")
        self.called = getattr(__import__(module), name), (argument,)

    def __reduce__(self) -> tuple[object, ...]:
        return self.called


def code_cases() -> Iterator[Case]:
    """Pickles that run code when a careless reader loads them."""
    tensors = saved({"a": torch.zeros(1)})
    for call in CALLS:
        argument = "open('pwned', 'w')" if call.startswith("builtins") else "touch pwned"
        for protocol in (0, 2, 4, 5):
            raw = pickle.dumps({"a": Runs(call, argument)}, protocol)
            yield data_case(f"code {call}, protocol {protocol}, raw", raw)
            yield data_case(f"code {call}, protocol {protocol}, zip", rezipped(tensors, raw))
    values = {"a": torch.zeros(2), "b": Runs("os.system", "touch pwned")}
    for kind in ("zip", "legacy"):
        for protocol in (2, 4):
            data = saved(values, kind, protocol)
            yield data_case(f"code among tensors, protocol {protocol}, {kind}", data)


def imported(name: str) -> bytes:
    module, _, name = name.rpartition(".")
    return f"c{module}\n{name}\n".encode()


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def called(name: str, arguments: bytes) -> bytes:
    """A dict whose one value a function makes, of a tuple of arguments."""
    return b"}" + text("a") + imported(name) + arguments + b"Rs."


# A tuple that holds another twice, 60 deep; a text that doubles, 40 times.
NESTED = b")" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(60))
DOUBLING = imported("_codecs.encode") * 41 + text("a" * 64) + text("latin1") + b"\x86R"
DOUBLING += (text("hex_codec") + b"\x86R") * 40
STORAGE = b"((" + text("storage") + imported("torch.FloatStorage") + text("9") + text("cpu")
STREAMS: dict[str, bytes] = {  # without their protocol
    "nothing": b"",
    "only stop": b".",
    "pop of nothing": b"0.",
    "tuple that hashes for ever": b"}" + NESTED + b"Ns.",
    "tuple that prints for ever": NESTED + b".",
    "codec that doubles": b"}" + text("a") + DOUBLING + b"s.",
    "bytearray of 2^40": called("__builtin__.bytearray", integer(1 << 40) + b"\x85"),
    "bytearray of 2^33": called("__builtin__.bytearray", integer(1 << 33) + b"\x85"),
    "tensor of 2^40": called("torch.Tensor", integer(1 << 40) + b"\x85"),
    "tensor of 2^33": called("torch.Tensor", integer(1 << 33) + b"\x85"),
    "sparse": called("torch._utils._rebuild_sparse_tensor", b"N)\x86"),
    "storage that is not there": called(
        "torch._utils._rebuild_tensor_v2",
        STORAGE + integer(4) + b"tQK\x00K\x04\x85K\x01\x85\x89)t",
    ),
    "list in itself": b"]q\x00h\x00a.",
    "dict in itself": b"}q\x00" + text("model") + b"h\x00s.",
    "a million lists": b"(" + b"]" * 1_000_000 + b"l.",
    "four million lists": b"(" + b"]" * 4_000_000 + b"l.",
    "60 million lists": b"(" + b"]" * 60_000_000 + b"l.",
    "deep marks": b"(" * 100_000 + b".",
    "deep tuples": b")" + b"\x85" * 1_000_000 + b".",
    "deep lists": b"]" * 100_000 + b"a" * 99_999 + b".",
    "deep dict of dicts": b"}" + (text("model") + b"}") * 50_000 + b"s" * 50_000 + b".",
    "memo that is not there": b"h\x05.",
    "large memo number": b"}r\xff\xff\xff\xff.",
    "text cut off": b"X\xff\xff\xff\x7fabc",
    "text of 4 GiB": b"X\xff\xff\xff\xff" + b"a" * 100,
    "not UTF-8": b"}X\x02\x00\x00\x00\xff\xfeNs.",
    "lone surrogate": b"}" + text("\ud800") + b"Ns.",
    "extension": b"\x82\x01.",
    "inst": b"(S'touch pwned'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nS'touch pwned'\no.",
    "stack global": b"\x8c\x02os\x8c\x06system\x93\x8c\x0btouch pwned\x85R.",
    "newobj": imported("collections.OrderedDict") + b")\x81.",
    "build": imported("collections.OrderedDict") + b")R}" + text("__class__") + b"Nsb.",
    "long key": b"}" + text("k" * 1_000_000) + b"Ns.",
    "keys of all sorts": b"}(K\x01NNN\x88N\x89NG?\xf0\x00\x00\x00\x00\x00\x00Nu.",
    "persistent id": b"Px\n.",
    "frame": b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.",
    "bytes of 2^62": b"\x8e" + struct.pack("<Q", 1 << 62) + b"abc",
    "out of band buffer": b"\x97.",
}

N_TYPE = imported("torch.nn.parameter.Parameter")
CANARY = text("open('pwned', 'w').close()")
EVAL, SYSTEM = imported("builtins.eval"), imported("os.system") + text("touch pwned") + b"\x85R"
# Every way to call, to make an object, to set its state or to fill it; ``a`` is then the value.
WAYS: dict[str, bytes] = {
    "reduce": EVAL + CANARY + b"\x85R",
    "reduce of a getattr": imported("builtins.getattr") + imported("os.path") + text("os")
    + b"\x86R",
    "newobj": imported("subprocess.Popen") + text("touch pwned") + b"\x85\x81",
    "newobj ex": imported("subprocess.Popen") + text("touch pwned") + b"\x85}" + text("shell")
    + b"\x88s\x92",
    "obj": b"(" + EVAL + CANARY + b"o",
    "inst": b"(S'touch pwned'\nios\nsystem\n",
    "call of a call": imported("operator.methodcaller") + text("system") + b"\x85R" + b")R",
    "build with setstate": imported("a.B") + b")\x81}" + text("__setstate__") + EVAL + b"sb",
    "build of a class": imported("os.system") + b"}" + text("__call__") + EVAL + b"sb",
    "build of slots": imported("a.B") + b")\x81N}" + text("__class__") + EVAL + b"s\x86b",
    "build of a dict": b"}}" + text("__class__") + EVAL + b"sb",
    "build of a reader": imported("torch._utils._rebuild_tensor_v2") + b"N}" + text("__defaults__")
    + SYSTEM + b"\x85s\x86b",
    "append": imported("collections.deque") + b")R" + SYSTEM + b"a",
    "appends": imported("a.B") + b")\x81(" + SYSTEM + SYSTEM + b"e",
    "items": imported("a.B") + b")\x81(" + SYSTEM + SYSTEM + b"u",
    "add items": b"\x8f(" + SYSTEM + b"\x90",
    "key": b"}" + SYSTEM + b"Ns",
    "key that hashes": b"}" + SYSTEM + b"\x85Ns",
    "nested": EVAL + (imported("a.B") + CANARY + b"\x85R") + b"\x85R",
    "memo of a call": EVAL + b"q\x07" + CANARY + b"\x85Rq\x08h\x07" + CANARY + b"\x85R",
    "memo that is changed": imported("a.B") + b"q\x070" + EVAL + b"q\x070h\x07" + CANARY + b"\x85R",
    "extension 1": b"\x82\x01)R",
    "extension 2": b"\x83\x01\x01)R",
    "extension 4": b"\x84\x01\x01\x01\x01)R",
    "reader of storages": imported("torch.storage._load_from_bytes")
    + b"C" + bytes([len(b"\x80\x02" + SYSTEM + b".")]) + b"\x80\x02" + SYSTEM + b"." + b"\x85R",
    "load": imported("torch.load") + text("bad.pt") + b"\x85R",
    "numpy load": imported("numpy.load") + text("bad.pt") + b"\x85R",
    "parameter of a call": imported("torch._utils._rebuild_parameter") + SYSTEM + b"\x89N\x87R",
    "tensor of a call": imported("torch._utils._rebuild_tensor_v2") + b"(" + SYSTEM
    + b"K\x00K\x01\x85K\x01\x85\x89NtR",
    "tensor by another function": imported("torch._tensor._rebuild_from_type_v2")
    + b"(" + imported("os.system") + N_TYPE + text("touch pwned") + b"\x85NtR",
    "class outside": b"(" + text("module") + SYSTEM + text("x.py") + text("source") + b"tQ)\x81",
    "pickled pickle": imported("pickle.loads") + text("touch") + b"\x85R",
    "scripted code": imported("__torch__.a.B") + b")\x81}" + text("x") + SYSTEM + b"sb",
}  # fmt: skip
FLOATS = b"".join((STORAGE, integer(4), b"tQ"))  # the four values of the file's storage 0
FLOATS = FLOATS.replace(text("9"), text("0")).replace(b"((", b"(", 1)


def view(*arguments: bytes, storage: bytes = FLOATS, version: int = 2) -> bytes:
    """A tensor of offset, sizes and strides, which need not fit its storage."""
    more = b"\x89N" + (imported("torch.float64") if version == 3 else b"")
    name = imported(f"torch._utils._rebuild_tensor_v{version}")
    return name + b"(" + storage + b"".join(arguments) + more + b"tR"


def whole(*numbers: int) -> bytes:
    return b"(" + b"".join(map(integer, numbers)) + b"t"


def array(shape: bytes, data: bytes, kind: str = "f4", order: str = "<") -> bytes:
    """An array of NumPy, whose data need not fit."""
    made = imported("numpy.core.multiarray._reconstruct") + imported("numpy.ndarray")
    dtype = imported("numpy.dtype") + text(kind) + b"\x89\x88\x87R(K\x03" + text(order) + b"NNNJ"
    dtype += b"\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    raw = b"B" + struct.pack("<I", len(data)) + data
    return made + b"K\x00\x85C\x01b\x87R(K\x01" + shape + dtype + b"\x89" + raw + b"tb"


def stored(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"tQ"


LETTERS = text("storage") + imported("torch.FloatStorage")
# Tensors and arrays with arguments that reach outside their data.
WRONG: dict[str, bytes] = {
    "too many": view(integer(0), whole(5), whole(1)),
    "offset": view(integer(1), whole(4), whole(1)),
    "offset far away": view(integer(1 << 60), whole(1), whole(1)),
    "offset before": view(integer(-1), whole(2), whole(1)),
    "offset before, vast": view(integer(-(1 << 70)), whole(2), whole(1)),
    "strides": view(integer(0), whole(2, 2), whole(3, 1)),
    "strides before": view(integer(3), whole(2), whole(-3)),
    "strides vast": view(integer(0), whole(2, 2), whole(1 << 61, 1 << 61)),
    "strides that overflow": view(integer(0), whole(5, 5), whole(1 << 62, 1 << 62)),
    "sizes vast": view(integer(0), whole(1 << 61, 8), whole(0, 0)),
    "sizes negative": view(integer(0), whole(-2, -2), whole(1, 1)),
    "sizes and strides": view(integer(0), whole(2, 2), whole(1)),
    "sizes of 100,000 axes": view(integer(0), whole(*[1] * 10_000), whole(*[0] * 10_000)),
    "sizes of numbers": view(integer(0), b"G?\xf0\x00\x00\x00\x00\x00\x00\x85", whole(1)),
    "sizes of flags": view(integer(0), b"\x88\x85", whole(1)),
    "sizes of text": view(integer(0), text("44"), text("11")),
    "no sizes": view(integer(0)),
    "another type": view(integer(0), whole(2), whole(1), version=3),
    "another type beyond": view(integer(0), whole(3), whole(1), version=3),
    "storage of text": view(integer(0), whole(1), whole(1), storage=text("abcd")),
    "storage beyond": view(
        integer(0), whole(5), whole(1),
        storage=stored(LETTERS, text("0"), text("cpu"), integer(5)),
    ),
    "storage elsewhere": view(
        integer(0), whole(1), whole(1),
        storage=stored(LETTERS, text("../../../etc/passwd"), text("cpu"), integer(1)),
    ),
    "storage of its own pickle": view(
        integer(0), whole(1), whole(1),
        storage=stored(LETTERS, text("../data.pkl"), text("cpu"), integer(1)),
    ),
    "storage of another type": view(
        integer(0), whole(1), whole(1),
        storage=stored(
            text("storage"), imported("os.FloatStorage"), text("0"), text("cpu"), integer(4)
        ),
    ),
    "storage of no type": view(integer(0), whole(1), whole(1), storage=stored(text("storage"))),
    "storage negative": view(
        integer(0), whole(1), whole(1),
        storage=stored(LETTERS, text("0"), text("cpu"), integer(-4)),
    ),
    "storage by a number": view(integer(0), whole(1), whole(1), storage=integer(0) + b"Q"),
    "array too short": array(whole(4), bytes(12)),
    "array too long": array(whole(2), bytes(12)),
    "array vast": array(whole(1 << 61, 0), b""),
    "array negative": array(whole(-1), bytes(4)),
    "array of objects": array(whole(1), bytes(8), kind="O8"),
    "array of texts": array(whole(1), bytes(8), kind="U2"),
    "array of nothing": array(whole(1), b"", kind="V0"),
    "array of a type with a repetition": array(whole(1), bytes(400), kind="100f4"),
    "array of a structure": array(whole(1), bytes(8), kind="i4,f4"),
    "array of an odd order": array(whole(1), bytes(4), order="100<"),
}  # fmt: skip


def stream_cases() -> Iterator[Case]:
    tensors = saved({"a": torch.zeros(4)})
    calls = {f"way {name}": b"}" + text("a") + way + b"s." for name, way in WAYS.items()}
    wrong = {f"wrong {name}": b"}" + text("a") + one + b"s." for name, one in WRONG.items()}
    for name, stream in (STREAMS | calls | wrong).items():
        for protocol in (2,) if len(stream) > 100_000 else (2, 4, 5):
            raw = b"\x80" + bytes([protocol]) + stream
            yield data_case(f"pickle, {name}, protocol {protocol}, raw", raw)
            yield data_case(f"pickle, {name}, protocol {protocol}, zip", rezipped(tensors, raw))
