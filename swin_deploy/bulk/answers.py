"""Answers as the bytes of a Parquet file, which a reader of any kind takes as a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from exporters.text_files import as_utf8
from swin_deploy.bulk.libraries import load_pyarrow
from swin_deploy.bulk.parts import Part
from swin_deploy.predict.predictor import Prediction, Predictor

if TYPE_CHECKING:
    import pyarrow

MOST_HELD = 16 << 20  # bytes of outputs before they go to the file, as a row group
FEATURES = "features"  # the output whose shape is not said in each row: a vector
ERROR = "error"


@dataclass(frozen=True)
class Columns:
    """What the columns of a part file hold.

    Attributes:
        score: Name of a class's score; empty for a model without classes.
        outputs: Names of the model's outputs that are kept, of a model without classes.
        sized: True for a column with the image size that each picture was prepared for.
    """

    score: str = ""
    outputs: tuple[str, ...] = ()
    sized: bool = False

    @property
    def schema(self) -> pyarrow.Schema:
        """Names and types of the columns."""
        arrow = load_pyarrow()
        text, whole = arrow.string(), arrow.int32()
        fields: dict[str, pyarrow.DataType] = {"source": text, "row": arrow.int64(), "image": text}
        if self.sized:
            fields["image_size"] = text
        if self.score:
            fields |= {"classes": arrow.list_(text), "indices": arrow.list_(whole)}
            fields[self.score] = arrow.list_(arrow.float64())
        for name in self.outputs:
            fields[name] = arrow.list_(arrow.float32())
            if name != FEATURES:
                fields[f"{name}_shape"] = arrow.list_(whole)
        return arrow.schema([*fields.items(), (ERROR, text)])


def columns_of(predictor: Predictor) -> Columns:
    """Return the columns for the answers of a model."""
    sized = bool(predictor.sizes)
    if not predictor.classifies:
        return Columns(outputs=tuple(predictor.facts.config.output_names), sized=sized)
    return Columns("logits" if predictor.facts.scores == "none" else "probabilities", sized=sized)


def parquet_of(answers: Iterable[Prediction], part: Part, columns: Columns) -> Iterator[bytes]:
    """Yield the bytes of a part's file as they come; little is in memory at a time.

    Args:
        answers: Answers to the part's pictures, in order.
        part: The part.
        columns: The columns of the file.
    """
    arrow, schema, sink = load_pyarrow(), columns.schema, _Pieces()
    held: list[dict[str, Any]] = []
    size = 0
    with arrow.parquet.ParquetWriter(sink, schema, compression="zstd") as writer:
        for place, answer in enumerate(answers):
            held.append(_row(answer, place, part, columns))
            size += sum(output.nbytes for output in answer.outputs.values())
            if size >= MOST_HELD:
                writer.write_table(arrow.Table.from_pylist(held, schema))
                yield sink.taken()
                held, size = [], 0
        if held:
            writer.write_table(arrow.Table.from_pylist(held, schema))
    yield sink.taken()


def _row(answer: Prediction, place: int, part: Part, columns: Columns) -> dict[str, Any]:
    """Return an answer by column; what is not in it is null."""
    row: dict[str, Any] = {
        "source": as_utf8(part.source),
        "row": None if part.start is None else part.start + place,
        "image": as_utf8(answer.image),
        ERROR: as_utf8(answer.error) or None,
        "image_size": str(answer.size) if answer.size else None,
    }
    if answer.error:
        return row
    if columns.score:
        row["classes"] = [one.name or None for one in answer.top]
        row["indices"] = [one.index for one in answer.top]
        row[columns.score] = [one.probability for one in answer.top]
    for name in columns.outputs:
        row[name] = np.ravel(answer.outputs[name])
        row[f"{name}_shape"] = list(answer.outputs[name].shape)
    return row


@dataclass
class _Pieces:
    """A stream to write to, whose bytes are taken away piece by piece."""

    closed: bool = False
    _held: list[bytes] = field(default_factory=list)
    _size: int = 0

    def write(self, data: Any) -> int:  # noqa: ANN401 - any buffer
        piece = bytes(data)
        self._held.append(piece)
        self._size += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        """Do nothing: what is written is kept."""

    def close(self) -> None:
        self.closed = True

    def taken(self) -> bytes:
        """Return what was written since the last call."""
        held, self._held = self._held, []
        return b"".join(held)
