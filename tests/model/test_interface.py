from __future__ import annotations

import torch

from s2vnet.model.aggregation import PropagationState
from s2vnet.model.interface import DecoderOutput


def test_split_inverts_concatenate() -> None:
    shapes = [(3, 8), (3,), (3,), (3, 4, 5), ()]
    state = PropagationState(*(torch.randn(2, *shape) for shape in shapes))
    whole = DecoderOutput(torch.randn(2, 3, 4, 5), torch.randn(2, 3), (), state)
    again = DecoderOutput.concatenate(whole.split())
    assert len(whole.split()) == 2
    assert torch.equal(again.logits, whole.logits)
    assert torch.equal(again.presence, whole.presence)
    assert all(torch.equal(a, b) for a, b in zip(again.state, whole.state, strict=True))
