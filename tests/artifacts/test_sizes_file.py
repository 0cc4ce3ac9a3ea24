"""Several sizes of one model: ONNX files that share their weights, engines, and the manifest."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import detector_libraries
import numpy as np
import onnx
import onnxruntime
import pytest
import several_sizes
import torch
from command_line import Command, listing, no_space
from conftest import rms_error, seeded_images
from several_sizes import MANIFEST, SIDES, STEM

import swin_deploy
from exporters.artifact import manifest_path, read_manifest
from exporters.errors import ConfigError, ExportError, FileError
from exporters.shared_weights import SharedWeights
from exporters.to_onnx import load_onnx
from swin_deploy.artifacts.sizes_file import read_sizes
from swin_deploy.config.sizes import Size, size_for
from swin_deploy.runners.engine_manifest import read_engine_manifest


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of both sizes in float32."""
    return several_sizes.export_digits(tmp_path_factory.mktemp("sizes"))


@pytest.fixture
def own(exported: Path, tmp_path: Path) -> Path:
    return several_sizes.copied(exported, tmp_path / "own")


def outputs(path: Path, images: torch.Tensor) -> list[torch.Tensor]:
    """What ONNX Runtime gives for a file, opened from its path."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: images.numpy()}
    return [torch.from_numpy(one.astype(np.float32)) for one in session.run(None, feed)]


@pytest.mark.parametrize("side", SIDES)
def test_export_of_several_sizes_gives_what_each_model_gives(exported: Path, side: int) -> None:
    model = swin_deploy.load("notebook-digits", img_size=side)
    path = exported.parent / f"{STEM}-{side}.onnx"
    onnx.checker.check_model(str(path), full_check=True)
    images = seeded_images(model.config)
    with torch.no_grad():
        wanted = model.reference(images)
    assert rms_error(outputs(path, images)[0], wanted) < 1e-5


def test_export_of_several_sizes_stores_equal_weights_once(exported: Path, tmp_path: Path) -> None:
    sizes = read_sizes(exported)
    assert [one.size for one in sizes.sizes] == [Size(112, 112), Size(56, 56)]
    singles = 0
    for side in SIDES:
        model = swin_deploy.load("notebook-digits", img_size=side)
        singles += model.export(tmp_path / f"{side}.onnx").path.stat().st_size
    together = sum(path.stat().st_size for path in exported.parent.glob(f"{STEM}*[xs]"))
    shared = (exported.parent / f"{STEM}.weights").stat().st_size
    assert sizes.saved_bytes > 0.6 * shared
    assert abs(singles - together - sizes.saved_bytes) < 0.05 * shared


def test_load_of_a_file_with_shared_weights_gives_the_weights_of_a_single_file(
    exported: Path, tmp_path: Path
) -> None:
    single = swin_deploy.load("notebook-digits").export(tmp_path / "single.onnx").path
    ours = load_onnx(exported.parent / f"{STEM}-56.onnx")
    theirs = load_onnx(single)
    for one, other in zip(ours.graph.initializer, theirs.graph.initializer, strict=True):
        assert (one.name, one.raw_data) == (other.name, other.raw_data)
    assert not any(entry.key == "weights_sha256" for entry in ours.metadata_props)


def test_take_out_keeps_weights_that_differ_apart() -> None:
    one = np.arange(2048, dtype=np.float32)
    graphs = [graph_with(one), graph_with(one), graph_with(one + 1), graph_with(one[:100])]
    shared = SharedWeights("x.weights")
    for graph in graphs:
        shared.take_out(graph)
    places = [
        {entry.key: entry.value for entry in graph.graph.initializer[0].external_data}
        for graph in graphs
    ]
    assert places[0] == places[1] == {"location": "x.weights", "offset": "0", "length": "8192"}
    assert places[2]["offset"] == "8192"
    assert places[3] == {}  # small: it stays in the graph
    assert (shared.size, shared.asked) == (2 * 8192, 3 * 8192)
    assert b"".join(shared.pieces()) == one.tobytes() + (one + 1).tobytes()


def graph_with(values: np.ndarray[tuple[int], np.dtype[np.float32]]) -> onnx.ModelProto:
    body = onnx.GraphProto(initializer=[onnx.numpy_helper.from_array(values, "w")])
    return onnx.ModelProto(graph=body)


def test_a_moved_folder_keeps_working(own: Path, swin: Command, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.move(own.parent, moved)
    texts = [path.read_bytes() for path in moved.iterdir()]
    assert not any(str(own.parent).encode() in text for text in texts)
    sizes = read_sizes(moved / MANIFEST)
    for one in sizes.sizes:
        assert load_onnx(sizes.onnx(one)).graph.node


def test_load_of_changed_weights_is_refused(own: Path, swin: Command) -> None:
    weights = own.parent / f"{STEM}.weights"
    data = bytearray(weights.read_bytes())
    data[1000] ^= 1
    weights.write_bytes(data)
    before = listing(own.parent)
    for command in (("build-trt", own), ("plan", own.parent / f"{STEM}-56.onnx")):
        swin(*command).assert_error("weights in notebook-digits-fp32-opset17.weights are not those")
    assert listing(own.parent) == before


@pytest.mark.parametrize("name", [f"{STEM}-56.onnx", f"{STEM}.weights"])
def test_build_of_sizes_with_a_missing_file_is_refused(own: Path, swin: Command, name: str) -> None:
    (own.parent / name).unlink()
    before = listing(own.parent)
    swin("build-trt", own).assert_error(name)
    assert listing(own.parent) == before


def test_build_of_sizes_with_a_changed_file_is_refused(own: Path, swin: Command) -> None:
    other = own.parent / f"{STEM}-112.onnx"
    shutil.copy(other, own.parent / f"{STEM}-56.onnx")
    swin("build-trt", own).assert_error(f"{STEM}-56.onnx is not the file that {MANIFEST} describes")


DAMAGE: dict[str, tuple[dict[str, object], str]] = {
    "schema": ({"schema": 2}, "is of schema 2, this version reads 1"),
    "no sizes": ({"sizes": []}, "names no size"),
    "no list": ({"sizes": 3}, "sizes"),
    "path": (
        {"sizes": [{"image_size": 56, "onnx": {"file": "../x.onnx", "sha256": "0" * 64}}]},
        "file",
    ),
    "digest": ({"sizes": [{"image_size": 56, "onnx": {"file": "x", "sha256": "0"}}]}, "sha256"),
    "size": (
        {"sizes": [{"image_size": [0, 5], "onnx": {"file": "x", "sha256": "0" * 64}}]},
        "names a size that no image has",
    ),
    "sides": (
        {"sizes": [{"image_size": [1, 2, 3], "onnx": {"file": "x", "sha256": "0" * 64}}]},
        "image_size",
    ),
    "twice": (
        {"sizes": [{"image_size": 8, "onnx": {"file": "x", "sha256": "0" * 64}}] * 2},
        "names a size or a file twice",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_read_sizes_refuses_a_damaged_manifest(own: Path, swin: Command, case: str) -> None:
    changes, message = DAMAGE[case]
    several_sizes.edit(own, **changes)
    swin("build-trt", own).assert_error(message)


def test_read_sizes_refuses_another_kind_of_file(own: Path) -> None:
    several_sizes.edit(own, kind="report")
    with pytest.raises(FileError, match="no manifest of sizes"):
        read_sizes(own)
    with pytest.raises(FileError, match="does not exist"):
        read_sizes(own.parent / "absent-sizes.json")


def test_export_of_a_size_that_the_source_refuses_writes_nothing(
    swin: Command, tmp_path: Path
) -> None:
    words = ("export", "--model", "notebook-digits", "--image-size", "56", "--image-size", "57")
    swin(*words).assert_error("57")
    checkpoint = tmp_path / "swin.pt"
    torch.save(swin_deploy.load("notebook-digits").reference.state_dict(), checkpoint)
    words = (*words[:1], "--checkpoint", str(checkpoint), *words[3:])
    before = listing(tmp_path)
    swin(*words).assert_error("57")
    assert listing(tmp_path) == before


@pytest.mark.parametrize("twice", ["56", "56x56"])
def test_export_of_a_size_given_twice_is_refused(swin: Command, tmp_path: Path, twice: str) -> None:
    done = swin("export", "--image-size", "56", "--image-size", twice)
    assert done.status == 2
    assert "56 is given twice" in done.err
    assert listing(tmp_path) == {}


def test_export_of_several_sizes_keeps_what_it_did_not_make(own: Path, swin: Command) -> None:
    own.write_text("mine")
    before = listing(own.parent)
    swin(*several_sizes.WORDS, "--output", own).assert_error("was not made by swin-deploy")
    assert listing(own.parent) == before
    done = swin(*several_sizes.WORDS, "--output", own.parent / "x.onnx")
    assert done.status == 2
    assert "end its name in .json" in done.err


def test_export_and_build_of_several_sizes_onto_a_full_disk_change_nothing(
    own: Path, swin: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX builds engines without a GPU")
    monkeypatch.setattr(os, "fsync", no_space)
    before = listing(own.parent)
    swin(*several_sizes.WORDS, "--output", own).assert_error("No space left on device")
    half = ("--fp16", "--flavor", "tensorrt-rtx", "--no-timing-cache")
    swin("build-trt", own, *half).assert_error("No space left on device")
    assert listing(own.parent) == before


def test_export_sizes_refuses_models_of_other_weights(tmp_path: Path) -> None:
    def models() -> Iterator[swin_deploy.Model]:
        yield swin_deploy.load("notebook-digits", img_size=56)
        path = tmp_path / "other.pt"
        torch.save(swin_deploy.load("notebook-digits").reference.state_dict(), path)
        yield swin_deploy.load(path, img_size=112)

    with pytest.raises(ConfigError, match="is of another model"):
        swin_deploy.export_sizes(models(), tmp_path / "x-sizes.json")
    same = [swin_deploy.load("notebook-digits")] * 2
    with pytest.raises(ConfigError, match="image size 56 is given twice"):
        swin_deploy.export_sizes(same, tmp_path / "x-sizes.json")
    with pytest.raises(ConfigError, match="no model"):
        swin_deploy.export_sizes([], tmp_path / "x-sizes.json")
    assert not list(tmp_path.glob("x*"))


def test_build_of_several_sizes_records_the_engines(own: Path, swin: Command) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX builds engines without a GPU")
    done = swin("build-trt", own, "--flavor", "tensorrt-rtx", "--json").assert_done()
    assert done.json["path"] == str(own)
    sizes = read_sizes(own)
    assert sizes.has_engines
    for one in sizes.sizes:
        engine = sizes.engine(one)
        manifest = read_manifest(engine)
        assert manifest["config"]["img_size"] == one.image_size
        assert manifest["source"] == {"file": one.onnx.file, "sha256": one.onnx.sha256}
    engine.write_bytes(b"other")
    with pytest.raises(FileError, match="build it again"):
        sizes.engine(one)
    shutil.copy(sizes.engine(sizes.sizes[0]), engine)
    shutil.copy(manifest_path(sizes.engine(sizes.sizes[0])), manifest_path(engine))
    with pytest.raises(FileError, match="is not the file that"):
        sizes.engine(one)


def test_build_of_several_sizes_in_half_precision_shares_weights_again(
    own: Path, swin: Command
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX builds engines without a GPU")
    swin("build-trt", own, "--fp16", "--flavor", "tensorrt-rtx").assert_done()
    half = own.with_name(MANIFEST.replace("fp32", "fp16"))
    sizes = read_sizes(half)
    assert sizes.precision == "fp16"
    assert not read_sizes(own).has_engines
    full = (own.parent / f"{STEM}.weights").stat().st_size
    assert abs(2 * (own.parent / sizes.weights.file).stat().st_size - full) < 0.02 * full
    for one in sizes.sizes:
        assert read_engine_manifest(sizes.engine(one)).plan.fused_attention == 4
        images = seeded_images(swin_deploy.load("notebook-digits", img_size=one.image_size).config)
        wanted = outputs(own.parent / f"{STEM}-{one.size}.onnx", images)[0]
        assert 0 < rms_error(outputs(sizes.onnx(one), images)[0], wanted) < 2e-2
    swin("build-trt", half, "--fp32").assert_error("what it lost cannot come back")


def test_build_trt_without_a_file_takes_all_sizes_of_the_newest_export(
    own: Path, swin: Command, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX builds engines without a GPU")
    shutil.copytree(own.parent, tmp_path / "engines")
    done = swin("build-trt", "--flavor", "tensorrt-rtx").assert_done()
    assert f"taking the newest export, engines/{MANIFEST}" in done.err
    assert read_sizes(Path("engines", MANIFEST)).has_engines
    done = swin("build-trt", Path("engines", MANIFEST), "--output", "x.engine")
    assert done.status == 2
    assert "leave out --output" in done.err


def test_other_commands_refuse_a_manifest_of_sizes_by_name(own: Path, swin: Command) -> None:
    swin("evaluate", "--onnx", own, "--data", own.parent).assert_error(f"{STEM}-112.onnx, ")
    swin("evaluate", "--engine", own, "--data", own.parent).assert_error("build-trt")
    with pytest.raises(ExportError, match="not a whole ONNX file"):
        load_onnx(own)


def seeded(side: int) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side))


@torch.no_grad()
def test_birefnets_two_sizes_share_their_weights(swin: Command, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX builds engines without a GPU")
    original = detector_libraries.build_transparent_background(
        window_size=12, embed_dim=96, num_heads=(3, 6, 12)
    )
    state = {f"bb.{name}": value for name, value in original.state_dict().items()}
    torch.save(state, tmp_path / "birefnet.pt")
    words = ("--checkpoint", "birefnet.pt", "--window-size", "12", "--outputs", "stages")
    sides = ("--image-size", "128", "--image-size", "64")
    swin("export", *words, *sides, "--output", "b-fp32-sizes.json").assert_done()
    swin("export", *words, "--image-size", "128", "--output", "single.onnx").assert_done()
    for side in (128, 64):
        images = seeded(side)
        wanted = detector_libraries.maps(original, images)
        exact = detector_libraries.maps(copy.deepcopy(original).double(), images.double())
        rounding = max(map(rms_error, wanted, exact))  # the library's own, in float32
        found = outputs(tmp_path / f"b-fp32-{side}.onnx", images)
        assert max(map(rms_error, found, exact)) < 3 * rounding < 1e-4
    whole = outputs(Path("single.onnx"), seeded(128))
    assert all(map(torch.equal, outputs(Path("b-fp32-128.onnx"), seeded(128)), whole))
    shared = Path("b-fp32.weights").stat().st_size
    assert shared < 1.1 * Path("single.onnx").stat().st_size
    swin("build-trt", "b-fp32-sizes.json", "--fp16", "--flavor", "tensorrt-rtx").assert_done()
    assert read_sizes(Path("b-fp16-sizes.json")).has_engines


@pytest.mark.parametrize(
    ("picture", "wanted"),
    [
        ((100, 100), (512, 512)),  # the smaller holds it
        ((513, 513), (1024, 1024)),
        ((3000, 3000), (1024, 1024)),  # none holds it: the largest
        ((600, 1000), (800, 1344)),  # by its ratio
        ((1080, 1920), (800, 1344)),
        ((1000, 600), (1344, 800)),
        ((1, 5000), (800, 1344)),
    ],
)
def test_size_for_takes_the_nearest_ratio_then_the_smallest_that_holds_a_picture(
    picture: tuple[int, int], wanted: tuple[int, int]
) -> None:
    sizes = [Size(1024, 1024), Size(512, 512), Size(800, 1344), Size(1344, 800)]
    assert size_for(Size(*picture), sizes) == wanted
