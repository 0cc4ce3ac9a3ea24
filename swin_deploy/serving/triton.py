"""A model repository of Triton Inference Server: preprocessing, model, scores, and all in a row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from swin_deploy.images.decode import MOST_PIXELS
from swin_deploy.serving.dali import dali_files
from swin_deploy.serving.pbtxt import TYPES, Word, edge, to_pbtxt
from swin_deploy.serving.preprocess_model import STEPS_FILE
from swin_deploy.serving.scores_model import LABELS_FILE
from swin_deploy.serving.served import Served, Tensor
from swin_deploy.serving.standalone import standalone

Decoder = Literal["pillow", "dali"]
# A file of a bundle: its bytes, or the file that it is copied from.
Files = dict[str, bytes | Path]

REPOSITORY = "models"  # the folder that Triton is given
PICTURE, SCORES, ANSWERS = "image", "scores", "answers"
MOST_ANSWERS = {"softmax": 5, "sigmoid": 50, "none": 5}
DELAY_US = 500  # that a request waits for others: a tenth of a call of a small model on a GPU
MODEL_FILES = {"onnx": "model.onnx", "tensorrt": "model.plan"}
# A model.py is read by Triton in a process for each instance.
INSTANCES = 2


def triton_files(served: Served, name: str, *, decoder: Decoder = "pillow") -> Files:
    """Return the files of a model repository, by path in the bundle.

    Args:
        served: The file to serve.
        name: Name of the model for clients.
        decoder: Library that decodes and prepares pictures in the server.

    Raises:
        ConfigError: If DALI cannot do the steps.
    """
    files, given = model_files(served, f"{name}-model"), picture_tensor(decoder)
    if decoder == "dali":
        files |= dali_files(served, given, f"{REPOSITORY}/{name}-preprocess")
    else:
        files |= _preprocess_files(served, f"{name}-preprocess")
    if served.classifies:
        files |= _scores_files(served, f"{name}-scores")
    files[f"{REPOSITORY}/{name}/config.pbtxt"] = _config(_ensemble(served, name, given))
    files[f"{REPOSITORY}/{name}/1/README.txt"] = b"This folder is empty on purpose: Triton asks \
for one for each version.\n"
    return files


def picture_tensor(decoder: Decoder) -> Tensor:
    """Return the input of encoded pictures: a text for each, or for DALI one array of bytes."""
    return Tensor(PICTURE, "uint8", (-1,)) if decoder == "dali" else Tensor(PICTURE, "object", (1,))


def model_files(served: Served, name: str) -> Files:
    """Return the folder of the model itself: its configuration and its file."""
    config = {f"{REPOSITORY}/{name}/config.pbtxt": _config(_model(served, name))}
    return version_files(served, name) | config


def version_files(served: Served, name: str) -> Files:
    """Return the file in the folder of a model's version, and those that hold its weights apart."""
    folder = f"{REPOSITORY}/{name}/1"
    first, *others = served.files
    apart: Files = {f"{folder}/{one.name}": one for one in others}
    return {f"{folder}/{MODEL_FILES[served.kind]}": first, **apart}


def steps_files(served: Served, definition: str, *, code: str, folder: str = "") -> Files:
    """Return the very code of ``predict`` that prepares pictures, and the steps next to it.

    Args:
        served: The file to serve.
        definition: Name in ``preprocess_model``.
        code: Path of the file with its code.
        folder: Folder of both in the bundle, with a slash at its end.
    """
    source = standalone(
        "swin_deploy.serving.preprocess_model",
        definition,
        leave_out=("Preprocessing.from_dict",),
    )
    steps = json.dumps(served.facts.preprocessing.to_dict(), indent=2) + "\n"
    return {f"{folder}{code}": source.encode(), f"{folder}{STEPS_FILE}": steps.encode()}


def names_of(served: Served) -> list[str]:
    """Return a name for each class, as ``predict`` shows it."""
    names = served.facts.class_names or ("",) * served.facts.config.num_classes
    return [one or f"class {index}" for index, one in enumerate(names)]


def labels_of(served: Served) -> list[str]:
    """Return a name for each class in one line: signs that are not shown there are spaces."""
    names = names_of(served)
    shown = ("".join(sign if sign.isprintable() else " " for sign in one) for one in names)
    return [one if one.strip() else f"class {index}" for index, one in enumerate(shown)]


def labels_file(served: Served) -> bytes:
    """Return ``labels.txt``: a label a line."""
    return ("\n".join(labels_of(served)) + "\n").encode()


def _config(message: Mapping[str, Any]) -> bytes:
    return to_pbtxt(message).encode()


def _model(served: Served, name: str) -> dict[str, Any]:
    """Return the configuration of the model, whose instances are on GPUs where Triton has some."""
    loaded = {"backend": "onnxruntime"} if served.kind == "onnx" else {"platform": "tensorrt_plan"}
    batches = served.batches
    preferred = sorted({one for one in (batches.opt, batches.max) if one > 1})
    batching = {"preferred_batch_size": preferred, "max_queue_delay_microseconds": DELAY_US}
    warm = sorted({1, batches.opt})
    return {
        "name": name,
        **loaded,
        "max_batch_size": batches.max,
        "input": edge(served.input),
        "output": [edge(one) for one in served.outputs],
        **_one_version(),
        "dynamic_batching": batching if preferred else {},
        "instance_group": {"count": 1},
        "model_warmup": [_warm_up(served.input, size) for size in warm],
        "parameters": _parameters(_origin(served)),
    }


def _warm_up(given: Tensor, batch: int) -> dict[str, Any]:
    value = {"data_type": Word(TYPES[given.type]), "dims": list(given.dims), "zero_data": True}
    inputs = {"key": given.name, "value": value}
    return {"name": f"batch of {batch}", "batch_size": batch, "inputs": inputs}


def _one_version() -> dict[str, Any]:
    return {"version_policy": {"latest": {"num_versions": 1}}}


def _origin(served: Served) -> dict[str, str]:
    """Return what a server is to say of the model, as texts."""
    facts = served.facts
    return {
        "artifact": served.path.name,
        "artifact_sha256": served.sha256,
        "precision": served.precision,
        "weights": facts.weights,
        "preprocessing": facts.preprocessing.text,
    }


def _parameters(values: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"key": key, "value": {"string_value": value}} for key, value in values.items()]


def _python_model(name: str, served: Served) -> dict[str, Any]:
    """Return what the configurations of the Python models have in common."""
    return {
        "name": name,
        "backend": "python",
        "max_batch_size": served.batches.max,
        **_one_version(),
        "instance_group": {"count": INSTANCES, "kind": Word("KIND_CPU")},
    }


def _preprocess_files(served: Served, name: str) -> Files:
    folder = f"{REPOSITORY}/{name}"
    message = {
        **_python_model(name, served),
        "input": edge(picture_tensor("pillow")),
        "output": edge(served.input),
        "parameters": _parameters({"most_pixels": str(MOST_PIXELS)}),
    }
    files = steps_files(served, "TritonPythonModel", code="model.py", folder=f"{folder}/1/")
    return files | {f"{folder}/config.pbtxt": _config(message)}


def _scores_files(served: Served, name: str) -> Files:
    folder = f"{REPOSITORY}/{name}"
    message = {
        **_python_model(name, served),
        "input": edge(served.outputs[0]),
        "output": _score_edges(served),
        "parameters": _parameters({"scores": served.facts.scores}),
    }
    source = standalone("swin_deploy.serving.scores_model", "TritonPythonModel")
    return {
        f"{folder}/config.pbtxt": _config(message),
        f"{folder}/1/model.py": source.encode(),
        f"{folder}/{LABELS_FILE}": labels_file(served),
    }


def _score_edges(served: Served) -> list[dict[str, Any]]:
    scores, answers = map(edge, score_tensors(served))
    return [{**scores, "label_filename": LABELS_FILE}, answers, edge(served.outputs[0])]


def score_tensors(served: Served) -> tuple[Tensor, Tensor]:
    """Return the tensors that a classifier's logits are made to: scores, and the best classes."""
    (logits,) = served.outputs
    dims = (answer_count(served),)
    return Tensor(SCORES, "float32", logits.dims), Tensor(ANSWERS, "object", dims)


def answer_count(served: Served) -> int:
    """Return the number of classes that an answer names."""
    return min(MOST_ANSWERS[served.facts.scores], served.facts.config.num_classes)


def _ensemble(served: Served, name: str, picture: Tensor) -> dict[str, Any]:
    """Return the configuration of the models in a row: pictures in, answers and outputs out."""
    given = served.input.name
    outputs = list(served.outputs)
    own = {one.name: one.name for one in served.outputs}
    steps = [_step(f"{name}-preprocess", {PICTURE: PICTURE}, {given: "prepared"})]
    if served.classifies:
        # The logits pass through the last step: Triton 24.10 cannot leave out an output of a row
        # that is an input of a step in it.
        outputs = [*score_tensors(served), *outputs]
        steps.append(_step(f"{name}-model", {given: "prepared"}, {"logits": "raw"}))
        made = {one.name: one.name for one in outputs}
        steps.append(_step(f"{name}-scores", {"logits": "raw"}, made))
    else:
        steps.append(_step(f"{name}-model", {given: "prepared"}, own))
    return {
        "name": name,
        "platform": "ensemble",
        "max_batch_size": served.batches.max,
        "input": edge(picture),
        "output": [edge(one) for one in outputs],
        **_one_version(),
        "ensemble_scheduling": {"step": steps},
        "parameters": _parameters({**_origin(served), "scores": served.facts.scores}),
    }


def _step(model: str, given: Mapping[str, str], made: Mapping[str, str]) -> dict[str, Any]:
    """Return one step: names in the model, with the tensors of the row that they stand for."""
    return {
        "model_name": model,
        "model_version": -1,
        "input_map": [{"key": key, "value": value} for key, value in given.items()],
        "output_map": [{"key": key, "value": value} for key, value in made.items()],
    }
