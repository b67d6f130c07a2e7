"""The corrector's shapes, what it looks at, and its weights."""

from __future__ import annotations

import torch

from s2vnet.model.corrector import CELL_MAPS, PIXEL_MAPS, Corrector


def inputs(batch: int = 1, depth: int = 6, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn((batch, depth, len(PIXEL_MAPS), size, size), generator=generator)
    return pixels, torch.randn((batch, depth, len(CELL_MAPS), size // 2, size // 2), generator=generator)


def random_corrector() -> Corrector:
    torch.manual_seed(0)
    corrector = Corrector((8, 12, 16)).eval()
    torch.nn.init.normal_(corrector.head.weight, std=0.1)
    return corrector


def test_an_untrained_corrector_changes_nothing() -> None:
    with torch.no_grad():
        logits = Corrector((8, 12, 16))(*inputs())
    assert tuple(logits.shape) == (1, 6, 16, 16)
    assert (logits == -2).all()


def test_windows_of_a_batch_do_not_see_each_other() -> None:
    corrector, (pixels, cells) = random_corrector(), inputs(batch=2)
    with torch.no_grad():
        both = corrector(pixels, cells)
        for n in range(2):
            torch.testing.assert_close(corrector(pixels[n : n + 1], cells[n : n + 1])[0], both[n], atol=1e-5, rtol=1e-5)


def test_slices_see_their_neighbours() -> None:
    corrector, (pixels, cells) = random_corrector(), inputs()
    changed = pixels.clone()
    changed[:, 2] += 1
    with torch.no_grad():
        differs = (corrector(pixels, cells) != corrector(changed, cells)).flatten(2).any(2)[0]
    assert differs[1:4].all()


def test_stored_weights_give_the_same_network() -> None:
    corrector = random_corrector()
    again = Corrector.from_state_dict({name: tensor.clone() for name, tensor in corrector.state_dict().items()})
    with torch.no_grad():
        torch.testing.assert_close(again(*inputs()), corrector(*inputs()))


def test_the_package_s_corrector_loads() -> None:
    corrector = Corrector.bundled()
    assert not corrector.training
    with torch.inference_mode():
        assert corrector(*inputs()).isfinite().all()
