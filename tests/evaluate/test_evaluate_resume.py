import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from command_line import DIGITS, IMAGES, Command, no_space
from safetensors.torch import load_file

from swin_deploy.candidates import Made
from swin_deploy.checkpoints.load import LoadedModel, load_model
from swin_deploy.evaluate.predictions import Predictions
from swin_deploy.evaluate.run import Settings, evaluate
from swin_deploy.images.labelled import LabelledImages, read_images

KEY = {"images": "1", "model": "2"}
MODEL = ("evaluate", "--model", "notebook-digits")


@pytest.fixture(scope="module")
def digits() -> LoadedModel:
    return load_model("notebook-digits")


@pytest.fixture(scope="module")
def few() -> LabelledImages:
    return read_images(IMAGES, num_classes=10, limit=20)


def rows(folder: Path) -> dict[str, list[dict[str, object]]]:
    """The whole lines below the header of each file of predictions."""
    found = {}
    for path in folder.glob("*.jsonl"):
        lines = path.read_text().splitlines()[1:]
        found[path.stem.rpartition("-")[0]] = [json.loads(line) for line in lines]
    return found


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_interrupted_evaluation_goes_on_where_it_was(
    stop_after: int, digits: LoadedModel, few: LabelledImages, tmp_path: Path
) -> None:
    def stop(_: str, __: float | None = None, /) -> None:
        nonlocal stop_after
        stop_after -= 1
        if stop_after == 0:
            raise KeyboardInterrupt

    at_once = evaluate(digits, Made(), few, settings=Settings(tmp_path / "once", batch=4))
    told: list[str] = []
    settings = Settings(tmp_path / "parts", batch=4)
    done = 4 * stop_after
    with pytest.raises(KeyboardInterrupt):
        evaluate(digits, Made(), few, settings=settings, progress=stop)
    assert {len(found) for found in rows(settings.folder).values()} == {done}
    rest = evaluate(digits, Made(), few, settings=settings, notice=told.append)
    assert told[0] == f"PyTorch reference: takes over {done} of 20 images"
    assert rest.reference == at_once.reference
    assert rest.candidates == at_once.candidates
    assert rows(settings.folder) == rows(tmp_path / "once")  # each image once, in order


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_command_that_is_ended_goes_on(number: signal.Signals, swin: Command) -> None:
    command = [sys.executable, "-m", "swin_deploy", *MODEL, "--batch", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    folder = Path("evaluation/notebook-digits")
    while process.poll() is None and sum(map(len, safe_rows(folder))) < 6:
        time.sleep(0.02)
    process.send_signal(number)
    err = process.communicate()[1]
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number
        assert "the same command goes on from there" in err
        assert "; nothing half-written is left" in err
        assert "Traceback" not in err
    kept = max(map(len, safe_rows(folder)))
    assert 3 <= kept < 360
    assert not (folder / "evaluation.json").exists()
    outcome = swin(*MODEL, "--json").assert_done()
    assert f"PyTorch reference: takes over {kept} of 360 images" in outcome.err
    assert outcome.json["reference"]["top1"]["right"] == 350
    assert {len(found) for found in rows(folder).values()} == {360}


def safe_rows(folder: Path) -> list[list[bytes]]:
    """Whole lines of each file, while another process writes them."""
    return [path.read_bytes().split(b"\n")[1:-1] for path in folder.glob("*.jsonl")]


def make_file(folder: Path, count: int = 3) -> tuple[Path, bytes]:
    with Predictions(folder, "a model.onnx", KEY) as kept:
        kept.add({f"{index}.png": (index, 9, 8) for index in range(count)})
    return kept.path, kept.path.read_bytes()


def test_predictions_are_kept(tmp_path: Path) -> None:
    path, _ = make_file(tmp_path)
    assert path.name.startswith("a-model.onnx-")
    with Predictions(tmp_path, "a model.onnx", KEY) as kept:
        assert kept.answers == {"0.png": (0, 9, 8), "1.png": (1, 9, 8), "2.png": (2, 9, 8)}
        assert kept.changed == ()
        kept.add({"b\udcff.png": ()})  # a name that is no UTF-8, an output that is no number
    with Predictions(tmp_path, "a model.onnx", KEY) as kept:
        assert kept.answers["b\udcff.png"] == ()


@pytest.mark.parametrize("where", ["header", "first-row", "last-row", "before-newline", "empty"])
def test_torn_last_line_is_ignored(where: str, tmp_path: Path) -> None:
    path, whole = make_file(tmp_path)
    ends = [index + 1 for index, byte in enumerate(whole) if byte == ord("\n")]
    cut, left = {
        "header": (ends[0] - 5, 0),
        "first-row": (ends[0] + 7, 0),
        "last-row": (ends[3] - 4, 2),
        "before-newline": (ends[3] - 1, 2),
        "empty": (0, 0),
    }[where]
    path.write_bytes(whole[:cut])
    with Predictions(tmp_path, "a model.onnx", KEY) as kept:
        assert len(kept.answers) == left
        kept.add({f"{index}.png": (index, 9, 8) for index in range(left, 3)})
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "line",
    [
        b"\0\0\0",
        b"[]",
        b'{"image": "1.png"}',
        b'{"image": 1, "top": [1]}',
        b'{"image": "1.png", "top": [1.5]}',
        b'{"image": "1.png", "top": [1, 2, 3, 4, 5, 6]}',
        b"[" * 100_000,
    ],
)
def test_damaged_line_is_made_again(line: bytes, tmp_path: Path) -> None:
    path, whole = make_file(tmp_path)
    lines = whole.split(b"\n")
    lines[2] = line
    path.write_bytes(b"\n".join(lines))
    with Predictions(tmp_path, "a model.onnx", KEY) as kept:
        assert sorted(kept.answers) == ["0.png", "2.png"]


def test_another_key_has_its_own_file_and_is_said(tmp_path: Path) -> None:
    path, whole = make_file(tmp_path)
    with Predictions(tmp_path, "a model.onnx", KEY | {"images": "other"}) as kept:
        assert kept.answers == {}
        assert kept.changed == ("images",)
    with Predictions(tmp_path, "another.onnx", KEY) as kept:
        assert kept.changed == ()
    assert path.read_bytes() == whole  # nothing is lost by going back and forth


def test_changed_image_weights_and_file_are_said(swin: Command, full: Path) -> None:
    pytest.importorskip("onnxruntime")
    shutil.copytree(IMAGES / "0", "data/0")
    shutil.copy(full, "a.onnx")
    command = (*MODEL, "--data", "data", "--limit", "5", "--batch", "5")
    assert "changed" not in swin(*command, "--onnx", "a.onnx").assert_done().err
    with Path("a.onnx").open("ab") as stream:
        stream.write(b"\x72\x00")  # an empty metadata entry: another file, the same model
    outcome = swin(*command, "--onnx", "a.onnx").assert_done()
    assert "ONNX fp32: starts anew, changed since the last run: file" in outcome.err
    assert "PyTorch reference: takes over 5 of 5" in outcome.err
    for image in Path("data/0").iterdir():
        os.utime(image, (1, 1))
    outcome = swin(*command).assert_done()
    assert "deploy model: starts anew, changed since the last run: images" in outcome.err
    state = load_file(DIGITS)
    torch.save({**state, "head.bias": state["head.bias"] + 0.1}, "other.pt")
    outcome = swin(*command, "--checkpoint", "other.pt").assert_done()
    assert "deploy model: starts anew, changed since the last run: model" in outcome.err


def test_full_disk_is_status_3_and_goes_on_later(
    swin: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (*MODEL, "--limit", "12", "--batch", "4")
    with monkeypatch.context() as patch:
        patch.setattr(Predictions, "_write", lambda _, __: no_space(0))
        swin(*command).assert_error("No space left on device; choose another --output")
    swin(*command).assert_done()
