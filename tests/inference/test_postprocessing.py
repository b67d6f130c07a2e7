from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from s2vnet.inference.postprocessing import find_detached_parts, most_probable_class, remove_detached_parts
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.geometry import Volume
from s2vnet.prompts import Point

Labels = npt.NDArray[np.uint8]


@pytest.fixture
def winner() -> Labels:
    """Class 1: 48, 12 and 4 cells, the last two slices away; class 2: one part that touches another by a corner."""
    found = np.zeros((6, 12, 12), np.uint8)
    found[0:3, 0:4, 0:4] = 1
    found[0:3, 8:10, 0:2] = 1
    found[5, 0:2, 0:2] = 1
    found[0, 4:6, 8:10], found[1, 6, 10] = 2, 2
    return found


def _scores(winner: Labels) -> Tensor:
    """Probabilities whose most probable class it is, and class 2 the next."""
    scores = torch.nn.functional.one_hot(torch.from_numpy(winner).long(), 4).movedim(-1, 1) * 0.6
    scores[:, 2] += 0.3
    return (scores / scores.sum(1, keepdim=True)).half()


@pytest.mark.parametrize(("share", "left"), [(0, 3), (0.08, 3), (0.09, 2), (0.25, 2), (0.26, 1), (1, 1)])
def test_parts_below_the_share_of_the_largest_are_strays(winner: Labels, share: float, left: int) -> None:
    strays = find_detached_parts(winner, share)
    assert ((strays == 0) | (strays == winner)).all()
    sizes = [48, 12, 4]
    assert np.count_nonzero((winner == 1) & (strays == 0)) == sum(sizes[:left])
    assert not (strays == 2).any()


def test_a_part_that_a_user_has_named_is_none(winner: Labels) -> None:
    for cell, left in (([5, 1, 1], 52), ([1, 9, 0], 60), ([4, 1, 1], 48), ([-1, 20, 0], 48)):
        strays = find_detached_parts(winner, 1, {1: np.array([cell]), 2: np.array([[5, 1, 1]])})
        assert np.count_nonzero((winner == 1) & (strays == 0)) == left


def test_strays_become_background_and_nothing_else_changes(winner: Labels) -> None:
    scores = _scores(winner)
    tidy = remove_detached_parts(scores, 0.5)
    strays = find_detached_parts(winner, 0.5)
    assert np.array_equal(most_probable_class(tidy), np.where(strays > 0, 0, winner))
    torch.testing.assert_close(tidy.float().sum(1), torch.ones(winner.shape), atol=2e-3, rtol=0)
    kept = torch.from_numpy((winner == 1) & (strays == 0))
    assert torch.equal(tidy[:, 1][kept], scores[:, 1][kept])
    assert torch.equal(tidy[3:5], scores[3:5])
    assert remove_detached_parts(scores, 0) is scores
    assert torch.equal(remove_detached_parts(tidy, 0.5), tidy)


def test_a_class_beside_a_stray_keeps_its_cells_and_a_sure_stray_leaves_no_hole() -> None:
    winner = np.zeros((1, 8, 8), np.uint8)
    winner[0, :4, :4], winner[0, 6:, 6:], winner[0, 4:6, 6:] = 1, 1, 2
    scores = torch.nn.functional.one_hot(torch.from_numpy(winner).long(), 3).movedim(-1, 1).half()
    tidy = remove_detached_parts(scores, 0.5)
    assert np.array_equal(most_probable_class(tidy), np.where(find_detached_parts(winner, 0.5) > 0, 0, winner))
    assert torch.equal(tidy.float().sum(1), torch.ones(1, 8, 8))


def test_automatic_and_interactive_leave_out_the_same_parts(segmenter: Segmenter, bordered: Volume) -> None:
    plain = segmenter.segment(bordered).labels().data
    segmenter.plan = segmenter.plan.model_copy(update={"smallest_part": 0.5})
    labels = segmenter.segment(bordered).labels().data
    session = Session(segmenter, bordered)
    assert np.array_equal(session.labels, labels)
    gone = np.argwhere((plain == 1) & (labels != 1))
    assert len(gone)
    i, j, k = (int(n) for n in gone[0])
    session.add(Point(class_id=1, voxel=(i, j, k)))
    assert session.labels[i, j, k] == 1
    session.undo()
    assert np.array_equal(session.labels, labels)
