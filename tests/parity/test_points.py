import dataclasses
import re
from typing import get_args

import numpy as np
import pytest
import torch
from families import CONFIGS, loaded

from exporters.errors import ComparisonError
from exporters.spec import Runtime
from swin_deploy.deploy.fold import fold
from swin_deploy.parity.points import batch_first, compare_points, in_candidate_order, token_orders
from swin_deploy.runners.intermediates import TappedModule, tappable_module

every_family = pytest.mark.parametrize("family", CONFIGS)


@pytest.mark.parametrize("runtime", get_args(Runtime))
@every_family
def test_token_orders_bring_the_reference_to_the_deploy_model(
    family: str, runtime: Runtime
) -> None:
    """With another order than the right one the tokens are far apart."""
    model = loaded(family)
    deploy = fold(model.reference, runtime)
    points = compare_points(model.reference)
    orders = token_orders(points, tappable_module(deploy, "fp32", runtime=runtime), model.config)
    images = torch.randn(2, 3, *model.config.image)
    with torch.inference_mode():
        ours = TappedModule(deploy, tuple(point.candidate for point in points))(images)
        theirs = TappedModule(model.reference, tuple(point.reference for point in points))(images)
    for point, order, actual, tokens in zip(points, orders, ours[1:], theirs[1:], strict=True):
        expected = in_candidate_order(tokens.numpy(), order)
        if order is None:
            found = actual.numpy()
        else:
            found = batch_first(actual.numpy(), 2, runtime=runtime)
            assert sorted(order) == list(range(len(order)))
            assert not np.allclose(found, expected[:, ::-1], atol=0.1), point
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@every_family
def test_stream_points_without_a_head_end_with_tokens(family: str) -> None:
    config = dataclasses.replace(CONFIGS[family], output="tokens")
    reference = type(loaded(family).reference)(config)
    assert [point.place.part for point in compare_points(reference)] == [
        "embed", "block", "block", "merge", "block", "block",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        pytest.param([0, 1], "a merge after stage 1 takes 2 tokens, not 196", id="short"),
        pytest.param([*range(196), 0], "a merge after stage 1 takes 197 tokens", id="long"),
        pytest.param([-1] * 196, "layers.1.reorder_before does not fit 196 tokens", id="low"),
        pytest.param([196] * 196, "layers.1.reorder_before does not fit 196 tokens", id="high"),
    ],
)
def test_token_orders_of_a_gather_that_does_not_fit_is_an_error(
    broken: list[int], message: str
) -> None:
    model = loaded("swin")
    candidate = tappable_module(fold(model.reference), "fp32")
    candidate = dataclasses.replace(
        candidate, reorders={"layers.1.reorder_before": np.array(broken)}
    )
    with pytest.raises(ComparisonError, match=f"^{re.escape(message)}.*; export it again$"):
        token_orders(compare_points(model.reference), candidate, model.config)


@pytest.mark.parametrize("shape", [(2, 196, 16), (196, 16), (196, 1, 16)])
def test_batch_first_of_tokens_in_another_layout_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ComparisonError, match=r"not \[tokens, 2, channels\]; export it again"):
        batch_first(np.zeros(shape, np.float32), 2)


@pytest.mark.parametrize("shape", [(196, 2, 16), (2, 16), (1, 196, 16)])
def test_batch_first_of_cpu_tokens_in_another_layout_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ComparisonError, match=r"not \[2, tokens, channels\]; export it again"):
        batch_first(np.zeros(shape, np.float32), 2, runtime="cpu")
