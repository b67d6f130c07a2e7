"""The loss is lowest for the whole error and nothing else."""

from __future__ import annotations

import pytest
import torch

from s2vnet.training.correction_loss import correction_loss


def masks() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    required, wrong = torch.zeros((2, 1, 4, 16, 16)).unbind(0)
    required[:, 1:3, 4:10, 4:10] = 1
    wrong[:] = required
    wrong[:, 0, 12:, 12:] = 1
    return required, wrong, 1 - wrong


def loss_of(change: torch.Tensor) -> float:
    return float(correction_loss(20 * change - 10, *masks()))


def test_the_whole_error_costs_less_than_nothing_half_of_it_and_too_much() -> None:
    required, wrong, right = masks()
    half, spoiling = required.clone(), required + right * (torch.arange(16) < 4)
    half[:, 2] = 0
    best = loss_of(required)
    assert loss_of(wrong) < loss_of(torch.zeros_like(required))
    assert best < loss_of(half) < loss_of(torch.zeros_like(required))
    assert best < loss_of(spoiling) < loss_of(required + right)


@pytest.mark.parametrize("scale", [-50.0, 0.0, 50.0])
def test_gradients_are_finite_and_raise_the_error_s_logits(scale: float) -> None:
    logits = torch.full((1, 4, 16, 16), scale, requires_grad=True)
    required, wrong, right = masks()
    correction_loss(logits, required, wrong, right).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    if scale <= 0:
        assert (logits.grad[required > 0] < 0).all()


def test_windows_count_alike() -> None:
    required, wrong, right = masks()
    one, two = torch.zeros_like(required), 20 * required - 10
    both = correction_loss(torch.cat([one, two]), *(torch.cat([m, m]) for m in (required, wrong, right)))
    each = [correction_loss(logits, required, wrong, right) for logits in (one, two)]
    torch.testing.assert_close(both, torch.stack(each).mean())
