"""The parts of the GPU suite in their processes, and the document that outlives them."""

import dataclasses
import json
import sys
import textwrap
from typing import Any

import pytest
import torch

from benchmarks.gpu_suite.document import (
    DRY_RUN,
    claim_places,
    conditions,
    merge_partial,
    open_document,
    partial_path,
    save,
)
from benchmarks.gpu_suite.markdown import render_document
from benchmarks.gpu_suite.models import NOTEBOOK, TINY, TINY_V2, Setup, suite_model
from benchmarks.gpu_suite.parts import Part
from benchmarks.gpu_suite.runner import Drive, drive, run_child
from exporters.errors import FileError, MissingBackendError
from swin_deploy.images.sets import seeded_images

NOW = {"device": "this one", "code": "1"}


# parts that break

CHILD = """
    import json, os, signal, sys, time
    name, path = sys.argv[-1], sys.argv[1]
    def write(status, data, reason=""):
        outcome = {"part": name, "status": status, "reason": reason, "data": data}
        json.dump(outcome | {"conditions": {}, "seconds": 1.0}, open(path, "w"))
    if name in ("kept", "slow"):
        write("cut short", {"half": 1})
    if name == "unnamed":
        os.kill(os.getpid(), signal.SIGRTMIN + 1)
    if name == "loud":
        sys.stderr.write("x" * 9_000_000 + " ")
        sys.exit("the end")
    if name in ("crash", "kept"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if name in ("hang", "slow"):
        time.sleep(60)
    if name == "exit":
        sys.exit("no more\\nmemory")
    if name == "gone":
        write("not run", None, "no GPU here")
    else:
        write("done", {"found": 1})
    if name == "teardown":
        os.kill(os.getpid(), signal.SIGSEGV)
"""


def work(earlier, keep):
    raise AssertionError("parts run in processes of their own")


@pytest.fixture
def how(tmp_path):
    output = tmp_path / "r.json"
    code = textwrap.dedent(CHILD)
    return Drive(
        output=output,
        command=(sys.executable, "-c", code, str(partial_path(output))),
        seconds=60.0,
        conditions=NOW,
        say=lambda line: None,
    )


def driven(how, *parts):
    document = open_document(how.output, dry=False)
    drive(document, parts, how)
    return json.loads(how.output.read_text())["parts"]


@pytest.mark.parametrize(
    ("part", "status", "reason", "data"),
    [
        (Part("fine", 9, work), "done", "", {"found": 1}),
        (Part("gone", 9, work), "not run", "no GPU here", None),
        (Part("crash", 9, work), "failed", "SIGSEGV", None),
        (Part("kept", 9, work), "failed", "SIGSEGV", {"half": 1}),
        (Part("exit", 9, work), "failed", "status 1: no more memory", None),
        (Part("unnamed", 9, work), "failed", "signal 35", None),
        (Part("loud", 9, work), "failed", "xxx the end", None),
        (Part("hang", 0.5, work), "cut short", "ended after", None),
        (Part("slow", 1.5, work), "cut short", "ended after", {"half": 1}),
        (Part("teardown", 9, work), "done", "then its process was ended by SIGSEGV", {"found": 1}),
        (Part("none", 9, work, "no_such_module"), "not run", "is not installed", None),
    ],
    ids=lambda value: value.name if isinstance(value, Part) else "",
)
def test_drive_every_end_of_a_part_is_a_result(part, status, reason, data, how):
    parts = driven(how, part, Part("last", 9, work))
    assert parts[part.name]["status"] == status
    assert reason in parts[part.name]["reason"]
    assert parts[part.name]["data"] == data
    assert parts["last"]["status"] == "done"
    assert not partial_path(how.output).exists()


def test_drive_resumes_but_for_other_conditions_failures_and_again(how):
    said: list[str] = []
    how = dataclasses.replace(how, say=said.append)

    def times(*ways):
        said.clear()
        for way in ways:
            driven(way, Part("part", 9, work))
        return said.count("part ...")

    assert times(how, how) == 1
    assert times(dataclasses.replace(how, again=True)) == 1
    assert times(dataclasses.replace(how, conditions=NOW | {"code": "2"})) == 1
    driven(how, Part("crash", 9, work))
    said.clear()
    driven(how, Part("crash", 9, work))
    assert "crash ..." in said


def test_drive_out_of_time_says_so_and_leaves_what_there_is(how):
    late = dataclasses.replace(how, seconds=0.0)
    parts = driven(late, Part("late", 9, work))
    assert parts["late"]["status"] == "not run"
    assert "were spent before" in parts["late"]["reason"]
    driven(how, Part("slow", 1.5, work))
    assert driven(late, Part("slow", 9, work))["slow"]["data"] == {"half": 1}


def test_drive_takes_over_what_a_killed_command_left(how):
    left: dict[str, Any] = {
        "part": "lost",
        "status": "cut short",
        "reason": "",
        "data": {"half": 1},
    }
    left |= {"data": {"half": 1}, "conditions": NOW, "seconds": 3.0}
    partial_path(how.output).write_text(json.dumps(left))
    parts = driven(how, Part("fine", 9, work))
    assert parts["lost"]["status"] == "cut short"
    assert parts["lost"]["reason"] == "the command was ended while it ran"
    assert parts["lost"]["data"] == {"half": 1}
    partial_path(how.output).write_text("{")  # killed while it wrote, by another writer
    assert driven(how, Part("fine", 9, work))["lost"]["data"] == {"half": 1}


def test_run_child_keeps_what_was_done_before_it_broke(how):
    def half(_earlier, keep):
        keep({"half": 1})
        assert json.loads(partial_path(how.output).read_text())["status"] == "cut short"
        raise RuntimeError("later")

    run_child(Part("half", 9, half), {"parts": {}}, how)
    outcome = json.loads(partial_path(how.output).read_text())
    assert (outcome["status"], outcome["data"]) == ("failed", {"half": 1})
    assert (outcome["part"], outcome["conditions"]) == ("half", NOW)
    assert outcome["reason"].startswith("RuntimeError: later (test_gpu_suite_runner.py, line ")


def test_run_child_sees_what_was_found_under_the_same_conditions_alone(how):
    seen = []

    def look(earlier, _keep):
        seen.append(set(earlier))
        return {}

    parts = {
        name: {"status": "done", "reason": "", "data": {}, "conditions": conditions}
        for name, conditions in (("same", NOW), ("other", {"device": "another"}), ("me", NOW))
    }
    run_child(Part("me", 9, look), {"parts": parts}, how)
    run_child(Part("me", 9, look), {"parts": parts}, dataclasses.replace(how, again=True))
    assert seen == [{"same", "me"}, {"same"}]


def test_run_child_without_the_package_is_not_run(how):
    def missing(_earlier, _keep):
        raise MissingBackendError("no GPU here")

    run_child(Part("gone", 9, missing), {"parts": {}}, how)
    outcome = json.loads(partial_path(how.output).read_text())
    assert (outcome["status"], outcome["reason"]) == ("not run", "no GPU here")


def test_open_document_refuses_what_it_did_not_write(tmp_path):
    path = tmp_path / "r.json"
    save(open_document(path, dry=True), path)
    with pytest.raises(FileError, match="holds a dry run, this is a real run"):
        open_document(path, dry=False)
    path.write_text('{"schema"')
    with pytest.raises(FileError, match="cannot go on with"):
        open_document(path, dry=True)


@pytest.mark.parametrize(
    "text",
    ["[]", "{", '{"schema": 2, "parts": {}}', "[" * 100_000],
    ids=["list", "truncated", "no title", "deep"],
)  # fmt: skip
def test_open_document_refuses_what_is_none_in_one_line(text, tmp_path):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(FileError, match=r"\Acannot go on with [^\n]*choose another --output\Z"):
        open_document(path, dry=False)


@pytest.mark.parametrize("text", ["[]", "{}", '{"part": "lost", "status": "over"}', "[" * 100_000],
                         ids=["list", "empty", "other", "deep"])  # fmt: skip
def test_drive_passes_over_what_is_no_outcome(text, how):
    partial_path(how.output).write_text(text)
    assert set(driven(how, Part("fine", 9, work))) == {"fine"}


def test_drive_takes_no_outcome_of_another_part(how):
    """A process that a killed command left behind writes to the same place."""
    code = how.command[2].replace('{"part": name', '{"part": "another"')
    other = dataclasses.replace(how, command=(*how.command[:2], code, *how.command[3:]))
    found = driven(other, Part("fine", 9, work))["fine"]
    assert (found["status"], found["reason"]) == ("failed", "it left no outcome")


def test_drive_out_of_time_keeps_what_was_found_under_other_conditions(how):
    driven(how, Part("part", 9, work))
    elsewhere = dataclasses.replace(how, conditions=NOW | {"code": "2"}, seconds=0.0)
    assert driven(elsewhere, Part("part", 9, work))["part"]["data"] == {"found": 1}


PART = {
    "status": "done", "reason": "", "data": None, "seconds": 1, "conditions": {"device": "CPU"},
}  # fmt: skip
DOCUMENT = {"schema": 2, "title": DRY_RUN, "parts": {"environment": PART}}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"schema": 1}, id="older"),
        pytest.param({"schema": 3}, id="newer"),
        pytest.param({"title": None}, id="title"),
        pytest.param({"title": "a poem"}, id="foreign title"),
        pytest.param({"parts": []}, id="list"),
        pytest.param({"parts": {"environment": 3}}, id="number"),
        *(pytest.param({"parts": {"environment": PART | {name: []}}}, id=name) for name in PART),
    ],
)
def test_open_document_refuses_what_is_not_whole(change, tmp_path):
    path = tmp_path / "r.json"
    path.write_text(json.dumps(DOCUMENT))
    assert open_document(path, dry=True) == DOCUMENT
    path.write_text(json.dumps(DOCUMENT | change))
    with pytest.raises(FileError, match="cannot go on with"):
        open_document(path, dry=True)


def test_claim_places_takes_its_own_and_refuses_others(tmp_path):
    output, copies = tmp_path / "r.json", tmp_path / "out"
    page = output.with_suffix(".md")
    save(DOCUMENT, output)
    page.write_text(render_document(DOCUMENT))
    claim_places(output, copies, artifacts=tmp_path / "files", dry=True)
    with pytest.raises(FileError, match=r"is the folder of r\.json itself"):
        claim_places(output, tmp_path, artifacts=tmp_path / "files", dry=True)
    with pytest.raises(FileError, match=r"cannot write in .*r\.json: Not a directory"):
        claim_places(output, None, artifacts=output, dry=True)
    copies.mkdir()
    (copies / "r.json").write_text(json.dumps(DOCUMENT | {"title": "gpu suite"}))
    with pytest.raises(FileError, match="holds a real run, this is a dry run"):
        claim_places(output, copies, artifacts=tmp_path / "files", dry=True)
    page.write_text("my notes")
    with pytest.raises(FileError, match=r"r\.md is not a page of this suite"):
        claim_places(output, None, artifacts=tmp_path / "files", dry=True)


def test_claim_places_refuses_a_partial_file_that_is_not_the_suites(tmp_path):
    output = tmp_path / "r.json"
    partial_path(output).write_text('{"part": "environment"}')
    with pytest.raises(FileError, match="is not of this suite; move it away"):
        claim_places(output, None, artifacts=tmp_path / "files", dry=True)
    document: dict[str, Any] = {"parts": {}}
    assert merge_partial(document, output) == ""
    assert document["parts"] == {}
    assert partial_path(output).exists()


def test_conditions_tell_a_dry_run_and_the_code():
    assert conditions(dry=True) != conditions(dry=False)
    assert len(conditions(dry=True)["code"]) == 16


def test_suite_model_has_the_same_weights_on_every_machine(tmp_path):
    """The digests were made with another release of PyTorch than the one that is pinned."""
    setup = Setup(tmp_path, dry=True)
    assert {name: suite_model(name, setup).sha256[:16] for name in (TINY, NOTEBOOK, TINY_V2)} == {
        TINY: "bfcbf4e464319ed1",
        NOTEBOOK: "b3f16bdef39f1916",
        TINY_V2: "22c8026639371aab",
    }


def test_suite_model_is_as_trained_ones_are(tmp_path):
    model = suite_model(TINY, Setup(tmp_path, dry=True)).reference
    values = dict(model.named_parameters())
    assert all(value.std() > 0 for value in values.values() if value.numel() > 1)
    with torch.inference_mode():
        logits = model(torch.from_numpy(seeded_images(model.config, count=4).images))
    assert 0.1 < float(logits.std()) < 10
