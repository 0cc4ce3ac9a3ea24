"""Weights of several graphs in one data file, those that are equal to the bit stored once.

The data are external data as ONNX has them: each weight names its file, offset and length. The
graph's metadata has the file's SHA-256, so that a graph is never run with other weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import TensorProto, numpy_helper

from exporters.artifact import sha256_of
from exporters.errors import ExportError
from exporters.weights import bare, is_weight

DIGEST = "weights_sha256"  # in a graph's metadata
ALIGNMENT = 64  # bytes, of a cache line


class SharedWeights:
    """The content of a data file that several graphs share.

    Args:
        location: Name of the data file, which is in the folder of the graphs' files.

    Attributes:
        size: Number of bytes of the file so far.
        asked: Number of bytes that the graphs' weights would take in a file for each graph.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self.size = 0
        self.asked = 0
        self._offsets: dict[bytes, int] = {}  # by SHA-256
        self._pieces: list[bytes] = []

    def take_out(self, graph: onnx.ModelProto) -> None:
        """Move the weights of a graph here; the graph keeps references in their places.

        Args:
            graph: A graph that has its weights; small tensors and indices stay in it.
        """
        for tensor in graph.graph.initializer:
            if is_weight(tensor):
                data = tensor.raw_data or numpy_helper.to_array(tensor).tobytes()
                place = {"location": self.location, "offset": self._add(data), "length": len(data)}
                tensor.CopyFrom(bare(tensor))
                tensor.data_location = TensorProto.EXTERNAL
                for key, value in place.items():
                    tensor.external_data.add(key=key, value=str(value))

    def sign(self, graph: onnx.ModelProto) -> None:
        """Write the digest of the data file, which is complete now, into a graph's metadata."""
        graph.metadata_props.add(key=DIGEST, value=self.sha256)

    @property
    def sha256(self) -> str:
        """SHA-256 of the content so far, in hexadecimal digits."""
        digest = hashlib.sha256()
        for piece in self.pieces():
            digest.update(piece)
        return digest.hexdigest()

    def pieces(self) -> Iterator[bytes]:
        """Yield the content of the file, piece by piece."""
        yield from self._pieces

    def _add(self, data: bytes) -> int:
        """Return the offset of some bytes, which are added if they are not there."""
        self.asked += len(data)
        key = hashlib.sha256(data).digest()
        if key not in self._offsets:
            gap = -self.size % ALIGNMENT
            self._offsets[key] = self.size + gap
            self._pieces += [bytes(gap), data]
            self.size += gap + len(data)
        return self._offsets[key]


def check_shared_weights(graph: onnx.ModelProto, folder: Path) -> None:
    """Compare the data file of a graph with the digest in its metadata, and drop the digest.

    Args:
        graph: The graph as parsed, without its external data; one without a digest is left as it
            is.
        folder: Folder of the graph's file.

    Raises:
        ExportError: If the data are not those that the graph was written with.
        FileError: If they cannot be read.
    """
    kept = [entry for entry in graph.metadata_props if entry.key != DIGEST]
    wanted = {entry.value for entry in graph.metadata_props if entry.key == DIGEST}
    if not wanted:
        return
    places = {
        entry.value
        for tensor in graph.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for place in sorted(places):
        if {sha256_of(folder / place)} != wanted:
            raise ExportError(
                f"its weights in {place} are not those that it was written with (SHA-256 differs); "
                "export it again"
            )
    del graph.metadata_props[:]
    graph.metadata_props.extend(kept)
