"""``swin-deploy bundle``: what is written, what is refused, and what is left as it was."""

from __future__ import annotations

import ast
import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundles import write_engine_of
from command_line import Command, listing
from photographs import write_photographs

from exporters.backends import current_gpu
from exporters.errors import ConfigError
from exporters.spec import BatchProfile, Precision
from swin_deploy.images.preprocessing import Preprocessing
from swin_deploy.predict.predictor import Predictor
from swin_deploy.serving.bundle import Target, read_bundle
from swin_deploy.serving.containers import RELEASES
from swin_deploy.serving.golden import from_npz, made_pictures
from swin_deploy.serving.make import NAME, Wish, require_target
from swin_deploy.serving.pbtxt import Word, to_pbtxt
from swin_deploy.serving.served import read_served
from swin_deploy.serving.triton import triton_files

TARGETS = ("triton", "kserve", "ovms", "optimum")


@pytest.mark.parametrize("target", TARGETS)
def test_bundle_is_whole_and_holds_no_place_of_this_machine(
    target: str, full: Path, swin: Command, tmp_path: Path
) -> None:
    outcome = swin("bundle", full, "--for", target, "--output", "served", "--json").assert_done()
    files = {
        one.relative_to(tmp_path / "served").as_posix(): one.read_bytes()
        for one in (tmp_path / "served").rglob("*")
        if one.is_file()
    }
    assert set(files) == {*outcome.json["files"], "bundle.json"}
    for name, data in files.items():
        for place in (str(tmp_path), str(full.parent), sys.prefix, str(Path.home())):
            assert place.encode() not in data, (name, place)
        assert not name.endswith((".pkl", ".pickle", ".pt", ".pth"))
        assert b"import pickle" not in data
        if name.endswith(".py"):
            ast.parse(data, feature_version=(3, 10))
            assert b"import swin_deploy" not in data
            assert b"from swin_deploy" not in data
        if name.endswith(".npz"):
            assert set(from_npz(data)) == {"logits"}
    served = read_bundle(tmp_path / "served").service
    assert (served.golden is None) == (target == "optimum")
    if target in ("triton", "kserve"):
        assert b"127.0.0.1" in files["client.py"]
        labels = files["models/notebook-digits-scores/labels.txt"]
        assert labels.split() == [str(digit).encode() for digit in range(10)]


def test_client_has_thirty_lines(full: Path, swin: Command, tmp_path: Path) -> None:
    swin("bundle", full, "--for", "triton", "--output", "served").assert_done()
    assert len((tmp_path / "served" / "client.py").read_text().splitlines()) <= 32


def test_configuration_of_an_engine_has_its_profile(
    full: Path, swin: Command, tmp_path: Path
) -> None:
    shutil.copy(full, "m.onnx")
    shutil.copy(f"{full}.json", "m.onnx.json")
    engine = write_engine_of(tmp_path / "m.onnx", tmp_path / "m.engine")
    served = read_served(engine)
    assert served.batches == BatchProfile(1, 4, 16)
    config = triton_files(served, "m")["models/m-model/config.pbtxt"]
    assert isinstance(config, bytes)
    for line in ('platform: "tensorrt_plan"', "max_batch_size: 16", "preferred_batch_size: 4",
                 "preferred_batch_size: 16"):  # fmt: skip
        assert line in config.decode()
    outcome = swin("bundle", engine, "--for", "triton", "--output", "served").assert_done()
    assert "tritonserver:26.04-py3" in outcome.err
    assert "of the engine's profile" in outcome.err
    docker = (tmp_path / "served" / "Dockerfile").read_text()
    assert "FROM nvcr.io/nvidia/tritonserver:26.04-py3" in docker
    assert "10[.]16[.]1" in docker  # the container is asked for its version
    assert (tmp_path / "served/models/notebook-digits-model/1/model.plan").is_file()


@pytest.mark.parametrize(
    ("version", "compatible", "image"),
    [
        ("10.13.3.9", False, "tritonserver:25.10-py3"),
        ("10.14.1.48", True, "tritonserver:25.11-py3"),
        ("10.13.0.35", True, "tritonserver:25.10-py3"),
        ("10.15.1.29", False, ""),
        ("10.15.1.29", True, "tritonserver:26.03-py3"),
        ("11.4.0.106", False, ""),
        ("11.4.0.106", True, ""),
    ],
)
def test_container_fits_the_version_of_the_engine(
    version: str, compatible: bool, image: str, full: Path, swin: Command, tmp_path: Path
) -> None:
    shutil.copy(full, "m.onnx")
    shutil.copy(f"{full}.json", "m.onnx.json")
    targets = {"built_on": "", "capabilities": ["9.0"], "minimum": "",
               "version_compatible": compatible}  # fmt: skip
    changes = {"version": version, "targets": targets}
    engine = write_engine_of(tmp_path / "m.onnx", tmp_path / "m.engine", **changes)
    outcome = swin("bundle", engine, "--for", "triton").assert_done()
    docker = (tmp_path / "bundle" / "Dockerfile").read_text()
    if image:
        assert image in docker
        assert "no container" not in outcome.err
    else:
        assert f"no container with TensorRT {version} is known here" in outcome.err
        assert "tritonserver:" not in docker
    assert ("version-compatible=true" in docker) is compatible


@pytest.mark.parametrize(
    ("there", "fits"),
    [
        ("10.16.1.11-1+cuda13.2", True),
        ("10.16.0.72-1+cuda13.2", False),
        ("10.16.11.1-1+cuda13.2", False),
        ("110.16.1.11-1+cuda13.2", False),
        ("", False),
    ],
)
def test_dockerfile_compares_the_containers_version(
    there: str, fits: bool, full: Path, swin: Command, tmp_path: Path
) -> None:
    """The very line of the Dockerfile, with what the container's package manager would say."""
    shutil.copy(full, "m.onnx")
    shutil.copy(f"{full}.json", "m.onnx.json")
    engine = write_engine_of(tmp_path / "m.onnx", tmp_path / "m.engine")
    swin("bundle", engine, "--for", "triton").assert_done()
    text = (tmp_path / "bundle" / "Dockerfile").read_text().replace("\\\n", " ")
    (line,) = [one for one in text.splitlines() if one.startswith("RUN dpkg-query")]
    script = f"dpkg-query() {{ echo '{there}'; }}\n{line.removeprefix('RUN ')}"
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (run.returncode == 0) is fits
    assert ("the engine needs 10.16.1" in run.stdout) is not fits


def test_releases_are_in_order() -> None:
    versions = [tuple(map(int, one.split("."))) for one in RELEASES.values()]
    assert versions == sorted(set(versions))
    assert list(RELEASES) == sorted(RELEASES)


def test_rtx_engine_is_refused_with_the_way_out(engine: Path, swin: Command) -> None:
    outcome = swin("bundle", engine, "--for", "triton")
    outcome.assert_error("is an engine of TensorRT-RTX, which Triton's TensorRT backend does not")
    assert "give the ONNX file, or build" in outcome.err
    assert not Path("bundle").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("notebook-digits", "--for", "triton"), "is neither an ONNX file nor an engine"),
        (("m.engine", "--for", "ovms"), "is an engine, and ovms loads an ONNX file"),
        (("m.onnx", "--for", "ovms", "--preprocessing", "dali"), "dali is Triton's; leave it out"),
        (("m.onnx", "--for", "triton", "--name", "a/../b"), "is no name of a model"),
        (("m.onnx", "--for", "triton", "--name", ""), "is no name of a model"),
        (("m.onnx", "--for", "triton", "--output", "."), "holds the file to read"),
        (("m.onnx", "--for", "triton", "--output", "mine"), "is no bundle of swin-deploy"),
        (("m.onnx", "--for", "triton", "--output", "mine/file"), "is a file; name a folder"),
        (("other.onnx", "--for", "triton"), "was not exported by swin-deploy"),
        (("fixed.onnx", "--for", "triton"), "takes 4 images or more a call"),
        (("one.onnx", "--for", "triton"), "takes exactly 1 image a call"),
        (("m.onnx", "--for", "ovms", "--reference", "w.safetensors"), "is not the model in m.onnx"),
        (("m.onnx", "--for", "optimum", "--reference", "m.onnx"), "has no golden pictures"),
        (("absent.onnx", "--for", "triton"), "absent.onnx does not exist"),
        (("mine", "--check", "http://127.0.0.1:1"), "is no bundle of swin-deploy"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused_in_one_line(
    arguments: tuple[str, ...], message: str, full: Path, swin: Command, tmp_path: Path
) -> None:
    shutil.copy(full, "m.onnx")
    shutil.copy(f"{full}.json", "m.onnx.json")
    write_engine_of(tmp_path / "m.onnx", tmp_path / "m.engine")
    graph = onnx.load("m.onnx")
    del graph.metadata_props[:]
    onnx.save(graph, "other.onnx")
    Path("mine").mkdir()
    Path("mine/file").write_text("mine")
    if "fixed.onnx" in arguments:
        swin("export", "--model", "notebook-digits", "--batch", "4", "--output", "fixed.onnx", "-q")
    if "one.onnx" in arguments:
        swin("export", "--model", "notebook-digits", "--batch", "1", "--output", "one.onnx", "-q")
    if "w.safetensors" in arguments:
        _changed_weights(Path("w.safetensors"))
    before = listing(tmp_path)
    swin("bundle", *arguments).assert_error(message)
    assert listing(tmp_path) == before


def _changed_weights(path: Path) -> None:
    from command_line import DIGITS
    from safetensors.torch import load_file, save_file

    save_file({k: v + 0.01 for k, v in load_file(DIGITS).items()}, path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("m.onnx",), "give --for triton, kserve, ovms, optimum, or --check URL"),
        (("m.onnx", "--check", "u", "--for", "triton"), "and --for makes one"),
        (("m.onnx", "--for", "triton", "--seconds", "3"), "--seconds is of --check"),
    ],
)
def test_wrong_usage_is_told(arguments: tuple[str, ...], message: str, swin: Command) -> None:
    outcome = swin("bundle", *arguments)
    assert (outcome.status, message in outcome.err) == (2, True), outcome.err


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://127.0.0.1/", "is no address of a server"),
        ("file:///etc/passwd", "is no address of a server"),
        ("127.0.0.1:8000", "is no address of a server"),
        ("http://127.0.0.1:99999", "is no address of a server"),
        ("http://127.0.0.1:1/a b", "is no address of a server"),
        ("http://me:secret@127.0.0.1:1", "without a user"),
        ("http://127.0.0.1:1/?", "is no address of a server"),
        ("http://127.0.0.1:1#", "is no address of a server"),
        ("http://127.0.0.1:1", "no server answers at http://127.0.0.1:1"),
    ],
)
def test_server_that_is_none_is_told(url: str, message: str, full: Path, swin: Command) -> None:
    swin("bundle", full, "--for", "triton", "-q").assert_done()
    swin("bundle", "bundle", "--check", url).assert_error(message)
    swin("parity", "--server", url).assert_error(message)


def test_parity_with_a_server_takes_no_other_option(full: Path, swin: Command) -> None:
    swin("bundle", full, "--for", "triton", "-q").assert_done()
    outcome = swin("parity", "--server", "http://127.0.0.1:1", "--model", "notebook-digits")
    assert (outcome.status, "leave out --model" in outcome.err) == (2, True)
    outcome = swin("parity", "--bundle", "bundle")
    assert (outcome.status, "--bundle is of --server URL" in outcome.err) == (2, True)


@pytest.mark.parametrize(
    ("model", "name"),
    [("_Mein Modell (größe)", "Mein-Modell-gr-e"), ("..", "swin"), ("模型", "swin"),
     ("a/b_c.d", "b_c.d"), ("-x-", "x")],
)  # fmt: skip
def test_name_by_default_is_one_that_a_server_takes(model: str, name: str, full: Path) -> None:
    served = read_served(full)
    facts = dataclasses.replace(served.facts, model=model)
    found = dataclasses.replace(served, facts=facts).name
    assert found == name
    assert NAME.fullmatch(found)


@pytest.mark.parametrize(
    ("precision", "target", "message"),
    [
        ("fp8", "triton", "which ONNX Runtime does not load by itself"),
        ("fp8-weights", "kserve", "which ONNX Runtime does not load by itself"),
        ("fp8", "optimum", "which ONNX Runtime does not load by itself"),
        ("bf16", "optimum", "which ONNX Runtime does not load on a CPU"),
    ],
)
def test_file_that_the_servers_runtime_does_not_load_is_refused(
    precision: Precision, target: Target, message: str, full: Path
) -> None:
    served = dataclasses.replace(read_served(full), precision=precision)
    with pytest.raises(ConfigError, match=message):
        require_target(served, Wish(target, "m"))
    require_target(served, Wish("ovms", "m"))


def test_bfloat16_needs_a_reference_and_the_server_a_gpu(
    swin: Command, full: Path, tmp_path: Path
) -> None:
    export = ("export", "--model", "notebook-digits", "--precision", "bf16", "-q")
    swin(*export, "--output", "half.onnx").assert_done()
    if current_gpu() is None:
        outcome = swin("bundle", "half.onnx", "--for", "triton")
        outcome.assert_error("give --reference, the checkpoint or its fp32 ONNX file")
    outcome = swin("bundle", "half.onnx", "--for", "kserve", "--reference", full).assert_done()
    assert "ONNX Runtime runs bf16 on a GPU alone" in outcome.err
    assert 'nvidia.com/gpu: "1"' in (tmp_path / "bundle" / "inferenceservice.yaml").read_text()
    text = (tmp_path / "bundle" / "README.md").read_text()
    assert "It needs a GPU" in text
    assert "Leave out `--gpus all`" not in text


def test_reference_that_gives_nan_is_refused(full: Path, swin: Command, tmp_path: Path) -> None:
    graph = onnx.load(full)
    last = next(one for one in graph.graph.initializer if list(one.dims) == [10])
    values = np.full(10, np.nan, np.float32)
    last.CopyFrom(onnx.numpy_helper.from_array(values, last.name))
    onnx.save(graph, "nan.onnx")
    swin("bundle", "nan.onnx", "--for", "triton").assert_error("the model gives no number for it")
    assert not (tmp_path / "bundle").exists()


def test_golden_limits_have_the_precisions_cosine(full: Path, swin: Command) -> None:
    swin(
        "export", "--model", "notebook-digits", "--precision", "fp16", "--output", "half.onnx", "-q"
    )
    for path, cosine in ((full, None), (Path("half.onnx"), 0.9995)):
        swin("bundle", path, "--for", "triton", "-q").assert_done()
        golden = read_bundle(Path("bundle")).service.golden
        assert golden is not None
        assert golden.tolerance.min_cosine == cosine


def test_golden_outputs_are_those_of_the_reference_and_the_users_pictures_are_taken(
    full: Path, swin: Command, tmp_path: Path
) -> None:
    photographs = write_photographs(tmp_path / "p")
    swin("bundle", full, "--for", "triton", "--images", "p", "--reference", "notebook-digits",
         ).assert_done()  # fmt: skip
    golden = read_bundle(tmp_path / "bundle").service.golden
    assert golden is not None
    assert list(golden.pictures.values()) == [one.read_bytes() for one in photographs]
    with Predictor("notebook-digits") as predictor:
        wanted = [one.outputs["logits"] for one in predictor(photographs)]
    np.testing.assert_array_equal(golden.outputs["logits"], np.stack(wanted))
    assert golden.reference.startswith("notebook-digits in PyTorch")
    (line,) = [one for one in (tmp_path / "bundle" / "README.md").read_text().splitlines()
               if one.startswith("python client.py ")]  # fmt: skip
    assert (tmp_path / "bundle" / line.split()[-1]).is_file()


@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_made_pictures_are_of_the_models_channels(channels: int) -> None:
    from swin_deploy.images.decode import load_pixels

    steps = Preprocessing(crop=32, resize=40, mean=(0.5,) * channels, std=(0.5,) * channels)
    for data in made_pictures(channels).values():
        assert load_pixels(data, steps).shape == (32, 32, channels)
    assert made_pictures(channels) == made_pictures(channels)


def test_dali_pipeline_has_the_steps_and_no_text_of_a_file(
    full: Path, swin: Command, tmp_path: Path
) -> None:
    outcome = swin("bundle", full, "--for", "triton", "--preprocessing", "dali").assert_done()
    assert "DALI's pipeline was not run in Triton" in outcome.err
    source = (tmp_path / "bundle/models/notebook-digits-preprocess/1/dali.py").read_text()
    ast.parse(source)
    for part in ("* 56.0 / shorter", "crop=(56, 56)", "INTERP_CUBIC", "[127.5, 127.5, 127.5]"):
        assert part in source
    served = read_served(full)
    steps = dataclasses.replace(served.facts.preprocessing, origin='"""\nimport os\n"""')
    facts = dataclasses.replace(served.facts, preprocessing=steps)
    files = triton_files(dataclasses.replace(served, facts=facts), "m", decoder="dali")
    assert "import os" not in str(files["models/m-preprocess/1/dali.py"])


def test_dali_refuses_steps_that_it_lacks(swin: Command) -> None:
    swin("export", "--model", "notebook-digits", "--resize-mode", "pad", "--output", "m.onnx", "-q")
    outcome = swin("bundle", "m.onnx", "--for", "triton", "--preprocessing", "dali")
    outcome.assert_error("DALI's pipeline lacks the resize mode pad")


def test_labels_are_one_line_each(full: Path) -> None:
    served = read_served(full)
    names = ('a\nb"', "", "c:d", "\x1b[31m", *"456789")
    facts = dataclasses.replace(served.facts, class_names=names)
    files = triton_files(dataclasses.replace(served, facts=facts), "m")
    labels = str(files["models/m-scores/labels.txt"], "utf-8").split("\n")  # type: ignore[arg-type]
    assert labels[:4] == ['a b"', "class 1", "c:d", " [31m"]
    assert len(labels) == 11


def test_pbtxt_quotes_texts_and_repeats_lists() -> None:
    message = {
        "name": 'a"\\\n b',
        "kind": Word("KIND_CPU"),
        "dims": [1, 2],
        "inner": {"on": True},
        "gone": None,
    }
    assert to_pbtxt(message) == (
        'name: "a\\"\\\\\\n b"\nkind: KIND_CPU\ndims: 1\ndims: 2\ninner {\n  on: true\n}\n'
    )


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("My_Model.v2", "my-model-v2"),
        ("9_V1.x", "swin-9-v1-x"),
        ("a..b__", "a-b"),
        ("x" * 60, "x" * 40),
        ("swin", "swin"),
    ],
)
def test_kserve_yaml_is_an_inference_service(
    name: str, plain: str, full: Path, swin: Command, tmp_path: Path
) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    swin("bundle", full, "--for", "kserve", "--name", name).assert_done()
    text = (tmp_path / "bundle" / "inferenceservice.yaml").read_text()
    found = yaml.safe_load(text)
    assert found["kind"] == "InferenceService"
    assert found["apiVersion"] == "serving.kserve.io/v1beta1"
    assert found["metadata"]["name"] == plain
    model = found["spec"]["predictor"]["model"]
    assert model["image"] == f"{plain}:1"
    assert model["modelFormat"] == {"name": "onnx"}
    assert (model["protocolVersion"], model["runtime"]) == ("v2", "kserve-tritonserver")
    assert "nvidia.com/gpu" not in text
    assert "args" not in model
    (volume,) = found["spec"]["predictor"]["volumes"]
    assert model["volumeMounts"] == [{"name": volume["name"], "mountPath": "/dev/shm"}]
    # Docker takes no capitals, and no name that starts with a sign.
    readme = (tmp_path / "bundle" / "README.md").read_text()
    assert f"docker build -t {plain} ." in readme


def test_kserve_of_a_compatible_engine_asks_triton_to_load_it(
    full: Path, swin: Command, tmp_path: Path
) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    shutil.copy(full, "m.onnx")
    shutil.copy(f"{full}.json", "m.onnx.json")
    targets = {"built_on": "", "capabilities": ["9.0"], "minimum": "", "version_compatible": True}
    engine = write_engine_of(tmp_path / "m.onnx", tmp_path / "m.engine", targets=targets)
    swin("bundle", engine, "--for", "kserve").assert_done()
    found = yaml.safe_load((tmp_path / "bundle" / "inferenceservice.yaml").read_text())
    model = found["spec"]["predictor"]["model"]
    assert model["args"] == ["--backend-config=tensorrt,version-compatible=true"]
    assert model["resources"]["limits"]["nvidia.com/gpu"] == "1"
