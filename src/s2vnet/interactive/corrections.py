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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from s2vnet.data.preprocess import Case
from s2vnet.data.slice_grid import SliceGrid
from s2vnet.inference.correction import Change, ChangeLimits, CorrectorFunction, find_change
from s2vnet.inference.correction_maps import SegmentedVolume, WindowPrompt
from s2vnet.inference.encoded_volume import EncodedVolume
from s2vnet.inference.postprocessing import find_detached_parts, most_probable_class, suppress_detached_parts
from s2vnet.inference.segmentation import Segmentation
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.interpolate_outlines import between_outlines
from s2vnet.interactive.label_changes import LabelChange, Labels, Voxels
from s2vnet.interactive.prompt_state import PromptState, flat_indices, voxels_to_pixels
from s2vnet.interactive.voxelize import is_box, is_prompt, prompt_voxels
from s2vnet.io.geometry import Region
from s2vnet.prompts import Box, Entry, Extent, Lasso, Mask, Point, Prompt, Scribble
from s2vnet.utils.components import components_at

Bools = npt.NDArray[np.bool_]
OnChange = Callable[[Callable[[], LabelChange]], None]
"""Called with a function that computes the label change found so far; may raise to stop."""
FILE_SLICES_PER_CHUNK = 8
_DENIED_PENALTY, _EXCLUDED_PENALTY = 2, 4
"""Subtracted from a voxel's probabilities of classes that prompts deny there, and of classes excluded for it."""


class _LabelsOnPixels:
    """Labels of the network's pixels, read from those of the file's voxels when they are needed."""

    def __init__(self, grid: SliceGrid, labels: Labels) -> None:
        self._grid, self._labels = grid, labels
        self.shape = (grid.depth, *grid.padded)

    def __getitem__(self, index: slice, /) -> Tensor:
        return torch.from_numpy(self._grid.labels_to_pixels(self._labels, index.start, index.stop))


@dataclass(eq=False)
class Corrections:
    """Corrections of one volume's automatic result by prompts."""

    corrector: CorrectorFunction
    grid: SliceGrid
    volume: SegmentedVolume
    automatic: Segmentation
    num_classes: int
    """Classes of the network; larger labels are classes of the user's own."""
    limits: ChangeLimits = field(default_factory=ChangeLimits)

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
        self, labels: Labels, state: PromptState, entry: Entry, on_change: OnChange | None = None
    ) -> LabelChange:
        """Find the voxels that an entry changes.

        Args:
            labels: (I, J, K) labels after all earlier entries.
            state: earlier entries.
            entry: the next entry of the log.
            on_change: called before each further window, with a function that computes the change so far.
        """
        if isinstance(entry, Extent):
            return self._set_extent(labels, state, entry)
        if not is_prompt(entry) or (entry.positive and entry.class_id in state.locked):
            return LabelChange.none()
        if is_box(entry):
            return self._apply_box(labels, state, entry, on_change)
        voxels = prompt_voxels(entry)
        current = labels[tuple(voxels.T)]
        wrong = (current != entry.class_id) == entry.positive
        voxels = voxels[wrong & ~np.isin(current, list(state.locked))]
        if not len(voxels):
            return LabelChange.none()
        prompted = flat_indices(voxels, labels.shape)
        pixels = voxels_to_pixels(self.grid, voxels)
        if not len(pixels):  # outside of what the network sees
            return self._label_change(labels, state, entry, prompted)
        allowed = _Allowed(labels, state, entry)
        between = self._between(labels, state, entry)
        between = between[allowed.flat(between)]

        def finish(change: Change) -> LabelChange:
            connected = self._connected(change, allowed, voxels, entry)
            return self._label_change(labels, state, entry, _union(prompted, between, connected))

        def report(change: Callable[[], Change]) -> None:
            if on_change is not None:
                on_change(lambda: finish(change()))

        prompt = self._window_prompt(state, entry, pixels)
        on_pixels = _LabelsOnPixels(self.grid, labels)
        return finish(find_change(self.corrector, self.volume, on_pixels, prompt, report, self.limits))

    def _apply_box(self, labels: Labels, state: PromptState, box: Box, on_change: OnChange | None) -> LabelChange:
        """All of the class on the slices of a box lies inside: nothing outside, and something inside."""
        spanned = [slice(0, n) for n in labels.shape]
        spanned[self.plane] = slice(box.start[self.plane], box.stop[self.plane])
        slab: Region = (spanned[0], spanned[1], spanned[2])
        inside: Region = tuple(slice(a, b) for a, b in zip(box.start, box.stop, strict=True))  # type: ignore[assignment]
        denial = Point(class_id=box.class_id, positive=False, voxel=box.start)
        outside = labels[slab] == box.class_id
        outside[tuple(slice(s.start - a.start, s.stop - a.start) for s, a in zip(inside, slab, strict=True))] = False
        removed = _flat_of_mask(outside, slab, labels.shape)
        removal = self._label_change(labels, state, denial, removed[_Allowed(labels, state, denial).flat(removed)])
        if (labels[inside] == box.class_id).any():
            return removal
        after = labels.copy()
        after.reshape(-1)[removal.voxels] = removal.after
        # both middle voxels of an even length, so that flipped axes give the same
        middle = [sorted({(a + b - 1) // 2, (a + b) // 2}) for a, b in zip(box.start, box.stop, strict=True)]
        click = Scribble(class_id=box.class_id, voxels=tuple(itertools.product(*middle)))
        grown = self.change(after, state, click, on_change)
        voxels = np.stack(np.unravel_index(grown.voxels, labels.shape), 1)
        within = ((voxels >= box.start) & (voxels < box.stop)).all(1)
        beyond = (voxels[:, self.plane] < box.start[self.plane]) | (voxels[:, self.plane] >= box.stop[self.plane])
        return removal.then(grown.select(within | beyond))

    def _set_extent(self, labels: Labels, state: PromptState, extent: Extent) -> LabelChange:
        """Give a class its voxels, except those of locked classes, and take all others from it."""
        if extent.class_id in state.locked:
            return LabelChange.none()
        mask = extent.mask
        voxels = np.ravel_multi_index(tuple(mask.voxels().T), labels.shape)
        gained = voxels[~np.isin(labels.reshape(-1)[voxels], list(state.locked))]
        lost = np.setdiff1d(np.flatnonzero(labels == extent.class_id), voxels)
        denial = Point(class_id=extent.class_id, positive=False, voxel=extent.start)
        gain, loss = self._label_change(labels, state, mask, gained), self._label_change(labels, state, denial, lost)
        return gain.then(loss)

    def _window_prompt(self, state: PromptState, prompt: Prompt, pixels: Voxels) -> WindowPrompt:
        return WindowPrompt(
            pixels,
            prompt.positive,
            prompt.class_id if prompt.class_id < self.num_classes else None,
            prompt.class_id,
            state.agreeing_pixels(prompt.class_id, prompt.positive),
            state.contradicting_pixels(prompt.class_id, prompt.positive),
        )

    def _to_file(self, change: Change) -> tuple[Region, Bools] | None:
        """Smallest block of file voxels that pixels of the change reach, and its voxels that change."""
        block = change.block()
        if block is None:
            return None
        start, stop = self.grid.affected_slices(block[0].start, block[0].stop)
        rows, columns = self.grid.voxels_near_pixels(block[1], block[2])
        parts = []
        for n in range(start, stop, FILE_SLICES_PER_CHUNK):
            logits = self.grid.interpolate_slices(change, n, min(n + FILE_SLICES_PER_CHUNK, stop))
            parts.append((self.grid.upsample(logits, rows, columns)[:, 0] > 0).numpy())
        return self.grid.slices_to_file(np.concatenate(parts), start, rows, columns)

    def _connected(self, change: Change, allowed: _Allowed, voxels: Voxels, prompt: Prompt) -> Voxels:
        """Flat indices of the voxels that change and are connected to the prompt's voxels (N, 3)."""
        low, high = voxels.min(0), voxels.max(0) + 1
        found = self._to_file(change)
        if found is not None:
            low = np.minimum(low, [s.start for s in found[0]])
            high = np.maximum(high, [s.stop for s in found[0]])
        i, j, k = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        mask = np.zeros(high - low, bool)
        if found is not None:
            part, changed = found
            mask[tuple(slice(s.start - a, s.stop - a) for s, a in zip(part, low, strict=True))] = changed
            mask &= allowed.block((i, j, k))
        own = tuple((voxels - low).T)
        if isinstance(prompt, Lasso | Mask | Box):  # an outline says all of what changes on its slices
            drawn: list[slice | Voxels] = [slice(None)] * 3
            drawn[self.plane] = np.unique(own[self.plane])
            mask[tuple(drawn)] = False
        mask[own] = True
        return _flat_of_mask(components_at(mask, voxels - low), (i, j, k), allowed.labels.shape)

    def _between(self, labels: Labels, state: PromptState, prompt: Prompt) -> Voxels:
        """Flat indices between this outline and the last one of its class, if that has the same sign."""
        earlier = state.outlines.get(prompt.class_id)
        if not isinstance(prompt, Lasso | Mask) or earlier is None or earlier.positive != prompt.positive:
            return np.empty(0, np.intp)
        return between_outlines(prompt_voxels(earlier), prompt_voxels(prompt), labels.shape)

    def _label_change(self, labels: Labels, state: PromptState, prompt: Prompt, flat: Voxels) -> LabelChange:
        """Change of voxels to the prompt's class, or away from it."""
        before = labels.reshape(-1)[flat]
        if prompt.positive:
            after = np.full_like(before, prompt.class_id)
        else:
            after = self._runners_up(flat, labels.shape, [prompt.class_id, *state.locked], state)
            after = np.where(np.isin(after, list(state.locked)), before, after)  # where all other classes are locked
        return LabelChange(flat, before, after).select(before != after)

    def _runners_up(self, flat: Voxels, shape: tuple[int, ...], excluded: Iterable[int], state: PromptState) -> Labels:
        """Most probable class of voxels that is not excluded, and not denied if there is another one.

        Voxels outside the crop take the probabilities of its nearest voxel.
        """
        voxels = np.stack(np.unravel_index(flat, shape), 1)
        cropped = np.clip(self.grid.voxels_to_crop(voxels), 0, np.array(self.grid.size) - 1)
        scores = np.empty((self.num_classes, len(flat)), np.float32)
        for d in np.unique(cropped[:, 0]).tolist():
            here = cropped[:, 0] == d
            _, y, x = cropped[here].T
            rows, columns = (slice(int(v.min()), int(v.max()) + 1) for v in (y, x))
            near = self.grid.interpolate_slices(self.volume.probabilities, d, d + 1)
            near = self.grid.upsample(near, rows, columns)[0]
            scores[:, here] = near.numpy()[:, y - rows.start, x - columns.start]
        for class_id, denied in state.denied():
            if class_id < self.num_classes:
                scores[class_id, np.isin(flat, denied)] -= _DENIED_PENALTY
        scores[[c for c in excluded if c < self.num_classes]] -= _EXCLUDED_PENALTY
        best: Labels = scores.argmax(0).astype(np.uint8)
        return best


class _Allowed:
    """Voxels that a prompt may change away from its own ones."""

    def __init__(self, labels: Labels, state: PromptState, prompt: Prompt) -> None:
        self.labels, self.prompt = labels, prompt
        self.locked = list(state.locked)
        self.kept = _union(*state.kept(prompt.class_id, prompt.positive))

    def block(self, block: Region) -> Bools:
        """Mask of a block of voxels."""
        mask = self._of(self.labels[block])
        if len(self.kept):
            voxels = np.stack(np.unravel_index(self.kept, self.labels.shape), 1) - [s.start for s in block]
            voxels = voxels[((voxels >= 0) & (voxels < np.array(mask.shape))).all(1)]
            mask[tuple(voxels.T)] = False
        return mask

    def flat(self, flat: Voxels) -> Bools:
        """Mask of voxels by flat index."""
        return self._of(self.labels.reshape(-1)[flat]) & ~np.isin(flat, self.kept)

    def _of(self, values: Labels) -> Bools:
        """Whether voxels with these labels would change."""
        mask: Bools = (values != self.prompt.class_id) == self.prompt.positive
        return mask & ~np.isin(values, self.locked) if self.locked else mask


def _union(*flat: Voxels) -> Voxels:
    """Flat indices, rising and unique, of those that are in any of some arrays."""
    joined: Voxels = np.unique(np.concatenate([np.empty(0, np.intp), *flat]))
    return joined


def _flat_of_mask(mask: Bools, block: Region, shape: tuple[int, ...]) -> Voxels:
    """Flat indices in a volume of the True voxels of a mask of one of its blocks."""
    voxels = (found + s.start for found, s in zip(mask.nonzero(), block, strict=True))
    flat: Voxels = np.ravel_multi_index(tuple(voxels), shape)
    return flat
