"""Other names of the variants."""

from __future__ import annotations

import difflib
import itertools

import pytest
from click.shell_completion import ShellComplete
from command_line import Command
from peers import import_peer

from exporters.errors import ConfigError
from swin_deploy.cli import cli
from swin_deploy.config import VARIANTS
from swin_deploy.config.names import SHORT_NAMES, find_variant, short_names, variant_name

# As timm 1.0, torchvision 0.25, the Hub and the authors' repository spell them.
NAMES = {
    "swin_tiny": "swin_tiny_patch4_window7_224",
    "swin_t": "swin_tiny_patch4_window7_224",
    "swin-s": "swin_small_patch4_window7_224",
    "Swin_B": "swin_base_patch4_window7_224",
    "swin_v2_t": "swinv2_tiny_window8_256",
    "swin_v2_s": "swinv2_small_window8_256",
    "swin_v2_b": "swinv2_base_window8_256",
    "swinv2_tiny": "swinv2_tiny_window8_256",
    "swinv2_base_384": "swinv2_base_window12to24_192to384",
    "swin_large_384": "swin_large_patch4_window12_384",
    "swin_s3_tiny": "swin_s3_tiny_224",
    "swin_tiny_patch4_window7_224.ms_in1k": "swin_tiny_patch4_window7_224",
    "swin_base_patch4_window12_384.ms_in22k_ft_in1k": "swin_base_patch4_window12_384",
    "timm/swinv2_tiny_window16_256.ms_in1k": "swinv2_tiny_window16_256",
    "hf_hub:timm/swin_s3_base_224.ms_in1k": "swin_s3_base_224",
    "swin_base_patch4_window7_224_in22k": "swin_base_patch4_window7_224",
    "swinv2_base_window12to16_192to256_22kft1k": "swinv2_base_window12to16_192to256",
    "swinv2_large_window12_192_22k": "swinv2_large_window12_192",
    "microsoft/swin-tiny-patch4-window7-224": "swin_tiny_patch4_window7_224",
    "microsoft/swin-large-patch4-window12-384-in22k": "swin_large_patch4_window12_384",
    "microsoft/swinv2-tiny-patch4-window8-256": "swinv2_tiny_window8_256",
    "microsoft/swinv2-base-patch4-window12-192-22k": "swinv2_base_window12_192",
    "microsoft/swinv2-large-patch4-window12to24-192to384-22kto1k-ft": (
        "swinv2_large_window12to24_192to384"
    ),
    "swin_small_patch4_window7_224_22kto1k_finetune": "swin_small_patch4_window7_224",
    "swinv2_base_patch4_window12to16_192to256_22kto1k_ft": "swinv2_base_window12to16_192to256",
    "notebook_swin_t": "notebook-swin-t",
}


@pytest.mark.parametrize(("name", "variant"), NAMES.items())
def test_variant_name_knows_what_people_say(name: str, variant: str) -> None:
    assert variant_name(name) == variant


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_name_of_a_variant_is_itself(name: str) -> None:
    assert variant_name(name) == name
    assert {variant_name(short) for short in short_names(name)} <= {name}


def test_short_names_are_of_variants_and_like_no_variant() -> None:
    assert set(SHORT_NAMES.values()) <= set(VARIANTS)
    assert not set(SHORT_NAMES) & set(VARIANTS)


def test_timm_and_torchvision_names_are_known() -> None:
    timm = import_peer("timm")
    both = ("swin_*", "swinv2_*")
    pretrained = itertools.chain(*(timm.list_models(one, pretrained=True) for one in both))
    ours = {name for name in pretrained if not name.startswith("swinv2_cr_")}
    assert len(ours) > 20
    wrong = {name for name in ours if find_variant(name) != name.partition(".")[0]}
    assert not wrong
    models = import_peer("torchvision.models")
    sizes = {"t": "tiny", "s": "small", "b": "base"}
    for name in models.list_models(include="swin_*"):
        assert f"_{sizes[name[-1]]}_" in variant_name(name)


@pytest.mark.parametrize(
    "name",
    ["swinv2_cr_tiny_224", "swin", "swin_x", "", "resnet50", "swin_tiny_384", "facebook/swin_t"],
)
def test_variant_name_of_another_model_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="'swin-deploy models' lists all of them"):
        variant_name(name)


@pytest.mark.parametrize(("name", "meant"), [("swn_tiny", "swin_tiny"), ("digit", "digits")])
def test_wrong_name_gets_at_most_three_proposals(name: str, meant: str, swin: Command) -> None:
    outcome = swin("export", "--model", name)
    outcome.assert_error(f"unknown model {name}; did you mean {meant}")
    proposed = outcome.err.partition("did you mean ")[2].partition("?")[0]
    assert 1 <= len(proposed.replace(" or ", ", ").split(", ")) <= 3
    assert all(find_variant(one) for one in proposed.replace(" or ", ", ").split(", "))


def test_name_like_nothing_gets_no_proposal(swin: Command) -> None:
    assert not difflib.get_close_matches("resnet50", VARIANTS)
    outcome = swin("export", "--model", "resnet50")
    outcome.assert_error("unknown model resnet50; 'swin-deploy models' lists all of them")


def test_short_name_is_said_and_files_have_the_variants(swin: Command) -> None:
    outcome = swin("export", "--model", "digits").assert_done()
    assert "  digits: notebook-digits\n" in outcome.err
    assert outcome.out.startswith("engines/notebook-digits-fp32-opset17.onnx: ")
    assert "digits: notebook" not in swin("export", "-q", "--model", "digits").err
    assert "digits: notebook" not in swin("export", "--model", "digits", "-q").err


def test_predict_takes_names_and_proposes_them(swin: Command) -> None:
    swin("predict", "swin_tin", "x.png").assert_error("did you mean the model swin_tiny")
    swin("predict", "swin_t", "x.png").assert_error("image x.png does not exist")
    swin("predict", "", "x.png").assert_error("image x.png does not exist")


@pytest.mark.parametrize(
    ("words", "begun", "expected"),
    [
        (["export", "--model"], "swinv2_t", {"swinv2_tiny", "swinv2_tiny_window8_256"}),
        (["predict"], "notebook-d", {"notebook-digits"}),
        ([], "bui", {"build-trt"}),
        (["build-trt"], "--com", {"--compute-capability"}),
        (["build-trt", "--flavor"], "tensorrt-", {"tensorrt-rtx"}),
    ],
)
def test_shell_completes_commands_options_and_models(
    words: list[str], begun: str, expected: set[str]
) -> None:
    complete = ShellComplete(cli, {}, "swin-deploy", "_SWIN_DEPLOY_COMPLETE")
    assert {one.value for one in complete.get_completions(words, begun)} >= expected


@pytest.mark.parametrize(
    ("words", "kind"), [(["export", "--checkpoint"], "file"), (["predict"], "file")]
)
def test_shell_completes_files(words: list[str], kind: str) -> None:
    complete = ShellComplete(cli, {}, "swin-deploy", "_SWIN_DEPLOY_COMPLETE")
    assert kind in {one.type for one in complete.get_completions(words, "swin")}
