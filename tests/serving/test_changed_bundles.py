"""Bundles that are there: replaced whole or left as they were, and refused once changed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from command_line import Command, listing

from swin_deploy.serving.bundle import read_bundle, signed
from swin_deploy.serving.golden import to_npz


def test_bundle_is_replaced_whole_and_a_changed_one_only_by_force(
    full: Path, swin: Command, tmp_path: Path
) -> None:
    swin("bundle", full, "--for", "kserve").assert_done()
    swin("bundle", full, "--for", "triton").assert_done()
    assert not (tmp_path / "bundle" / "inferenceservice.yaml").exists()
    note = tmp_path / "bundle" / "models" / "note.txt"
    note.write_text("mine")
    before = listing(tmp_path)
    swin("bundle", full, "--for", "ovms").assert_error("that was changed since it was made")
    assert listing(tmp_path) == before
    swin("bundle", full, "--for", "ovms", "--force").assert_done()
    assert not note.exists()
    assert [one.name for one in tmp_path.iterdir()] == ["bundle"]


def test_failure_while_writing_leaves_what_was_there(
    full: Path, swin: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swin("bundle", full, "--for", "triton").assert_done()
    before = listing(tmp_path)

    def fail(_: Path, __: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", fail)
    swin("bundle", full, "--for", "triton").assert_error("No space left on device")
    assert listing(tmp_path) == before


@pytest.mark.parametrize("name", ["1.png", "outputs.npz"])
def test_changed_golden_file_is_refused(
    name: str, full: Path, swin: Command, tmp_path: Path
) -> None:
    swin("bundle", full, "--for", "triton", "-q").assert_done()
    path = tmp_path / "bundle" / "golden" / name
    path.write_bytes(path.read_bytes() + b"x")
    outcome = swin("parity", "--server", "http://127.0.0.1:1")
    outcome.assert_error("was changed since the bundle was made")


@pytest.mark.parametrize(
    "change",
    [
        {"golden": {"pictures": ["../../x"], "reference": "", "atol": 1, "rtol": 1}},
        {"golden": {"pictures": ["no.png"], "reference": "", "atol": 1, "rtol": 1}},
        {"endpoint": 3},
        {"preprocessing": {}},
        {"files": []},
    ],
)
def test_damaged_manifest_is_refused(
    change: dict[str, object], full: Path, swin: Command, tmp_path: Path
) -> None:
    swin("bundle", full, "--for", "triton", "-q").assert_done()
    path = tmp_path / "bundle" / "bundle.json"
    path.write_text(json.dumps(signed(json.loads(path.read_text()) | change)))
    swin("parity", "--server", "http://127.0.0.1:1").assert_error("bundle")


@pytest.mark.parametrize(
    "change",
    [
        {"golden": None},
        {"target": "optimum"},
        {"sha256": ""},
        {"golden": {"pictures": ["1.png"], "reference": "", "atol": 1e9, "rtol": 1e9,
                    "min_cosine": None}},
    ],
    ids=["no pictures", "no server", "no digest", "wide limits"],
)  # fmt: skip
def test_manifest_that_was_edited_is_refused(
    change: dict[str, object], full: Path, swin: Command, tmp_path: Path
) -> None:
    swin("bundle", full, "--for", "triton", "-q").assert_done()
    path = tmp_path / "bundle" / "bundle.json"
    values = json.loads(path.read_text()) | change
    path.write_text(json.dumps(values))
    for command in (
        ("parity", "--server", "http://127.0.0.1:1"),
        ("bundle", "bundle", "--check", "http://127.0.0.1:1"),
    ):
        swin(*command).assert_error("bundle.json was changed since the bundle was made")
    swin("bundle", full, "--for", "triton").assert_error("changed since it was made")
    path.write_text(json.dumps(signed({k: v for k, v in values.items() if k != "sha256"})))
    if "sha256" in change:  # in another order, with other spaces: the same manifest
        assert read_bundle(tmp_path / "bundle").service.golden is not None


@pytest.mark.parametrize(
    ("pictures", "outputs"),
    [([], {}), ([], {"logits": np.zeros((0, 10), np.float32)}), (["1.png"], {}),
     (["1.png"], {"logits": np.zeros((2, 10), np.float32)})],
    ids=["nothing", "no pictures", "no outputs", "another number"],
)  # fmt: skip
def test_bundle_without_anything_to_compare_is_refused(
    pictures: list[str],
    outputs: dict[str, np.ndarray],
    full: Path,
    swin: Command,
    tmp_path: Path,
) -> None:
    swin("bundle", full, "--for", "triton", "-q").assert_done()
    data = to_npz(outputs)
    (tmp_path / "bundle" / "golden" / "outputs.npz").write_bytes(data)
    path = tmp_path / "bundle" / "bundle.json"
    values = json.loads(path.read_text())
    values["golden"]["pictures"] = pictures
    values["files"]["golden/outputs.npz"] = hashlib.sha256(data).hexdigest()
    path.write_text(json.dumps(signed(values)))
    outcome = swin("parity", "--server", "http://127.0.0.1:1")
    outcome.assert_error("has no output of each golden picture to compare with")


@pytest.mark.parametrize("output", [".", "..", "../inner", "link"])
def test_working_folder_is_not_replaced(
    output: str, full: Path, swin: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "outer" / "inner")
    if output == "link":
        (tmp_path / "link").symlink_to(Path.cwd())
        output = str(tmp_path / "link")
    outcome = swin("bundle", full, "--for", "triton", "--output", output)
    outcome.assert_error("is the working folder or holds it")
    assert list((tmp_path / "outer").rglob("*")) == [Path.cwd()]
