"""Padded models: parity accepts them, rejects wrong readings of pads, and says where faults are."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch
from conftest import seeded_images as tensors
from fault_parts import AbsentPartError, blocks, mlp_layers
from pad_faults import PAD_FAULTS, SUBJECTS, padded_model

from exporters.errors import ComparisonError
from swin_deploy.config.windows import PAD
from swin_deploy.deploy.fold import fold
from swin_deploy.deploy.model import DeployModel
from swin_deploy.images.sets import seeded_images
from swin_deploy.parity import ParityReport
from swin_deploy.parity.points import batch_first, compare_points, in_candidate_order, token_orders
from swin_deploy.parity.reference_run import ReferenceOutputs
from swin_deploy.parity.run import check_parity, reference_outputs
from swin_deploy.runners.intermediates import TappedModule, tappable_module

every_model = pytest.mark.parametrize("name", SUBJECTS)


@functools.cache
def outputs(name: str) -> ReferenceOutputs:
    loaded = padded_model(name)
    return reference_outputs(
        loaded, (seeded_images(loaded.config, count=3, seed=0),), precisions=("fp32",)
    )


def judged(name: str, model: DeployModel) -> ParityReport:
    return check_parity(padded_model(name), outputs(name), model, batches=(1, 3))


def test_models_have_pads_in_both_forms() -> None:
    forms = {
        name: {one.carries_pads for one in padded_model(name).config.stages if one.has_pads}
        for name in SUBJECTS
    }
    assert all(True in forms[name] for name in ("carried V1", "carried V2"))
    assert forms["put in V1"] == forms["put in V2"] == forms["timm's order"] == {False}
    assert all(padded_model(name).config.stages[0].resolution.rows % 2 for name in SUBJECTS)


@every_model
def test_parity_accepts_a_padded_model(name: str) -> None:
    hop = judged(name, fold(padded_model(name).reference)).hops[0]
    assert hop.passed, hop.worst


@every_model
@pytest.mark.parametrize("fault", PAD_FAULTS)
@torch.no_grad()
def test_parity_rejects_a_wrong_reading_of_pads(fault: str, name: str) -> None:
    try:
        wrong = PAD_FAULTS[fault](padded_model(name))
    except AbsentPartError as err:
        pytest.skip(str(err))
    report = judged(name, wrong)
    assert not report.passed
    assert report.hops[0].located


@every_model
@pytest.mark.parametrize("stage", [1, 2, 3])
@torch.no_grad()
def test_fault_in_a_stage_of_a_padded_model_is_found_at_its_block(name: str, stage: int) -> None:
    model = fold(padded_model(name).reference)
    mlp_layers(blocks(model)[2 * stage - 1])[1].bias.zero_()
    located = judged(name, model).hops[0].located
    assert f"first wrong: layers.{3 * stage - 2} (stage {stage}, block 2)" in located


@every_model
def test_orders_bring_the_tokens_of_a_padded_model_to_the_deploy_model(name: str) -> None:
    loaded = padded_model(name)
    deploy, points = fold(loaded.reference), compare_points(loaded.reference)
    orders = token_orders(points, tappable_module(deploy, "fp32"), loaded.config)
    images = tensors(loaded.config)
    with torch.inference_mode():
        ours = TappedModule(deploy, tuple(point.candidate for point in points))(images)
        theirs = TappedModule(loaded.reference, tuple(point.reference for point in points))(images)
    for point, order, actual, tokens in zip(points, orders, ours[1:], theirs[1:], strict=True):
        if order is None:
            continue
        expected = in_candidate_order(tokens.numpy(), order)
        found = batch_first(actual.numpy(), 2, order)
        real = order[order != PAD]
        assert sorted(real) == list(range(tokens[0].numel() // tokens.shape[-1]))
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3, err_msg=str(point))
        assert not np.allclose(found, expected[:, ::-1], atol=0.1), point


def test_merge_of_another_number_of_tokens_is_an_error() -> None:
    loaded = padded_model("put in V1")
    points = compare_points(loaded.reference)
    candidate = tappable_module(fold(loaded.reference), "fp32")
    name = "layers.2.reorder_before"
    cut = {**candidate.reorders, name: candidate.reorders[name][:-4]}
    candidate = dataclasses.replace(candidate, reorders=cut)
    with pytest.raises(ComparisonError, match=r"a merge after stage 1 takes \d+ tokens, not"):
        token_orders(points, candidate, loaded.config)
