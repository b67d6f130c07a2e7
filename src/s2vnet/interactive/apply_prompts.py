"""What prompts give on one encoded volume: the network's answer, then the prompted voxels themselves, then locks.

A pure function of the image, the prompts and the locked voxels. Prompts come in voxels of the file and are brought to
the network's grid here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from s2vnet.data.slice_grid import SliceGrid
from s2vnet.inference.encoded_volume import EncodedVolume, Sweep, SweepCallback, average_sweeps
from s2vnet.inference.postprocessing import Cells, find_detached_parts, most_probable_class, suppress_detached_parts
from s2vnet.inference.segmenter import Segmentation, Segmenter
from s2vnet.interactive.live_updates import LiveUpdates, SliceCallback
from s2vnet.interactive.voxelize import is_box, prompt_cells, prompt_voxels
from s2vnet.model.prompt_encoder import GridPrompt, PromptMaps
from s2vnet.prompts import Box, Point, Prompt, Scribble

Labels = npt.NDArray[np.uint8]
Voxels = npt.NDArray[np.intp]
Prompts = tuple[Prompt, ...]
LockedMasks = Mapping[int, npt.NDArray[np.bool_]]
"""Voxels (I, J, K) of each locked class."""
StepCallback = Callable[[], None]
"""Called after each step of the network; may raise to end the work."""
_NOWHERE: Voxels = np.empty(0, np.intp)


class PromptResult(NamedTuple):
    """What prompts give."""

    labels: Labels
    """Class (I, J, K) of each voxel of the file."""
    segmentation: Segmentation
    """What the network says, before prompted voxels and locks have their way."""
    sweeps: tuple[Sweep, Sweep]
    """By which a later answer tells what it changes."""


class PromptApplier:
    """An encoded volume, ready to answer."""

    def __init__(self, segmenter: Segmenter, grid: SliceGrid, engine: EncodedVolume) -> None:
        self.segmenter, self.engine = segmenter, engine
        self._grid = grid
        scores, share = average_sweeps(engine.automatic, 0, engine.depth).half(), segmenter.plan.smallest_part
        self._winner = most_probable_class(scores) if share else None
        self._strays = None if self._winner is None else find_detached_parts(self._winner, share, {})
        self._scores = scores
        if self._winner is not None and self._strays is not None:
            self._scores = suppress_detached_parts(scores, self._winner, self._strays)
        self._labels: Labels = self._segmentation((), self._drawing(()))[0].labels().data  # type: ignore[assignment]

    @property
    def nbytes(self) -> int:
        """Memory in bytes that it takes up, without what prompts have decoded."""
        arrays = (self._scores, self._labels, self._winner, self._strays)
        return self.engine.nbytes + sum(array.nbytes for array in arrays if array is not None)

    def prompted_nbytes(self, answer: PromptResult | None) -> int:
        """Memory in bytes of what prompts have decoded, an answer that is shown among it, without its labels."""
        if answer is None:
            return self.engine.prompted_nbytes()
        kept = answer.segmentation.kept
        own = kept.patch.nbytes if isinstance(kept, _Patched) else 0
        return self.engine.prompted_nbytes(answer.sweeps) + own

    def apply(
        self,
        prompts: Prompts,
        frozen: LockedMasks,
        watch: SliceCallback | None = None,
        shown: tuple[Sweep, Sweep] | None = None,
        pause: StepCallback | None = None,
    ) -> PromptResult:
        """Labels that prompts give.

        Args:
            prompts: in the order they were given.
            frozen: what stays as it is.
            watch: told of slices as they are done, but for those that `shown` has too.
            shown: sweeps of the answer that the user sees now.
            pause: for whoever may want to end the work, also where there is nothing to tell.
        """
        strokes = [s for s in map(self._stroke, prompts) if s is not None]
        drawing = self._drawing(strokes)
        stream = None if watch is None else LiveUpdates(self._grid, watch, prompts, frozen, shown)
        if stream and stream.newest in drawing:
            seen = self.engine.preview_slice(stream.newest, drawing[stream.newest], shown)
            if pause is not None:
                pause()
            stream.tell(stream.newest, seen)
        swept = _paused(stream.swept if stream else None, pause)
        segmentation, (start, stop), sweeps = self._segmentation(strokes, drawing, swept)
        start, stop = self._grid.affected_slices(start, stop)
        labels: Labels = self._labels.copy()
        if prompts and stop > start:
            block, values = self._grid.slices_to_file(segmentation.label_slices(start, stop), start)
            labels[block] = values
        flat = labels.reshape(-1)
        denied: dict[int, Voxels] = {}
        named: dict[int, Voxels] = {}
        boxes: list[Box] = []
        for prompt in prompts:
            own = prompt.class_id
            if is_box(prompt):
                boxes.append(prompt)
                where = np.setdiff1d(np.flatnonzero(flat == own), named.get(own, _NOWHERE))
                self._relabel(flat, where[self._beyond(prompt, self._ijk(where))], segmentation, denied, boxes, [own])
                continue
            where = np.ravel_multi_index(tuple(prompt_voxels(prompt).T), labels.shape)
            before = denied.get(own, _NOWHERE)
            if prompt.positive:
                denied[own] = np.setdiff1d(before, where)
                named[own] = np.union1d(named.get(own, _NOWHERE), where)
                flat[where] = own
            else:
                denied[own] = np.union1d(before, where)
                self._relabel(flat, where[flat[where] == own], segmentation, denied, boxes, [own])
        for class_id, mask in frozen.items():
            labels[mask] = class_id
        if frozen:
            excess = np.isin(labels, list(frozen)) & ~np.any(list(frozen.values()), axis=0)
            self._relabel(flat, np.flatnonzero(excess), segmentation, denied, boxes, frozen)
        return PromptResult(labels, segmentation, sweeps)

    def _ijk(self, flat: Voxels) -> Voxels:
        """Voxels (N, 3) of flat indices (N,)."""
        return np.stack(np.unravel_index(flat, self._grid.geometry.shape), 1)

    def _beyond(self, box: Box, voxels: Voxels) -> npt.NDArray[np.bool_]:
        """Which voxels (N, 3) lie outside a box on the slices that it spans."""
        inside = (voxels >= np.array(box.start)) & (voxels < np.array(box.stop))
        axis = self._grid.orientation.axes[self._grid.axis]
        beyond: npt.NDArray[np.bool_] = inside[:, axis] & ~inside.all(1)
        return beyond

    def _relabel(
        self,
        flat: Labels,
        where: Voxels,
        segmentation: Segmentation,
        denied: Mapping[int, Voxels],
        boxes: Sequence[Box],
        never: Iterable[int],
    ) -> None:
        """Give voxels (flat indices) the most probable class but `never`, and none denied them if there is another.

        Voxels outside the crop ask its nearest voxel.
        """
        grid = self._grid
        voxels = self._ijk(where)
        places = np.clip(grid.voxels_to_crop(voxels), 0, np.array(grid.size) - 1)
        for d in np.unique(places[:, 0]).tolist():
            here = places[:, 0] == d
            rows, columns = places[here, 1], places[here, 2]
            scores = next(segmentation.source(d, d + 1))[0].cpu().numpy()[:, rows, columns]
            for class_id, voxels_denied in denied.items():
                scores[class_id, np.isin(where[here], voxels_denied)] -= 2
            for box in boxes:
                scores[box.class_id, self._beyond(box, voxels[here])] -= 2
            scores[list(never)] -= 4
            flat[where[here]] = scores.argmax(0)

    def _segmentation(
        self, strokes: Sequence[GridPrompt], drawing: PromptMaps, watch: SweepCallback | None = None
    ) -> tuple[Segmentation, tuple[int, int], tuple[Sweep, Sweep]]:
        """The network's answer to prompts, which of its slices may differ from the automatic ones, and its sweeps."""
        sweeps = self.engine.sweep(drawing, watch)
        spans = [s.changed for s in sweeps if drawing]
        start, stop = (min(s.start for s in spans), max(s.stop for s in spans)) if spans else (0, 0)
        changed = average_sweeps(sweeps, start, stop).half() if stop > start else self._scores[:0]
        if strokes and self._winner is not None and self._strays is not None:
            winner = self._winner.copy()
            winner[start:stop] = most_probable_class(changed)
            strays = self._strays_of(winner, _named(strokes))
            start, stop = self._reached(strays, start, stop)
            if stop - start > len(changed):
                changed = average_sweeps(sweeps, start, stop).half()
            changed = suppress_detached_parts(changed, winner[start:stop], strays[start:stop])
        scores = _Patched(self._scores, start, changed) if stop > start else self._scores
        return Segmentation(self._grid, scores, self.segmenter.class_names), (start, stop), sweeps

    def _strays_of(self, winner: npt.NDArray[np.uint8], named: Mapping[int, Cells]) -> npt.NDArray[np.uint8]:
        """Strays under prompts; those of classes that are as without prompts are known."""
        assert self._winner is not None
        assert self._strays is not None
        other = winner != self._winner
        affected_slices = (
            set(np.unique(winner[other]).tolist()) | set(np.unique(self._winner[other]).tolist()) | set(named)
        )
        known = np.arange(256, dtype=np.uint8)
        known[list(affected_slices)] = 0
        strays = find_detached_parts(winner, self.segmenter.plan.smallest_part, named, affected_slices)
        return np.maximum(strays, known[self._strays])

    def _reached(self, strays: npt.NDArray[np.uint8], start: int, stop: int) -> tuple[int, int]:
        """Slices start..stop and those whose strays are others than without prompts.

        For a prompt can make a part far away the largest of its class, or no longer that.
        """
        others = np.flatnonzero((strays != self._strays).any((1, 2))).tolist()
        ends = [*others[:1], *others[-1:], *([start, stop - 1] if stop > start else [])]
        return (min(ends), max(ends) + 1) if ends else (0, 0)

    def _drawing(self, strokes: Sequence[GridPrompt]) -> PromptMaps:
        engine = self.engine
        reach = engine.model.config.prompt_reach
        return PromptMaps(strokes, engine.depth, len(self.segmenter.class_names), engine.size, reach)

    def _stroke(self, prompt: Prompt) -> GridPrompt | None:
        """The prompt's cells on the mask grid; None when it lies wholly outside the crop."""
        cells = prompt_cells(self._grid, prompt, self.segmenter.plan.stem_stride)
        if not len(cells):
            return None
        if self._grid.slab_size > 1:
            cells[:, 0] = cells[:, 0].round()
        if is_box(prompt):  # drawn where it is tightest, if anywhere; elsewhere it only says where the class is not
            cells[:, 0] = cells[:, 0].mean().round()
        elif not isinstance(prompt, Point):
            cells = np.rint(cells)
        inside = (cells > -0.5).all(1) & (cells < np.array([self.engine.depth, *self.engine.size]) - 0.5).all(1)
        cells = cells[inside]
        if not len(cells):
            return None
        if not isinstance(prompt, Point) and not is_box(prompt):  # each cell once; by its index, as rows sort slowly
            grid = (self.engine.depth, *self.engine.size)
            flat = np.unique(np.ravel_multi_index(tuple(cells.astype(np.intp).T), grid))
            cells = np.stack(np.unravel_index(flat, grid), 1)
        kind = "box" if is_box(prompt) else "point" if isinstance(prompt, Point | Scribble) else "region"
        tensor = torch.from_numpy(cells).float()
        return GridPrompt(prompt.class_id, prompt.positive, tensor, kind)  # type: ignore[arg-type]


class _Patched:
    """Probabilities (D, K, h, w) of which some slices, from `start` on, are others."""

    def __init__(self, base: Tensor, start: int, patch: Tensor) -> None:
        self._base, self._start, self.patch = base, start, patch

    def __len__(self) -> int:
        return len(self._base)

    def __getitem__(self, index: slice, /) -> Tensor:
        first, last, _ = index.indices(len(self))
        low = min(max(first, self._start), last)
        high = max(min(last, self._start + len(self.patch)), low)
        inside = self.patch[low - self._start : high - self._start] if high > low else self.patch[:0]
        return torch.cat([self._base[first:low], inside, self._base[high:last]])


def _paused(watch: SweepCallback | None, pause: StepCallback | None) -> SweepCallback | None:
    """A watch with a pause before it."""
    if pause is None:
        return watch

    def see(sweeps: tuple[Sweep, Sweep], passed: range) -> None:
        pause()
        if watch is not None:
            watch(sweeps, passed)

    return see


def _named(strokes: Sequence[GridPrompt]) -> dict[int, Cells]:
    """Cells of the mask grid that belong to a class because a user says so; a box's corners do not."""
    named: dict[int, list[Cells]] = {}
    for s in strokes:
        if s.positive and s.kind != "box":
            named.setdefault(s.class_id, []).append(np.rint(s.cells.numpy()).astype(np.intp))
    return {class_id: np.concatenate(cells) for class_id, cells in named.items()}
