"""Labels of one encoded volume under prompts: those of the network, overridden by prompted and then locked voxels.

They are a pure function of the image, the prompts and the locked voxels. Prompts are in voxels of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from s2vnet.data.slice_grid import SliceGrid
from s2vnet.inference.encoded_volume import EncodedVolume
from s2vnet.inference.postprocessing import Cells, find_detached_parts, most_probable_class, suppress_detached_parts
from s2vnet.inference.segmentation import Segmentation
from s2vnet.inference.segmenter import Segmenter
from s2vnet.inference.sweep import Sweep, SweepCallback, average_sweeps
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
"""Called after each decoder step; may raise to stop."""
_NO_VOXELS: Voxels = np.empty(0, np.intp)
_DENIED_PENALTY, _EXCLUDED_PENALTY = 2, 4
"""Subtracted from a voxel's probabilities of classes that prompts deny there, and of classes excluded for it."""


class PromptResult(NamedTuple):
    """Result of applying prompts."""

    labels: Labels
    """Class (I, J, K) of each voxel of the file."""
    segmentation: Segmentation
    """The network's result, before prompted and locked voxels are set."""
    sweeps: tuple[Sweep, Sweep]
    """Both sweeps; live updates of a later result send only slices that differ from these."""


class PromptApplier:
    """Application of prompts to one encoded volume."""

    def __init__(self, segmenter: Segmenter, grid: SliceGrid, encoded: EncodedVolume) -> None:
        """Compute the automatic result.

        Args:
            segmenter: segmenter of one model.
            grid: grid of the volume's slices.
            encoded: encoded slices of the volume.
        """
        self.segmenter, self.encoded = segmenter, encoded
        self._grid = grid
        scores = average_sweeps(encoded.automatic, 0, encoded.depth).half()
        share = segmenter.plan.smallest_part
        self._cell_labels = most_probable_class(scores) if share else None
        self._detached = None if self._cell_labels is None else find_detached_parts(self._cell_labels, share, {})
        self._scores = scores
        if self._cell_labels is not None and self._detached is not None:
            self._scores = suppress_detached_parts(scores, self._cell_labels, self._detached)
        self._labels: Labels = self._segment((), self._drawing(()))[0].labels().data  # type: ignore[assignment]

    @property
    def nbytes(self) -> int:
        """Memory in bytes, without slices decoded under prompts."""
        arrays = (self._scores, self._labels, self._cell_labels, self._detached)
        return self.encoded.nbytes + sum(array.nbytes for array in arrays if array is not None)

    def prompted_nbytes(self, result: PromptResult | None) -> int:
        """Memory in bytes of slices decoded under prompts, those of a result included, without its labels."""
        if result is None:
            return self.encoded.prompted_nbytes()
        scores = result.segmentation.stored_scores
        patch = scores.patch.nbytes if isinstance(scores, _PatchedScores) else 0
        return self.encoded.prompted_nbytes(result.sweeps) + patch

    def apply(
        self,
        prompts: Prompts,
        locked: LockedMasks,
        on_slice: SliceCallback | None = None,
        previous: tuple[Sweep, Sweep] | None = None,
        on_step: StepCallback | None = None,
    ) -> PromptResult:
        """Compute the labels under prompts.

        Args:
            prompts: prompts in the order they were given.
            locked: voxels (I, J, K) of each class that must not change.
            on_slice: called with slices as they are done, except those that are the same in `previous`.
            previous: sweeps of the result that the user sees.
            on_step: called after each decoder step, also where there is no slice to send.
        """
        strokes = [s for s in map(self._stroke, prompts) if s is not None]
        drawing = self._drawing(strokes)
        updates = None if on_slice is None else LiveUpdates(self._grid, on_slice, prompts, locked, previous)
        if updates and updates.newest in drawing:
            preview = self.encoded.preview_slice(updates.newest, drawing[updates.newest], previous)
            if on_step is not None:
                on_step()
            updates.send(updates.newest, preview)
        on_sweep = _with_step(updates.on_sweep if updates else None, on_step)
        segmentation, (start, stop), sweeps = self._segment(strokes, drawing, on_sweep)
        start, stop = self._grid.affected_slices(start, stop)
        labels: Labels = self._labels.copy()
        if prompts and stop > start:
            block, values = self._grid.slices_to_file(segmentation.label_slices(start, stop), start)
            labels[block] = values
        self._set_voxels(labels, prompts, locked, segmentation)
        return PromptResult(labels, segmentation, sweeps)

    def _set_voxels(self, labels: Labels, prompts: Prompts, locked: LockedMasks, segmentation: Segmentation) -> None:
        """Set prompted voxels in the order of the prompts, then locked ones, in labels (I, J, K)."""
        flat = labels.reshape(-1)
        denied: dict[int, Voxels] = {}
        assigned: dict[int, Voxels] = {}
        boxes: list[Box] = []
        for prompt in prompts:
            class_id = prompt.class_id
            if is_box(prompt):
                boxes.append(prompt)
                voxels = np.setdiff1d(np.flatnonzero(flat == class_id), assigned.get(class_id, _NO_VOXELS))
                outside = voxels[self._outside_box(prompt, self._unravel(voxels))]
                self._relabel(flat, outside, segmentation, denied, boxes, [class_id])
                continue
            voxels = np.ravel_multi_index(tuple(prompt_voxels(prompt).T), labels.shape)
            before = denied.get(class_id, _NO_VOXELS)
            if prompt.positive:
                denied[class_id] = np.setdiff1d(before, voxels)
                assigned[class_id] = np.union1d(assigned.get(class_id, _NO_VOXELS), voxels)
                flat[voxels] = class_id
            else:
                denied[class_id] = np.union1d(before, voxels)
                self._relabel(flat, voxels[flat[voxels] == class_id], segmentation, denied, boxes, [class_id])
        for class_id, mask in locked.items():
            labels[mask] = class_id
        if locked:
            excess = np.isin(labels, list(locked)) & ~np.any(list(locked.values()), axis=0)
            self._relabel(flat, np.flatnonzero(excess), segmentation, denied, boxes, locked)

    def _unravel(self, flat: Voxels) -> Voxels:
        """Voxels (N, 3) of flat indices (N,)."""
        return np.stack(np.unravel_index(flat, self._grid.geometry.shape), 1)

    def _outside_box(self, box: Box, voxels: Voxels) -> npt.NDArray[np.bool_]:
        """Mask (N,) of the voxels (N, 3) that lie outside a box on the slices that it spans."""
        inside = (voxels >= np.array(box.start)) & (voxels < np.array(box.stop))
        axis = self._grid.orientation.axes[self._grid.axis]
        outside: npt.NDArray[np.bool_] = inside[:, axis] & ~inside.all(1)
        return outside

    def _relabel(
        self,
        flat: Labels,
        where: Voxels,
        segmentation: Segmentation,
        denied: Mapping[int, Voxels],
        boxes: Sequence[Box],
        excluded: Iterable[int],
    ) -> None:
        """Assign voxels the most probable class that is not excluded, and not denied if there is another one.

        Voxels outside the crop take the probabilities of its nearest voxel.

        Args:
            flat: labels by flat index; changed in place.
            where: flat indices of the voxels.
            segmentation: the network's result.
            denied: flat indices of the voxels for which prompts deny a class, by class.
            boxes: positive boxes, which deny their class outside of them on the slices that they span.
            excluded: classes that the voxels must not have.
        """
        grid = self._grid
        voxels = self._unravel(where)
        cropped = np.clip(grid.voxels_to_crop(voxels), 0, np.array(grid.size) - 1)
        for d in np.unique(cropped[:, 0]).tolist():
            here = cropped[:, 0] == d
            rows, columns = cropped[here, 1], cropped[here, 2]
            scores = next(segmentation.source_probabilities(d, d + 1))[0].cpu().numpy()[:, rows, columns]
            for class_id, denied_voxels in denied.items():
                scores[class_id, np.isin(where[here], denied_voxels)] -= _DENIED_PENALTY
            for box in boxes:
                scores[box.class_id, self._outside_box(box, voxels[here])] -= _DENIED_PENALTY
            scores[list(excluded)] -= _EXCLUDED_PENALTY
            flat[where[here]] = scores.argmax(0)

    def _segment(
        self, strokes: Sequence[GridPrompt], drawing: PromptMaps, on_sweep: SweepCallback | None = None
    ) -> tuple[Segmentation, tuple[int, int], tuple[Sweep, Sweep]]:
        """Return the network's result, the range of slices that may differ from the automatic one, and both sweeps."""
        sweeps = self.encoded.sweep(drawing, on_sweep)
        spans = [s.changed for s in sweeps if drawing]
        start, stop = (min(s.start for s in spans), max(s.stop for s in spans)) if spans else (0, 0)
        changed = average_sweeps(sweeps, start, stop).half() if stop > start else self._scores[:0]
        if strokes and self._cell_labels is not None and self._detached is not None:
            labels = self._cell_labels.copy()
            labels[start:stop] = most_probable_class(changed)
            detached = self._find_detached(labels, _assigned_cells(strokes))
            start, stop = self._extend_range(detached, start, stop)
            if stop - start > len(changed):
                changed = average_sweeps(sweeps, start, stop).half()
            changed = suppress_detached_parts(changed, labels[start:stop], detached[start:stop])
        scores = _PatchedScores(self._scores, start, changed) if stop > start else self._scores
        return Segmentation(self._grid, scores, self.segmenter.class_names), (start, stop), sweeps

    def _find_detached(self, labels: npt.NDArray[np.uint8], assigned: Mapping[int, Cells]) -> npt.NDArray[np.uint8]:
        """Detached parts under prompts; classes that are as in the automatic result are not searched again."""
        assert self._cell_labels is not None
        assert self._detached is not None
        differing = labels != self._cell_labels
        touched = {*np.unique(labels[differing]).tolist(), *np.unique(self._cell_labels[differing]).tolist(), *assigned}
        unchanged = np.arange(256, dtype=np.uint8)
        unchanged[list(touched)] = 0
        detached = find_detached_parts(labels, self.segmenter.plan.smallest_part, assigned, touched)
        return np.maximum(detached, unchanged[self._detached])

    def _extend_range(self, detached: npt.NDArray[np.uint8], start: int, stop: int) -> tuple[int, int]:
        """Slices start..stop, extended to those whose detached parts differ from the automatic result.

        Prompts can make a part far away the largest of its class, or no longer the largest.
        """
        differing = np.flatnonzero((detached != self._detached).any((1, 2))).tolist()
        ends = [*differing[:1], *differing[-1:], *([start, stop - 1] if stop > start else [])]
        return (min(ends), max(ends) + 1) if ends else (0, 0)

    def _drawing(self, strokes: Sequence[GridPrompt]) -> PromptMaps:
        encoded = self.encoded
        reach = encoded.model.config.prompt_reach
        return PromptMaps(strokes, encoded.depth, len(self.segmenter.class_names), encoded.size, reach)

    def _stroke(self, prompt: Prompt) -> GridPrompt | None:
        """Convert a prompt to cells of the mask grid; None where it lies wholly outside the crop."""
        cells = prompt_cells(self._grid, prompt, self.segmenter.plan.stem_stride)
        if not len(cells):
            return None
        if self._grid.slab_size > 1:
            cells[:, 0] = cells[:, 0].round()
        if is_box(prompt):  # drawn on its middle slice only; on the others it just denies the class outside of it
            cells[:, 0] = cells[:, 0].mean().round()
        elif not isinstance(prompt, Point):
            cells = np.rint(cells)
        size = np.array([self.encoded.depth, *self.encoded.size])
        cells = cells[(cells > -0.5).all(1) & (cells < size - 0.5).all(1)]
        if not len(cells):
            return None
        if not isinstance(prompt, Point) and not is_box(prompt):  # unique by flat index, as rows sort slowly
            flat = np.unique(np.ravel_multi_index(tuple(cells.astype(np.intp).T), size))
            cells = np.stack(np.unravel_index(flat, size), 1)
        kind = "box" if is_box(prompt) else "point" if isinstance(prompt, Point | Scribble) else "region"
        tensor = torch.from_numpy(cells).float()
        return GridPrompt(prompt.class_id, prompt.positive, tensor, kind)  # type: ignore[arg-type]


class _PatchedScores:
    """Class probabilities (D, K, h, w), with the slices from `start` on replaced by those of `patch`."""

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


def _with_step(on_sweep: SweepCallback | None, on_step: StepCallback | None) -> SweepCallback | None:
    """A sweep callback that calls `on_step` first."""
    if on_step is None:
        return on_sweep

    def callback(sweeps: tuple[Sweep, Sweep], passed: range) -> None:
        on_step()
        if on_sweep is not None:
            on_sweep(sweeps, passed)

    return callback


def _assigned_cells(strokes: Sequence[GridPrompt]) -> dict[int, Cells]:
    """Cells of the mask grid that prompts assign to a class, by class; a box's corners are not among them."""
    assigned: dict[int, list[Cells]] = {}
    for s in strokes:
        if s.positive and s.kind != "box":
            assigned.setdefault(s.class_id, []).append(np.rint(s.cells.numpy()).astype(np.intp))
    return {class_id: np.concatenate(cells) for class_id, cells in assigned.items()}
