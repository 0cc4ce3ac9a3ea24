import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from command_line import COMMANDS, Command, run_process

from swin_deploy import __version__
from swin_deploy.cli import cli
from swin_deploy.config import VARIANTS
from swin_deploy.reference import count_parameters


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(command: str) -> None:
    result = CliRunner().invoke(cli, [command, "--help"])
    assert result.exit_code == 0
    assert "Examples:\n" in result.output
    assert f"swin-deploy {command}" in result.output.split("Examples:")[1]
    assert result.output == CliRunner().invoke(cli, [command, "-h"]).output


def test_help_lists_every_command() -> None:
    result = CliRunner().invoke(cli, ["--help"])
    assert result.exit_code == 0
    assert sorted(cli.commands) == COMMANDS
    assert all(f"  {command} " in result.output for command in COMMANDS)
    assert "Examples:\n" in result.output
    assert "Exit status: 0 done" in result.output


def test_version_is_the_packages() -> None:
    result = CliRunner().invoke(cli, ["--version"])
    assert (result.exit_code, result.output) == (0, f"swin-deploy, version {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param("", "Usage:", id="no-command"),
        pytest.param("nonsense", "No such command 'nonsense'", id="unknown-command"),
        pytest.param("--verbose --quiet models", "exclude each other", id="verbose-and-quiet"),
        pytest.param(
            "run --for cpu --fp32 --quick --int8",
            "--fp32 and --int8 exclude each other",
            id="two-precisions",
        ),
        pytest.param("build-trt --bf16 x --fp16", "--bf16 and --fp16 exclude", id="two-halves"),
        pytest.param("plan x --blocks --kernels", "exclude each other", id="two-details"),
        pytest.param("export --nonsense", "No such option", id="unknown-option"),
        pytest.param("export extra", "unexpected extra argument", id="extra-argument"),
        pytest.param("export --opset 16", "16 is not in the range 17<=x<=23", id="opset-low"),
        pytest.param("export --opset 24", "24 is not in the range 17<=x<=23", id="opset-high"),
        pytest.param("run --opset 16", "16 is not in the range 17<=x<=23", id="run-opset"),
        pytest.param("export --opset x", "'x' is not a valid integer", id="opset-word"),
        pytest.param("export --precision int4", "'int4' is not one of", id="precision"),
        pytest.param("export --io-precision fp16", "needs --precision fp16", id="io-precision"),
        pytest.param("export --image-size 0", "each from 1 to 65,536", id="image-size"),
        pytest.param("export --image-size 56000000", "each from 1 to 65,536", id="image-huge"),
        pytest.param("export --batch 0", "'0' is neither 'dynamic' nor", id="batch-0"),
        pytest.param("export --batch -1", "'-1' is neither 'dynamic' nor", id="batch-negative"),
        pytest.param("export --batch 1,2", "'1,2' is neither 'dynamic' nor", id="batch-list"),
        pytest.param("export --batch 1.5", "'1.5' is neither 'dynamic' nor", id="batch-fraction"),
        pytest.param("export --batch 65537", "is neither 'dynamic' nor", id="batch-huge"),
        pytest.param(f"export --batch {'9' * 5000}", "is neither 'dynamic' nor", id="batch-long"),
        pytest.param("build-trt --batch 8,4,1", "order minimum,optimum,maximum", id="order"),
        pytest.param("build-trt --batch 1,2", "is not a batch such as 8", id="range-of-two"),
        pytest.param("build-trt --batch 0,1,2", "is not a batch such as 8", id="range-from-0"),
        pytest.param("build-trt --batch 1,,3", "is not a batch such as 8", id="range-gap"),
        pytest.param("run --batch a,b,c", "is not a batch such as 8", id="range-letters"),
        pytest.param("build-trt --flavor cuda", "'cuda' is not one of", id="flavor"),
        pytest.param("build-trt --workspace 0", "0 is not in the range", id="workspace"),
        pytest.param(
            f"build-trt --workspace {1 << 40}", "is not in the range", id="workspace-huge"
        ),
        pytest.param("build-trt --optimization-level 6", "6 is not in the range", id="level"),
        pytest.param("plan", "Missing argument 'FILE'", id="plan-of-nothing"),
        pytest.param("plan x.onnx --batch 0", "0 is not in the range", id="plan-batch"),
        pytest.param("parity --batches 1;2", "is not a list of batches", id="batches"),
        pytest.param("parity --limit 0", "0 is not in the range", id="limit"),
        pytest.param("bench --seconds 0", "0.0 is not in the range", id="seconds"),
        pytest.param("bench --seconds nan", "not in the range", id="seconds-nan"),
        pytest.param("bench --seconds inf", "not in the range", id="seconds-inf"),
        pytest.param("run --bench-seconds 0.5", "0.5 is not in the range", id="bench-seconds"),
    ],
)
def test_wrong_usage_is_status_2(
    arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, arguments.split())
    assert result.exit_code == 2
    assert message in result.output
    assert os.listdir() == []


def test_wrong_usage_through_main(swin: Command) -> None:
    outcome = swin("export", "--opset", "16")
    assert outcome.status == 2
    assert "Error: Invalid value for '--opset'" in outcome.err
    assert outcome.out == ""


# models and doctor


def test_models(swin: Command) -> None:
    outcome = swin("models").assert_done()
    assert all(name in outcome.out for name in VARIANTS)
    values = swin("models", "--json").assert_done().json
    assert [entry["name"] for entry in values["models"]] == list(VARIANTS)
    assert values["default"] == "notebook-swin-t"
    assert {m["name"]: m["parameters"] for m in values["models"]} == {
        name: count_parameters(config) for name, config in VARIANTS.items()
    }


def test_doctor(swin: Command) -> None:
    outcome = swin("doctor", "--json")
    states = {name: entry["state"] for name, entry in outcome.json.items()}
    builds = "ok" in (states["tensorrt"], states["tensorrt-rtx"])
    assert outcome.status == (0 if builds and "broken" not in states.values() else 1)
    shown = swin("doctor")
    assert shown.status == outcome.status
    assert all(name in shown.out for name in states)


def test_doctor_without_tensorrt_is_status_1(
    swin: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)
    outcome = swin("doctor")
    assert outcome.status == 1
    assert "pip install tensorrt-rtx-cu13" in outcome.out
    assert "engines cannot be built" in outcome.err


def test_tables_fit_a_terminal_of_few_signs(engine: Path) -> None:
    outcome = run_process("plan", engine, env={"PYTHONIOENCODING": "latin-1"}).assert_done()
    assert "layers.4" in outcome.out
