"""The weights file in a folder: by a usual name, the only one, or none and where to look."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from exporters.errors import CheckpointError
from exporters.text_files import listed, shortened

# Names that libraries give to the weights in a folder: the first that exists is taken. An index
# lists parts.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
INDEX_SUFFIX = ".index.json"
ENDINGS = (
    ".safetensors",
    ".bin",
    ".pth",
    ".pt",
    ".ckpt",
    ".pkl",
    ".pth.tar",
    ".pyth",
    ".th",
    ".tar",
)
# Files that training leaves next to weights: of transformers, accelerate, DeepSpeed, Lightning.
NO_WEIGHTS = (
    "optimizer*", "*_optim_states.pt", "scheduler*", "scaler*", "rng_state*", "random_states*",
    "training_args*", "trainer_state*", "sampler*", "custom_checkpoint_*", "hparams*",
)  # fmt: skip
PARTS = "*-of-*"  # parts that an index lists
MOST_FILES = 10_000  # files and folders that are looked at
MOST_DEPTH = 4  # folders in folders
CONVERTED = "OUT, and give that"


def weights_in(folder: Path) -> tuple[Path, list[str]]:
    """Find the weights file in a folder.

    Args:
        folder: Path of the folder.

    Returns:
        Path of the file, and a note if it has no usual name or others stand next to it.

    Raises:
        CheckpointError: If there is none, or several and none of the usual names; the message
            names them, or the folders inside that hold some.
    """
    candidates = _candidates(folder)
    for name in WEIGHTS:
        if (folder / name).is_file():
            others = [one for one in candidates if one not in WEIGHTS]
            left = f"took {name}; left aside in the folder: {listed(others)}"
            return folder / name, [left] if others else []
    _refuse_divided(folder)
    if len(candidates) == 1:
        return folder / candidates[0], [f"took {candidates[0]}, the only weights in the folder"]
    none = f"{shortened(folder)} holds none of {', '.join(WEIGHTS)}"
    if candidates:
        names = listed([str(folder / name) for name in candidates])
        raise CheckpointError(f"{none}, but {len(candidates)} weights files; give one of: {names}")
    inside = listed(sorted({str(path) for path in _folders_with_weights(folder)}))
    remedy = f"give one of its folders: {inside}" if inside else "give a checkpoint file"
    raise CheckpointError(f"{none}; {remedy}")


def _candidates(folder: Path) -> list[str]:
    """Return the names of weights files in a folder, sorted, and of an index for its parts."""
    try:
        with os.scandir(folder) as entries:
            first = itertools.islice(entries, MOST_FILES)
            names = [one.name for one in first if _is_weights(one.name) and one.is_file()]
    except OSError as err:
        raise CheckpointError(f"cannot read {shortened(folder)}: {err.strerror}") from err
    indexes = [name for name in names if name.endswith(INDEX_SUFFIX)]
    return sorted(name for name in names if not (indexes and fnmatch(name, PARTS)))


def _is_weights(name: str) -> bool:
    lower = name.lower()
    whole = lower.removesuffix(INDEX_SUFFIX)
    return (
        whole.endswith(ENDINGS)
        and not lower.startswith(".")
        and not any(fnmatch(lower, pattern) for pattern in NO_WEIGHTS)
    )


def _refuse_divided(folder: Path) -> None:
    """Refuse folders whose weights are divided among processes, and those of adapters.

    Raises:
        CheckpointError: With the command that joins the parts.
    """
    where = shortened(folder)
    if (folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{where} is an adapter of peft, without the model that it adapts; save what "
            f'PeftModel.from_pretrained(model, "{where}").merge_and_unload() gives'
        )
    if (folder / "zero_to_fp32.py").is_file() or _has(folder, "*zero_pp_rank_*"):
        script = (
            "zero_to_fp32.py" if (folder / "zero_to_fp32.py").is_file() else "../zero_to_fp32.py"
        )
        top = folder if script == "zero_to_fp32.py" else folder.parent
        raise CheckpointError(
            f"{where} is of DeepSpeed ZeRO, which divides the weights among files; join them: "
            f"python {top / 'zero_to_fp32.py'} {top} {CONVERTED}"
        )
    if _has(folder, "*.distcp"):
        raise CheckpointError(
            f"{where} is a distributed checkpoint, divided among files; join them: "
            f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {where} {CONVERTED}"
        )


def _has(folder: Path, pattern: str) -> bool:
    return next(folder.glob(pattern), None) is not None


def _folders_with_weights(folder: Path) -> Iterator[Path]:
    """Yield folders inside a folder that hold weights, and not only further folders."""
    looked_at = 0
    for root, folders, files in os.walk(folder):
        looked_at += len(folders) + len(files)
        path = Path(root)
        if looked_at > MOST_FILES or len(path.relative_to(folder).parts) >= MOST_DEPTH:
            folders.clear()
        if any(_is_weights(name) or name.endswith(".distcp") for name in files):
            yield path
