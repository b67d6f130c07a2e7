from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from s2vnet.model.clustering import ClusteringLayer, argmax_class, assign, sine_position_encoding

K, D = 3, 16


@pytest.fixture(params=["hard", "soft"])
def layer(request: pytest.FixtureRequest) -> ClusteringLayer:
    torch.manual_seed(0)
    return ClusteringLayer(channels=8, dim=D, heads=2, assignment=request.param).eval()


@pytest.fixture
def inputs() -> dict[str, Any]:
    """Two slices of 4 x 5 cells."""
    torch.manual_seed(1)
    return {
        "centres": torch.randn(2, K, D),
        "identity": torch.randn(K, D),
        "features": (F.normalize(torch.randn(2, D, 4, 5), dim=1), torch.randn(2, D, 4, 5)),
        "prior": torch.zeros(2, K, 4, 5),
    }


def test_hard_assignment_is_one_hot_at_the_largest_affinity() -> None:
    affinity = torch.randn(2, 6, 20)
    chosen = assign(affinity, "hard")
    assert torch.equal(chosen.sum(1), torch.ones(2, 20))
    assert set(chosen.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(chosen.argmax(1), affinity.argmax(1))


def test_a_tie_is_assigned_to_one_centre_only() -> None:
    assert torch.equal(assign(torch.zeros(1, 4, 3), "hard").sum(1), torch.ones(1, 3))


def test_soft_assignment_sums_to_one_and_has_a_gradient() -> None:
    affinity = torch.randn(2, 6, 20, requires_grad=True)
    chosen = assign(affinity, "soft")
    torch.testing.assert_close(chosen.sum(1), torch.ones(2, 20))
    chosen[:, 0].sum().backward()
    assert affinity.grad is not None
    assert affinity.grad.abs().sum() > 0


def test_positions_are_relative_to_the_middle_of_the_map() -> None:
    small = sine_position_encoding(4, 6, D, torch.device("cpu")).reshape(4, 6, D)
    large = sine_position_encoding(10, 8, D, torch.device("cpu")).reshape(10, 8, D)
    torch.testing.assert_close(large[3:7, 1:7], small)
    assert len(small.flatten(0, 1).unique(dim=0)) == 24


def test_a_prior_raises_the_affinity_to_its_class(layer: ClusteringLayer, inputs: dict[str, Any]) -> None:
    _, before = layer(**inputs)
    prior = torch.zeros(2, K, 4, 5)
    prior[1, 2, 0, 0] = 1
    _, after = layer(**dict(inputs, prior=prior))
    difference = after - before
    torch.testing.assert_close(difference[1, 2, 0, 0], layer.prior_weight.detach())
    assert int((difference.abs() > 1e-5).sum()) == 1


def test_centres_without_pixels_stay_finite(layer: ClusteringLayer, inputs: dict[str, Any]) -> None:
    prior = torch.zeros(2, K, 4, 5)
    prior[:, 0] = 1e6
    centres, affinity = layer(**dict(inputs, prior=prior, features=layer.keys_and_values(torch.randn(2, 8, 4, 5))))
    (centres.sum() + affinity.mean()).backward()
    assert centres.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in layer.parameters())


def test_the_mean_does_not_depend_on_how_often_pixels_repeat(inputs: dict[str, Any]) -> None:
    layer = ClusteringLayer(8, D, 2, "soft").eval()
    torch.nn.init.zeros_(layer.place.weight)  # place aside, a map tiled n times holds n times the same pixels
    pixels, found = torch.randn(2, 8, 4, 5), []
    for n in (20, 40):
        prior = inputs["prior"].repeat(1, 1, n, n)
        features = layer.keys_and_values(pixels.repeat(1, 1, n, n))
        found.append(layer(**(inputs | {"prior": prior, "features": features}))[0])
    torch.testing.assert_close(*found, atol=1e-2, rtol=0)


def test_keys_have_unit_length_per_pixel(layer: ClusteringLayer) -> None:
    keys, values = layer.keys_and_values(torch.randn(2, 8, 4, 5))
    assert keys.shape == values.shape == (2, D, 4, 5)
    torch.testing.assert_close(keys.norm(dim=1), torch.ones(2, 4, 5))


def test_argmax_class_takes_the_first_of_equal_maxima() -> None:
    scores = torch.tensor([[1.0, 5.0, 2.0], [3.0, 5.0, 2.0], [2.0, 4.0, 2.0]])[None]
    assert argmax_class(scores).tolist() == [[1, 0, 0]]
    noise = torch.randn(2, 6, 5, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(argmax_class(noise), noise.argmax(1))
