import copy
import json
import math
from pathlib import Path

import jsonschema
import pytest
from report_samples import FAILING, PASSING, REPORTS, make_evaluation

from exporters.errors import FileError
from swin_deploy.report.from_json import read_evaluation, read_report
from swin_deploy.report.results import SCHEMA
from swin_deploy.report.schema import load_schema
from swin_deploy.report.to_json import to_json
from swin_deploy.report.write import write_report

SCHEMA_DOCUMENT = load_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA_DOCUMENT)
REMOVED = object()


def objects(schema):
    """Every form of an object with named members."""
    return [schema, *schema["$defs"].values()]


def changed(report, *path_and_value):
    *path, last, value = path_and_value
    document = copy.deepcopy(to_json(report))
    target = document
    for step in path:
        target = target[step]
    if value is REMOVED:
        del target[last]
    else:
        target[last] = value
    return document


def test_schema_is_one_of_draft_2020_12_and_of_this_version():
    jsonschema.Draft202012Validator.check_schema(SCHEMA_DOCUMENT)
    assert SCHEMA_DOCUMENT["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert SCHEMA_DOCUMENT["properties"]["schema"]["enum"] == [SCHEMA]


def test_every_member_is_typed_described_and_required_and_no_others_are_allowed():
    for form in objects(SCHEMA_DOCUMENT):
        assert form["additionalProperties"] is False
        assert form["required"] == list(form["properties"])
        assert form["description"]
        for name, member in form["properties"].items():
            assert member["description"].endswith((".", "...")), name
            assert member.keys() & {"type", "enum", "const", "$ref", "anyOf"}, name


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_every_sample_is_valid(report):
    VALIDATOR.validate(to_json(report))


DAMAGED = {
    "member missing": (PASSING, "bench", REMOVED),
    "member unknown": (PASSING, "more", 1),
    "member unknown, deep": (PASSING, "parity", "hops", 0, "extra", ""),
    "list for an object": (PASSING, "parity", []),
    "object for a list": (PASSING, "artifacts", {}),
    "text for a number": (PASSING, "parity", "hops", 0, "results", 0, "rows", "24"),
    "number for text": (PASSING, "model", 3),
    "true for a number": (PASSING, "parity", "hops", 0, "results", 0, "batch", True),
    "fraction of an image": (PASSING, "parity", "hops", 0, "results", 0, "batch", 1.5),
    "null where there is always a value": (PASSING, "created", None),
    "no batch": (PASSING, "plan", "batch", 0),
    "negative bytes": (PASSING, "artifacts", 0, "bytes", -1),
    "share above 1": (PASSING, "parity", "reference_top1_accuracy", 97.2),
    "another verdict": (PASSING, "verdict", "PASS"),
    "another stage": (PASSING, "parity", "hops", 0, "stage", "tensorrt"),
    "half a hash": (PASSING, "artifacts", 0, "sha256", "ab"),
    "script for a picture": (PASSING, "parity", "samples", 0, "thumbnail", '"><script>'),
    "condition that is no text": (PASSING, "conditions", "torch", 2.13),
    "six guesses": (PASSING, "parity", "samples", 0, "reference", "guesses", 6 * [
        {"index": 0, "name": "", "probability": 0.1}
    ]),
    "evaluation of another form": (PASSING, "evaluation", "schema", 1),
    "kernel without a name": (PASSING, "plan", "launches", 0, "name", REMOVED),
    "another schema": (PASSING, "schema", SCHEMA + 1),
    "schema as a fraction": (PASSING, "schema", str(SCHEMA)),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_damaged_reports_are_rejected_by_the_schema_and_by_us(damage, tmp_path):
    document = changed(*damage)
    assert list(VALIDATOR.iter_errors(document))
    path = tmp_path / "report.json"
    path.write_text(json.dumps(document))
    with pytest.raises(FileError, match=r"is not a report|another version") as info:
        read_report(path)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("document", [[], None, 3, "report", {}], ids=repr)
def test_other_documents_are_rejected(document, tmp_path):
    assert list(VALIDATOR.iter_errors(document))
    path = tmp_path / "report.json"
    path.write_text(json.dumps(document))
    with pytest.raises(FileError, match="is not a report"):
        read_report(path)


def test_the_problem_is_named_with_its_place(tmp_path):
    path = tmp_path / "report.json"
    path.write_text(json.dumps(changed(PASSING, "parity", "hops", 1, "results", 2, "rows", "24")))
    with pytest.raises(FileError, match=r"results.*rows: expected int, got str"):
        read_report(path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_json_does_not_have_are_rejected(value, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(json.dumps(changed(PASSING, "parity", "hops", 0, "top1_accuracy", value)))
    with pytest.raises(FileError, match="top1_accuracy"):
        read_report(path)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ((FAILING, "verdict", "pass"), "its verdict is pass, its figures say fail"),
        ((PASSING, "parity", "hops", 0, "answers", 0, REMOVED), "one answer for each sample"),
        ((PASSING, "evaluation", "candidates", 0, "top1", "right", 361), "."),
        ((PASSING, "plan", "kernels", 1), "its plan.kernels is 1, its figures say 108"),
        ((PASSING, "parity", "hops", 0, "passed", False), "passed is False, its figures say True"),
        (
            (PASSING, "parity", "hops", 0, "results", 0, "checks", 0, "needed", 9.0),
            "although its checks do not",
        ),
        ((PASSING, "parity", "hops", 0, "results", 0, "checks", []), "its checks do not"),
        ((PASSING, "plan", "bytes_moved_per_image", "NaN"), "is NaN, its figures say"),
        ((PASSING, "plan", "kernel_kinds", {}), "its plan.kernel_kinds has"),
        ((PASSING, "plan", "heaviest", []), "has 0 entries, its figures say 10"),
        ((PASSING, "plan", "heaviest", 0, "name", "x" * 10_000), r"x\.\.\.x"),
    ],
    ids=[
        "verdict",
        "answers",
        "more right than images",
        "kernels",
        "hop",
        "error beyond its limit",
        "no checks",
        "NaN",
        "no kinds",
        "none heaviest",
        "long name",
    ],
)
def test_a_report_that_contradicts_itself_is_rejected(damage, said, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(json.dumps(changed(*damage)))
    with pytest.raises(FileError, match=f"contradicts itself .*{said}"):
        read_report(path)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\x00", '{"schema": 1e999}'])
def test_files_that_are_no_report_give_one_line(text, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(FileError, match="is not") as info:
        read_report(path)
    assert "\n" not in str(info.value)


def test_a_report_of_another_version_says_so(tmp_path):
    path = write_report(PASSING, tmp_path)[0]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 1}))
    with pytest.raises(
        FileError, match=r"another version of swin-deploy \(schema 1, this one reads"
    ):
        read_report(path)


def test_read_evaluation_reads_an_evaluation_and_nothing_else(tmp_path: Path):
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(to_json(make_evaluation())))
    assert read_evaluation(path) == make_evaluation()
    path.write_text(json.dumps(to_json(PASSING)))
    with pytest.raises(FileError, match="is not an evaluation"):
        read_evaluation(path)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("verdict",), "fail"),
        (("candidates", 0, "passed"), False),
        (("candidates", 0, "top1", "accuracy"), 1.0),
        (("candidates", 0, "top1", "images"), 1),
        (("candidates", 0, "top1", "images"), 10**400),
        (("candidates", 0, "top1", "interval", "low"), "-Infinity"),
    ],
    ids=str,
)
def test_an_evaluation_that_contradicts_itself_is_rejected(place, value, tmp_path):
    values = target = to_json(make_evaluation())
    for step in place[:-1]:
        target = target[step]
    target[place[-1]] = value
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(values))
    with pytest.raises(FileError, match="evaluate again") as info:
        read_evaluation(path)
    assert "\n" not in str(info.value)
    assert len(str(info.value)) < 500
