"""Sessions with each variant of the random model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from example_prompts import VARIANTS, Labels

from s2vnet.data.training_ranges import TrainingRanges
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.geometry import Volume
from s2vnet.prompts import Entry


@pytest.fixture(scope="module", params=VARIANTS)
def segmenter(request: pytest.FixtureRequest, model_folder: Path) -> Segmenter:
    """The random model, as it is, as if it had seen slices of 5 mm only, two of the image's, and less small parts."""
    found = Segmenter.from_pretrained(model_folder, device="cpu")
    if request.param == "slices joined":
        size = (1.0, 1.0, 5.0)
        found.plan = found.plan.model_copy(
            update={"seen": TrainingRanges(spacing=(size, size), size=(size, size), tissue=((0.0, 1.0),))}
        )
    if request.param == "small parts left out":
        found.plan = found.plan.model_copy(update={"smallest_part": 0.3})
    if request.param == "tried both ways":
        found.plan = found.plan.model_copy(update={"mirrored": "A"})
    return found


@pytest.fixture(scope="module")
def start(segmenter: Segmenter) -> Callable[[Volume], Session]:
    return lambda volume: Session(segmenter, volume)


@pytest.fixture
def session(start: Callable[[Volume], Session], bordered: Volume) -> Session:
    """Nothing prompted yet."""
    return start(bordered)


@pytest.fixture
def labels_of(start: Callable[[Volume], Session], bordered: Volume) -> Callable[..., Labels]:
    """``labels_of(*entries)``: labels of a new session that took them in one round."""

    def build(*entries: Entry) -> Labels:
        fresh = start(bordered)
        fresh.add(*entries)
        return fresh.labels

    return build
