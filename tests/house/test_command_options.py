"""What every command takes: -q and -v anywhere, and options from variables."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from command_line import COMMANDS, DIGITS, IMAGES, Command

from swin_deploy.cli import cli


def test_quiet_is_taken_before_and_after_the_command(swin: Command) -> None:
    loud = swin("doctor").err
    assert "Looking at this machine" in loud
    for arguments in (("-q", "doctor"), ("doctor", "-q"), ("--quiet", "doctor", "--quiet")):
        assert "Looking at this machine" not in swin(*arguments).err


def test_verbose_after_the_command_shows_details(swin: Command) -> None:
    arguments = ("parity", "--model", "notebook-digits", "--limit", "2", "--batches", "1")
    detail = "deploy model: images, batch 1"
    assert detail not in swin(*arguments).assert_done().err
    assert detail in swin(*arguments, "-v").assert_done().err


@pytest.mark.parametrize(
    "arguments", [("-v", "models", "-q"), ("models", "-q", "-v"), ("-q", "-v", "models")]
)
def test_quiet_and_verbose_exclude_each_other_anywhere(
    arguments: tuple[str, ...], swin: Command
) -> None:
    outcome = swin(*arguments)
    assert outcome.status == 2
    assert "--verbose and --quiet exclude each other" in outcome.err


def test_variable_gives_an_option_and_is_told(
    swin: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWIN_DEPLOY_EXPORT_MODEL", "notebook-digits")
    monkeypatch.setenv("SWIN_DEPLOY_EXPORT_OPSET", "18")
    outcome = swin("export", "--opset", "19", "--json").assert_done()
    assert (outcome.json["model"], outcome.json["opset"]) == ("notebook-digits", 19)
    assert "from the environment: SWIN_DEPLOY_EXPORT_MODEL=notebook-digits\n" in outcome.err


@pytest.mark.parametrize(
    ("name", "value", "command", "message"),
    [
        ("EXPORT_OPSET", "12", "export", "'--opset' (from SWIN_DEPLOY_EXPORT_OPSET): 12 is not"),
        ("RUN_BATCH", "x", "run", "'--batch' (from SWIN_DEPLOY_RUN_BATCH): 'x' is not a batch"),
        ("RUN_FORCE", "perhaps", "run", "'--force' (from SWIN_DEPLOY_RUN_FORCE): 'perhaps'"),
        ("RUN_BF16", "perhaps", "run", "SWIN_DEPLOY_RUN_BF16=perhaps: give 1 for --bf16, or 0"),
        ("BUILD_TRT_FLAVOR", "x", "build-trt", "(from SWIN_DEPLOY_BUILD_TRT_FLAVOR): 'x'"),
    ],
)
def test_wrong_variable_is_named(
    name: str,
    value: str,
    command: str,
    message: str,
    swin: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(f"SWIN_DEPLOY_{name}", value)
    outcome = swin(command)
    assert outcome.status == 2
    assert message in outcome.err


def test_unknown_variable_is_told(swin: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWIN_DEPLOY_DOCTOR_JSN", "1")
    assert "SWIN_DEPLOY_DOCTOR_JSN is the variable of no option of doctor" in swin("doctor").err


def test_variable_of_a_command_with_a_longer_name_is_not_of_the_shorter_one(
    swin: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """SWIN_DEPLOY_EXPORT_MODEL is of export --model, and also how those of export-model begin."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SWIN_DEPLOY_EXPORT_MODEL_OPSET", "19")
    monkeypatch.setenv("SWIN_DEPLOY_EXPORT_MODEL_NO", "1")
    monkeypatch.setenv("SWIN_DEPLOY_EXPORT_NO", "1")
    short = swin("export", "--model", "notebook-digits", "--output", "model.engine").err
    assert "SWIN_DEPLOY_EXPORT_NO is the variable of no option of export" in short
    assert "SWIN_DEPLOY_EXPORT_MODEL" not in short
    refused = swin("export-model", "absent:build", "--image-size", "64").err
    assert "SWIN_DEPLOY_EXPORT_MODEL_NO is the variable of no option of export-model" in refused
    assert "SWIN_DEPLOY_EXPORT_NO" not in refused
    assert "from the environment: SWIN_DEPLOY_EXPORT_MODEL_OPSET=19" in refused


def test_command_line_counts_more_than_the_variable_of_quiet(
    swin: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWIN_DEPLOY_QUIET", "1")
    assert "Looking" not in swin("doctor").err
    for arguments in (("doctor", "-v"), ("-v", "doctor")):
        assert "Looking at this machine" in swin(*arguments).err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_the_variable_of_its_name(name: str) -> None:
    options = [one for one in cli.commands[name].params if isinstance(one, click.Option)]
    for one in options:
        if one.name not in ("quiet", "verbose"):
            word = one.opts[0].removeprefix("--")
            expected = f"SWIN_DEPLOY_{name}_{word}".upper().replace("-", "_")
            assert one.envvar == expected


def test_predict_verbose_proposes_its_own_artifact(swin: Command) -> None:
    picture = next(IMAGES.rglob("*.png"))
    outcome = swin("-v", "predict", DIGITS, picture).assert_done()
    assert f"next: swin-deploy -v predict {DIGITS} {picture} --csv" in outcome.err
