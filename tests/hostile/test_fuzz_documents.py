"""Configs, reports, evaluations and manifests with a value changed: only our errors, in bounds."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import edit_manifest
from fuzzing import fuzz, fuzz_commands, only_our_errors
from fuzzing_commands import ends_well
from hostile_folders import FOLDERS, write_folder
from hostile_json import TEXTS, VALUES, changed, places, text_of
from hypothesis import example, given
from hypothesis import strategies as st
from report_samples import make_evaluation, make_report

from exporters.artifact import manifest_path, read_manifest, sha256_of
from exporters.plan import KernelPlan
from swin_deploy.checkpoints.load import load_model
from swin_deploy.config import VARIANTS, SwinConfig
from swin_deploy.report.from_json import read_evaluation, read_report
from swin_deploy.report.to_json import to_json
from swin_deploy.runners.engine_manifest import read_engine_manifest

Document = dict[str, Any]


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


UNTYPED = pytest.mark.skipif(
    importlib.util.find_spec("swin_deploy.checkpoints.config_json") is None,
    reason="the fields of a library's config.json have no types yet",
)
FILES = [
    pytest.param(library, name, marks=UNTYPED if name == "config.json" else ())
    for library, (_, files) in FOLDERS.items()
    for name in files
]


@pytest.mark.parametrize(("library", "name"), FILES)
def test_load_model_folder_with_a_value_changed(library: str, name: str, tmp_path: Path) -> None:
    folder = write_folder(library, tmp_path / library)
    load_model(checkpoint=folder)
    honest = FOLDERS[library][1][name]

    @fuzz
    @given(text=edited(honest))
    def load(text: str) -> None:
        (folder / name).write_text(text, encoding="utf-8", errors="surrogatepass")
        with only_our_errors():
            load_model(checkpoint=folder)

    load()


SIZES = VARIANTS["notebook-digits"].to_dict()


@fuzz
@given(changes=st.lists(CHANGED, min_size=1, max_size=3))
@example(changes=[(list(SIZES).index("window_size"), "2^70")])
@example(changes=[(list(SIZES).index("window_size"), "2^40")])
@example(changes=[(list(SIZES).index("num_classes"), "empty list")])
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
        (read_report, to_json(make_report())),
        (read_evaluation, to_json(make_evaluation())),
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
    own_engine.write_bytes(b"short")  # every reading takes its SHA-256
    honest["sha256"] = sha256_of(own_engine)
    edit_manifest(own_engine, plan=honest["plan"], sha256=honest["sha256"])
    read_engine_manifest(own_engine)

    @fuzz
    @given(text=edited(honest))
    def again(text: str) -> None:
        beside.write_text(text, encoding="utf-8", errors="surrogatepass")
        for read in (read_manifest, read_engine_manifest):
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
    honest = json.loads(json.dumps(to_json(make_report())))
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
