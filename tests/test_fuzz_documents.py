"""Configs, reports, evaluations and manifests with a value changed: only our errors, in bounds."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import edit_manifest
from families import loaded
from fuzzing import fuzz, fuzz_commands, only_our_errors
from fuzzing_commands import ends_well
from hostile_json import TEXTS, VALUES, changed, places, text_of
from hypothesis import example, given
from hypothesis import strategies as st
from report_samples import make_evaluation, make_report
from safetensors.torch import save_file
from torch import Tensor

from exporters.artifact import manifest_path, read_manifest
from exporters.plan import KernelPlan
from swin_deploy.checkpoints import huggingface, timm
from swin_deploy.checkpoints.dialect import Dialect
from swin_deploy.config import VARIANTS, SwinConfig
from swin_deploy.load import load_model
from swin_deploy.pipeline import read_engine_manifest
from swin_deploy.report.from_json import read_evaluation, read_report
from swin_deploy.report.to_json import report_to_dict
from swin_deploy.runners.facts import read_facts

Document = dict[str, Any]


def renamed(dialect: Dialect) -> dict[str, Tensor]:
    """A small model's tensors by another library's names."""
    state: dict[str, Tensor] = {}
    for name, value in loaded("swin").reference.named_parameters():
        names = dialect.foreign(name)
        parts = value.detach().chunk(len(names))
        state |= {part: one.clone() for part, one in zip(names, parts, strict=True)}
    return state


TIMM: Document = {
    "architecture": "swin_tiny_patch4_window7_224",
    "num_classes": 10,
    "model_args": {
        "img_size": 56, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 7,
    },
    "pretrained_cfg": {
        "input_size": [3, 56, 56], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center", "num_classes": 10,
        "label_names": [f"class {index}" for index in range(10)],
    },
}  # fmt: skip
HUGGINGFACE: Document = {
    "architectures": ["SwinForImageClassification"], "model_type": "swin", "image_size": 56,
    "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 7,
    "mlp_ratio": 4.0, "qkv_bias": True, "hidden_act": "gelu", "layer_norm_eps": 1e-5,
    "use_absolute_embeddings": False, "id2label": {str(index): f"c{index}" for index in range(10)},
}  # fmt: skip
PROCESSOR: Document = {
    "image_processor_type": "ViTImageProcessor", "do_resize": True, "do_rescale": True,
    "do_normalize": True, "size": {"height": 56, "width": 56}, "resample": 3,
    "rescale_factor": 1 / 255, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
}  # fmt: skip
FOLDERS: dict[str, tuple[Dialect, dict[str, Document]]] = {
    "timm": (timm.DIALECT, {"config.json": TIMM}),
    "huggingface": (
        huggingface.DIALECTS[0],
        {"config.json": HUGGINGFACE, "preprocessor_config.json": PROCESSOR},
    ),
}


@functools.cache
def folder_of(library: str, base: Path) -> Path:
    """An honest folder of a library."""
    folder = base / library
    folder.mkdir()
    dialect, files = FOLDERS[library]
    save_file(renamed(dialect), folder / "model.safetensors")
    for name, values in files.items():
        (folder / name).write_text(json.dumps(values))
    load_model(checkpoint=folder)
    return folder


CHANGED = st.tuples(st.integers(0, 10_000), st.sampled_from(sorted(VALUES)))


def with_changes(values: Document, changes: list[tuple[int, str]]) -> str:
    """A document's text, one value after the other in place of another."""
    for number, name in changes:
        every = list(places(values))
        path = every[number % len(every)]
        values = changed(values, path, VALUES[name])
    return text_of(values)


def edited(honest: Document) -> st.SearchStrategy[str]:
    """Texts of a document with one or two values changed, or something else altogether."""
    few = st.lists(CHANGED, min_size=1, max_size=2)
    return st.one_of(
        few.map(lambda changes: with_changes(honest, changes)),
        st.sampled_from(sorted(TEXTS)).map(TEXTS.__getitem__),
        st.text(max_size=5),
    )


FILES = [(library, name) for library, (_, files) in FOLDERS.items() for name in files]


@pytest.mark.parametrize(("library", "name"), FILES)
def test_load_model_folder_with_a_value_changed(
    library: str, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = folder_of(library, tmp_path_factory.getbasetemp())
    honest = FOLDERS[library][1][name]

    @fuzz
    @given(text=edited(honest))
    def load(text: str) -> None:
        (folder / name).write_text(text, encoding="utf-8", errors="surrogatepass")
        with only_our_errors():
            load_model(checkpoint=folder)

    try:
        load()
    finally:
        (folder / name).write_text(json.dumps(honest))


SIZES = VARIANTS["notebook-digits"].to_dict()


@fuzz
@given(changes=st.lists(CHANGED, min_size=1, max_size=3))
@example(changes=[(list(SIZES).index("window_size"), "2^70")])
@example(changes=[(list(SIZES).index("window_size"), "2^40")])
def test_config_from_dict_with_values_changed(changes: list[tuple[int, str]]) -> None:
    values = dict(SIZES)
    for number, name in changes:
        values = changed(values, (list(SIZES)[number % len(SIZES)],), VALUES[name])
    with only_our_errors():
        config = SwinConfig.from_dict(values)
        assert len(config.legal_img_sizes(4)) <= 4
        assert config.gmacs > 0


@pytest.mark.parametrize(
    ("read", "honest"),
    [
        (read_report, report_to_dict(make_report())),
        (read_evaluation, make_evaluation().to_dict()),
    ],
    ids=["report", "evaluation"],
)
def test_read_document_with_a_value_changed(
    read: Callable[[Path], object], honest: Document, tmp_path: Path
) -> None:
    path = tmp_path / "document.json"
    path.write_text(json.dumps(honest))
    read(path)

    @fuzz
    @given(text=edited(json.loads(json.dumps(honest))))
    def again(text: str) -> None:
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        with only_our_errors():
            read(path)

    again()


def test_read_manifest_with_a_value_changed(own_engine: Path) -> None:
    beside = manifest_path(own_engine)
    honest = json.loads(beside.read_text())
    honest["plan"]["kernels"] = honest["plan"]["kernels"][:2]
    edit_manifest(own_engine, plan=honest["plan"])
    read_facts(own_engine)

    @fuzz
    @given(text=edited(honest))
    def again(text: str) -> None:
        beside.write_text(text, encoding="utf-8", errors="surrogatepass")
        for read in (read_manifest, read_engine_manifest, read_facts):
            with only_our_errors():
                read(own_engine)

    again()


def test_kernel_plan_with_a_value_changed(own_engine: Path) -> None:
    plan = json.loads(manifest_path(own_engine).read_text())["plan"]
    plan["kernels"] = plan["kernels"][:2]

    @fuzz
    @given(text=edited(plan))
    def again(text: str) -> None:
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            return
        with only_our_errors():
            read = KernelPlan.from_dict(values)
            assert read.bytes_moved_per_image >= 0
            assert read.half_byte_share <= read.bytes_moved + 1

    again()


def test_main_report_with_a_value_changed(tmp_path: Path) -> None:
    honest = json.loads(json.dumps(report_to_dict(make_report())))
    path = tmp_path / "report.json"
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "report.json").write_text(json.dumps(honest))

    @fuzz_commands
    @given(text=edited(honest))
    def again(text: str) -> None:
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        ends_well("report", path)
        ends_well("report", tmp_path / "own", path)

    again()
