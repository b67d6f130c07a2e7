"""Application of prompts, one by one, to the labels of a volume.

A prompt changes the labels of its own voxels and of the connected region around them that the corrector finds
(:mod:`s2vnet.inference.correction`), and nothing else:

* A locked class never gains or loses a voxel.
* A prompted voxel has the class of the last prompt on it; later prompts elsewhere do not change it.
* An extent sets all voxels of a class; it is no prompt, so later prompts may change them.
* Voxels that lose a class take the most probable of the other classes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from s2vnet.data.preprocess import Case
from s2vnet.data.slice_grid import SliceGrid
from s2vnet.inference.correction import Change, CorrectorFunction, find_change
from s2vnet.inference.correction_maps import SegmentedVolume, WindowPrompt
from s2vnet.inference.encoded_volume import EncodedVolume
from s2vnet.inference.postprocessing import find_detached_parts, most_probable_class, suppress_detached_parts
from s2vnet.inference.segmentation import Segmentation
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.interpolate_outlines import between_outlines
from s2vnet.interactive.voxelize import is_box, is_prompt, prompt_voxels
from s2vnet.io.geometry import Region
from s2vnet.prompts import Box, Entry, Extent, Lasso, Lock, Mask, Point, Prompt, Scribble

Labels = npt.NDArray[np.uint8]
Voxels = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]
FILE_SLICES_PER_CHUNK = 8
_DENIED_PENALTY, _EXCLUDED_PENALTY = 2, 4
"""Subtracted from a voxel's probabilities of classes that prompts deny there, and of classes excluded for it."""


class LabelChange(NamedTuple):
    """Voxels whose label an entry changes."""

    voxels: Voxels
    """(N,) flat indices in C order, rising."""
    before: Labels
    """(N,)."""
    after: Labels
    """(N,)."""


@dataclass(frozen=True)
class PromptState:
    """What earlier entries of a log say, beside the labels that they led to."""

    prompts: tuple[Prompt, ...] = ()
    locked: frozenset[int] = frozenset()

    def add(self, entry: Entry) -> PromptState:
        """State after an entry."""
        if is_prompt(entry):
            return replace(self, prompts=(*self.prompts, entry))
        if isinstance(entry, Extent):  # replaces what earlier prompts say of the class
            return replace(self, prompts=tuple(p for p in self.prompts if p.class_id != entry.class_id))
        if not isinstance(entry, Lock):
            return self
        return replace(self, locked=self.locked | {entry.class_id} if entry.locked else self.locked - {entry.class_id})


@dataclass(eq=False)
class Corrections:
    """Corrections of one volume's automatic result by prompts."""

    corrector: CorrectorFunction
    grid: SliceGrid
    volume: SegmentedVolume
    automatic: Segmentation
    num_classes: int
    """Classes of the network; larger labels are classes of the user's own."""

    @classmethod
    def of(cls, segmenter: Segmenter, case: Case, encoded: EncodedVolume) -> Corrections:
        """Prepare to correct the automatic result of an encoded case."""
        scores = encoded.probabilities.half()
        share = segmenter.plan.smallest_part
        if share:
            cells = most_probable_class(scores)
            scores = suppress_detached_parts(scores, cells, find_detached_parts(cells, share))
        image = torch.from_numpy(case.image.mean(0)).half()
        # copied, since the features are a part of the encoded volume's memory
        tensors = {
            "image": image,
            "probabilities": scores.cpu(),
            "features": encoded.features.mask.cpu().half().contiguous(),
        }
        return cls.from_state_dict(segmenter, case.grid, tensors)

    @classmethod
    def from_state_dict(cls, segmenter: Segmenter, grid: SliceGrid, tensors: Mapping[str, Tensor]) -> Corrections:
        """Rebuild corrections from :meth:`state_dict`."""
        volume = SegmentedVolume(**tensors, slice_distance=grid.slice_distance, pixel_size=grid.pixel_size)
        automatic = Segmentation(grid, volume.probabilities, segmenter.class_names)
        return cls(segmenter.corrector, grid, volume, automatic, len(segmenter.class_names))

    def state_dict(self) -> dict[str, Tensor]:
        """Cached tensors by name."""
        volume = self.volume
        return {"image": volume.image, "probabilities": volume.probabilities, "features": volume.features}

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return sum(tensor.nbytes for tensor in self.state_dict().values())

    @property
    def plane(self) -> int:
        """File axis (0, 1 or 2 of i, j, k) perpendicular to the network's slices."""
        return self.grid.orientation.axes[self.grid.axis]

    def change(
        self, labels: Labels, state: PromptState, entry: Entry, on_change: Callable[[LabelChange], None] | None = None
    ) -> LabelChange:
        """Find the voxels that an entry changes.

        Args:
            labels: (I, J, K) labels after all earlier entries.
            state: earlier entries.
            entry: the next entry of the log.
            on_change: called with the changes found so far after each window.
        """
        if isinstance(entry, Extent):
            return self._set_extent(labels, state, entry)
        if not is_prompt(entry) or (entry.positive and entry.class_id in state.locked):
            return _no_change()
        if is_box(entry):
            return self._apply_box(labels, state, entry, on_change)
        voxels = prompt_voxels(entry)
        flat = np.ravel_multi_index(tuple(voxels.T), labels.shape)
        current = labels.reshape(-1)[flat]
        wrong = (current != entry.class_id) == entry.positive
        movable = wrong & ~np.isin(current, list(state.locked))
        if not movable.any():
            return _no_change()
        voxels, flat = voxels[movable], np.unique(flat[movable])
        changed = np.zeros(labels.shape, bool)
        changed.reshape(-1)[flat] = True
        allowed = _Allowed(self, labels, state, entry)

        def finish(change: Change) -> LabelChange:
            region = self._to_file(change)
            if region is not None:
                block, mask = region
                changed[block] |= self._connected(mask & allowed.block(block), block, voxels, entry)
            for filled in self._between(labels, state, entry):
                changed.reshape(-1)[filled[allowed.flat(filled)]] = True
            return self._label_change(labels, state, entry, np.flatnonzero(changed))

        def report(change: Change) -> None:
            if on_change is not None:
                on_change(finish(change))

        prompt = self._window_prompt(labels, state, entry, voxels)
        if prompt is None:  # outside of what the network sees
            return self._label_change(labels, state, entry, flat)
        return finish(find_change(self.corrector, self.volume, self._pixel_labels(labels), prompt, report))

    def _apply_box(
        self, labels: Labels, state: PromptState, box: Box, on_change: Callable[[LabelChange], None] | None
    ) -> LabelChange:
        """All of the class on the slices of a box lies inside: nothing outside, and something inside."""
        inside = np.zeros(labels.shape, bool)
        inside[tuple(slice(a, b) for a, b in zip(box.start, box.stop, strict=True))] = True
        axis = self.plane
        slab: list[slice] = [slice(None)] * 3
        slab[axis] = slice(box.start[axis], box.stop[axis])
        spanned = np.zeros(labels.shape, bool)
        spanned[tuple(slab)] = True
        own = labels == box.class_id
        denial = Point(class_id=box.class_id, positive=False, voxel=box.start)
        outside = np.flatnonzero(own & spanned & ~inside & _Allowed(self, labels, state, denial).volume())
        removal = self._label_change(labels, state, denial, outside)
        if (own & inside).any():
            return removal
        after = labels.copy()
        after.reshape(-1)[removal.voxels] = removal.after
        # both middle voxels of an even length, so that flipped axes give the same
        middle = [sorted({(a + b - 1) // 2, (a + b) // 2}) for a, b in zip(box.start, box.stop, strict=True)]
        click = Scribble(class_id=box.class_id, voxels=tuple(itertools.product(*middle)))
        grown = self.change(after, state, click, on_change)
        kept = inside.reshape(-1)[grown.voxels] | ~spanned.reshape(-1)[grown.voxels]
        grown = LabelChange(grown.voxels[kept], grown.before[kept], grown.after[kept])
        return merge(removal, grown)

    def _set_extent(self, labels: Labels, state: PromptState, extent: Extent) -> LabelChange:
        """Give a class its voxels, except those of locked classes, and take all others from it."""
        if extent.class_id in state.locked:
            return _no_change()
        mask = extent.mask
        voxels = np.ravel_multi_index(tuple(mask.voxels().T), labels.shape)
        gained = voxels[~np.isin(labels.reshape(-1)[voxels], list(state.locked))]
        lost = np.setdiff1d(np.flatnonzero(labels == extent.class_id), voxels)
        denial = Point(class_id=extent.class_id, positive=False, voxel=extent.start)
        gain, loss = self._label_change(labels, state, mask, gained), self._label_change(labels, state, denial, lost)
        return merge(gain, loss)

    def _window_prompt(self, labels: Labels, state: PromptState, prompt: Prompt, voxels: Voxels) -> WindowPrompt | None:
        pixels = self._pixels_of(voxels)
        if not len(pixels):
            return None
        same = [p for p in state.prompts if p.class_id == prompt.class_id and p.positive == prompt.positive]
        other = [
            p
            for p in state.prompts
            if (p.class_id == prompt.class_id and p.positive != prompt.positive)
            or (p.class_id != prompt.class_id and p.positive and prompt.positive)
        ]
        class_id = prompt.class_id if prompt.class_id < self.num_classes else None
        return WindowPrompt(
            pixels, prompt.positive, class_id, prompt.class_id, self._all_pixels(same), self._all_pixels(other)
        )

    def _all_pixels(self, prompts: Sequence[Prompt]) -> Voxels:
        parts = [self._pixels_of(prompt_voxels(p)) for p in prompts if not is_box(p)]
        return np.concatenate(parts) if parts else np.empty((0, 3), np.intp)

    def _pixels_of(self, voxels: Voxels) -> Voxels:
        """Pixels (N', 3) of the network's slices that hold file voxels (N, 3); those outside the crop are left out."""
        pixels = np.rint(self.grid.voxels_to_pixels(voxels)).astype(np.intp)
        crop = self.grid.voxels_to_crop(voxels)
        inside = ((crop >= 0) & (crop < np.array(self.grid.size))).all(1)
        pixels = np.clip(pixels[inside], 0, np.array(self.volume.image.shape) - 1)
        return np.unique(pixels, axis=0) if len(pixels) > 1 else pixels

    def _pixel_labels(self, labels: Labels) -> Tensor:
        """Labels (D, H, W) of the network's pixels."""
        return torch.from_numpy(self.grid.labels_to_pixels(labels))

    def _to_file(self, change: Change) -> tuple[Region, Bools] | None:
        """Block of file voxels, and its voxels that change."""
        start, stop = self.grid.affected_slices(change.start, change.stop)
        parts = []
        for n in range(start, stop, FILE_SLICES_PER_CHUNK):
            logits = self.grid.interpolate_slices(change, n, min(n + FILE_SLICES_PER_CHUNK, stop))
            parts.append((self.grid.upsample(logits)[:, 0] > 0).numpy())
        return self.grid.slices_to_file(np.concatenate(parts), start) if parts else None

    def _connected(self, mask: Bools, block: Region, voxels: Voxels, prompt: Prompt) -> Bools:
        """Parts of a mask within a block that are connected to the prompt's voxels."""
        mask = mask.copy()
        inside = voxels - [s.start for s in block]
        inside = inside[((inside >= 0) & (inside < np.array(mask.shape))).all(1)]
        mask[tuple(inside.T)] = True
        if isinstance(prompt, Lasso | Mask | Box):  # an outline says all of what changes on its slices
            axis = self.plane
            drawn = np.unique(inside[:, axis])
            on_slices: list[slice | Voxels] = [slice(None)] * 3
            on_slices[axis] = drawn
            outline = np.zeros_like(mask)
            outline[tuple(inside.T)] = True
            mask[tuple(on_slices)] = outline[tuple(on_slices)]
        components, _ = ndimage.label(mask)
        values = np.unique(components[tuple(inside.T)])
        connected: Bools = np.isin(components, values[values > 0])
        return connected

    def _between(self, labels: Labels, state: PromptState, prompt: Prompt) -> list[Voxels]:
        """Flat indices between this outline and the last one of the same class and sign, if there is one."""
        if not isinstance(prompt, Lasso | Mask):
            return []
        for earlier in reversed(state.prompts):
            if isinstance(earlier, Lasso | Mask) and earlier.class_id == prompt.class_id:
                if earlier.positive != prompt.positive:
                    return []
                return [between_outlines(prompt_voxels(earlier), prompt_voxels(prompt), labels.shape)]
        return []

    def _label_change(self, labels: Labels, state: PromptState, prompt: Prompt, flat: Voxels) -> LabelChange:
        """Change of voxels to the prompt's class, or away from it."""
        before = labels.reshape(-1)[flat]
        if prompt.positive:
            after = np.full_like(before, prompt.class_id)
        else:
            after = self._runners_up(flat, labels.shape, [prompt.class_id, *state.locked], state)
            after = np.where(np.isin(after, list(state.locked)), before, after)  # where all other classes are locked
        different = before != after
        return LabelChange(flat[different], before[different], after[different])

    def _runners_up(self, flat: Voxels, shape: tuple[int, ...], excluded: Iterable[int], state: PromptState) -> Labels:
        """Most probable class of voxels that is not excluded, and not denied if there is another one.

        Voxels outside the crop take the probabilities of its nearest voxel.
        """
        voxels = np.stack(np.unravel_index(flat, shape), 1)
        cropped = np.clip(self.grid.voxels_to_crop(voxels), 0, np.array(self.grid.size) - 1)
        after = np.zeros(len(flat), np.uint8)
        denials = [
            (p.class_id, np.ravel_multi_index(tuple(prompt_voxels(p).T), shape))
            for p in state.prompts
            if not p.positive and p.class_id < self.num_classes
        ]
        penalised = [c for c in excluded if c < self.num_classes]
        for d in np.unique(cropped[:, 0]).tolist():
            here = cropped[:, 0] == d
            rows, columns = cropped[here, 1], cropped[here, 2]
            scores = next(self.automatic.source_probabilities(d, d + 1))[0].cpu().numpy()[:, rows, columns]
            for class_id, denied in denials:
                scores[class_id, np.isin(flat[here], denied)] -= _DENIED_PENALTY
            scores[penalised] -= _EXCLUDED_PENALTY
            after[here] = scores.argmax(0)
        return after


class _Allowed:
    """Voxels that a prompt may change away from its own ones."""

    def __init__(self, corrections: Corrections, labels: Labels, state: PromptState, prompt: Prompt) -> None:
        self.labels, self.prompt = labels, prompt
        self.locked = list(state.locked)
        kept = [
            np.ravel_multi_index(tuple(prompt_voxels(p).T), labels.shape)
            for p in state.prompts
            if not is_box(p) and (p.positive or (p.class_id == prompt.class_id and prompt.positive))
        ]
        self.kept = np.unique(np.concatenate(kept)) if kept else np.empty(0, np.intp)

    def block(self, block: Region) -> Bools:
        """Mask of a block of voxels."""
        values = self.labels[block]
        mask: Bools = (values != self.prompt.class_id) if self.prompt.positive else (values == self.prompt.class_id)
        if self.locked:
            mask &= ~np.isin(values, self.locked)
        if len(self.kept):
            voxels = np.stack(np.unravel_index(self.kept, self.labels.shape), 1) - [s.start for s in block]
            voxels = voxels[((voxels >= 0) & (voxels < np.array(mask.shape))).all(1)]
            mask[tuple(voxels.T)] = False
        return mask

    def volume(self) -> Bools:
        """Mask of all voxels."""
        i, j, k = (slice(0, n) for n in self.labels.shape)
        return self.block((i, j, k))

    def flat(self, flat: Voxels) -> Bools:
        """Mask of voxels by flat index."""
        values = self.labels.reshape(-1)[flat]
        mask: Bools = (values != self.prompt.class_id) if self.prompt.positive else (values == self.prompt.class_id)
        return mask & ~np.isin(values, self.locked) & ~np.isin(flat, self.kept)


def merge(first: LabelChange, second: LabelChange) -> LabelChange:
    """One change that equals two after each other."""
    voxels = np.union1d(first.voxels, second.voxels)
    before, after = np.zeros(len(voxels), np.uint8), np.zeros(len(voxels), np.uint8)
    for change in (first, second):
        after[np.searchsorted(voxels, change.voxels)] = change.after
    for change in (second, first):
        before[np.searchsorted(voxels, change.voxels)] = change.before
    different = before != after
    return LabelChange(voxels[different], before[different], after[different])


def _no_change() -> LabelChange:
    return LabelChange(np.empty(0, np.intp), np.empty(0, np.uint8), np.empty(0, np.uint8))
