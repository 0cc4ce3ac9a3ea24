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


def stream_cases() -> Iterator[Case]:
    tensors = saved({"a": torch.zeros(4)})
    for name, stream in STREAMS.items():
        for protocol in (2,) if len(stream) > 100_000 else (2, 4, 5):
            raw = b"\x80" + bytes([protocol]) + stream
            yield data_case(f"pickle, {name}, protocol {protocol}, raw", raw)
            yield data_case(f"pickle, {name}, protocol {protocol}, zip", rezipped(tensors, raw))
