"""Several models, of which each image gets the one for its modality; models of one plan are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from s2vnet.data.modality import modality_conflict, model_modality
from s2vnet.data.plan import Plan
from s2vnet.errors import CheckpointError, InputError
from s2vnet.inference.segmenter import Segmenter, load_plan
from s2vnet.io.geometry import Volume
from s2vnet.io.lazy_image import LazyImage
from s2vnet.utils.names import some_names

HINT = "choose another model (s2vnet models), or give --any-modality"


def group_models(names: Sequence[str | Path]) -> list[tuple[Plan, tuple[str | Path, ...]]]:
    """Group models by plan, without loading their weights.

    Raises:
        CheckpointError: an unknown or damaged model, or different plans for the same modality or numbers of channels.
    """
    groups: list[tuple[Plan, list[str | Path]]] = []
    for name in names:
        plan = load_plan(name)
        same = next((members for known, members in groups if known == plan), None)
        if same is None:
            groups.append((plan, [name]))
        else:
            same.append(name)
    modalities = [model_modality(plan.channels) for plan, _ in groups]
    if len(groups) > 1 and (None in modalities or len(set(modalities)) < len(groups)):
        raise CheckpointError(
            "the models were trained with different plans and are not of one modality each; name models of one plan, "
            "or one for CT and one for MR"
        )
    if len({len(plan.channels) for plan, _ in groups}) > 1:
        raise CheckpointError("the models were trained with different plans and numbers of channels; name one of them")
    return [(plan, tuple(members)) for plan, members in groups]


def choose_plan(plans: Sequence[Plan], image: Volume | LazyImage, path: Path) -> int:
    """Index of the first plan whose modality the image does not contradict.

    Args:
        plans: plans of the models.
        image: the image.
        path: its file, for messages.

    Raises:
        InputError: the image contradicts all of them.
    """
    expected = [model_modality(plan.channels) for plan in plans]
    conflicts = [modality_conflict(modality, image) for modality in expected]
    fitting = next((number for number, conflict in enumerate(conflicts) if conflict is None), None)
    if fitting is None:
        raise InputError(f"{path}: {'; '.join(dict.fromkeys(filter(None, conflicts)))}; {HINT}")
    return fitting


class ModelSet:
    """Segmenters of several plans."""

    def __init__(
        self, segmenters: Sequence[Segmenter], names: Sequence[str] = ("",), any_modality: bool = False
    ) -> None:
        """Keep segmenters for different modalities.

        Args:
            segmenters: one for each plan.
            names: their names for notes.
            any_modality: whether a single segmenter takes images that contradict its modality.
        """
        self.segmenters, self._any_modality = tuple(segmenters), any_modality
        self._names = names

    @classmethod
    def from_pretrained(
        cls, *names: str | Path, device: str = "auto", runtime: str = "auto", any_modality: bool = False
    ) -> ModelSet:
        """Load models as :meth:`Segmenter.from_pretrained`. Raises as that and :func:`group_models`."""
        groups = group_models(names)
        loaded = [Segmenter.from_pretrained(*members, device=device, runtime=runtime) for _, members in groups]
        return cls(loaded, [str(members[0]) for _, members in groups], any_modality)

    @property
    def only(self) -> Segmenter:
        """The only segmenter. Raises InputError where there are several."""
        if len(self.segmenters) > 1:
            raise InputError(f"this needs one model, not several ({some_names(self._names)})")
        return self.segmenters[0]

    @property
    def channels(self) -> int:
        """Number of image channels."""
        return len(self.segmenters[0].plan.channels)

    def choose(self, image: Volume | LazyImage, path: Path) -> tuple[Segmenter, str | None]:
        """Segmenter for an image, and a note where there are several. Raises InputError as :func:`choose_plan`."""
        if self._any_modality and len(self.segmenters) == 1:
            return self.segmenters[0], None
        number = choose_plan([segmenter.plan for segmenter in self.segmenters], image, path)
        chosen = f"segmented by {self._names[number]}" if len(self.segmenters) > 1 else None
        return self.segmenters[number], chosen
