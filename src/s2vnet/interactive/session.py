"""Interactive session on one volume, whose labels are a function of the image and the prompt log alone.

So undo is exact, any prompt can be removed, and a saved log replays to the same labels. Slices are encoded once; a
prompt costs decoder passes only (:meth:`EncodedVolume.sweep`), whose slices can be shown while the passes run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from s2vnet.errors import InputError
from s2vnet.inference.encoded_volume import EncodedVolume, ProgressCallback
from s2vnet.inference.segmentation import Segmentation
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive import suggest_slice as suggest
from s2vnet.interactive.apply_prompts import LockedMasks, PromptApplier, PromptResult, Prompts, StepCallback
from s2vnet.interactive.history import History, Log
from s2vnet.interactive.live_updates import LiveUpdates, SliceCallback
from s2vnet.interactive.prompt_log import SavedLog, conflict_notes, read_log, write_log
from s2vnet.interactive.voxelize import prompt_corners
from s2vnet.io.convert import as_label_map, as_volume
from s2vnet.io.geometry import LabelMap, Region, Volume
from s2vnet.prompts import Box, Entry, Lasso, Lock, Mask, Point, Scribble, Voxel
from s2vnet.utils.atomic_write import atomic_write, disk_errors
from s2vnet.utils.components import bounding_box
from s2vnet.utils.extras import require_extra
from s2vnet.utils.validation_errors import first_error

if TYPE_CHECKING:
    from s2vnet.interactive.notebook import View
    from s2vnet.io.convert import AnyImage


class Session:
    """Interactive session on one volume, in label values and voxel indices of its file; notebooks display it."""

    def __init__(
        self,
        segmenter: Segmenter,
        volume: AnyImage,
        progress: ProgressCallback | None = None,
        on_slice: SliceCallback | None = None,
        *,
        affine: npt.ArrayLike | None = None,
    ) -> None:
        """Encode the volume and segment it automatically.

        Args:
            segmenter: segmenter of one model.
            volume: volume as read from its file, nibabel or SimpleITK image, or array, as of
                :func:`s2vnet.io.convert.as_volume`.
            progress: called with slices encoded and decoded.
            on_slice: called twice for each slice: once after encoding, decoded without the others, and once after
                both sweeps.
            affine: matrix (4, 4) of an array, voxel indices to RAS+ mm.

        Raises:
            InputError: several models (an ensemble has no single state to prompt), channels that do not fit, or as
                :func:`s2vnet.io.convert.as_volume`.
        """
        if len(segmenter.models) != 1:
            raise InputError("a session works with one model, not an ensemble; name one model")
        if not isinstance(volume, Volume):
            volume = as_volume(volume, affine)
        self.segmenter = segmenter
        self.geometry = volume.geometry
        self.volume: Volume | None = volume
        """The image, for display only; set it to None to free its memory."""
        self.listeners: list[Callable[[], None]] = []
        """Called after every change of the log."""
        case = segmenter.prepare(volume)
        self._grid = case.grid
        self.training_differences = segmenter.training_differences(volume, case)
        """Ways in which the volume differs from the training data, one line each."""
        updates = None if on_slice is None else LiveUpdates(case.grid, on_slice)
        callbacks = (updates.on_sweep, updates.on_preview) if updates else (None, None)
        encoded = segmenter.encode(case, segmenter.models[0], progress, *callbacks)
        self._applier: PromptApplier | None = PromptApplier(segmenter, case.grid, encoded)
        self._offload_path: Path | None = None
        self._offloaded_nbytes = 0
        self._history = History()
        self._notes: list[str] | None = None
        self._lock_masks: dict[Log, npt.NDArray[np.bool_]] = {}
        """Voxels of a class at the time it was locked, by the log that ends with the lock."""
        self._result: PromptResult | None = None
        self._result, self._locked = self._compute(())
        self._labels = self._result.labels
        self.changed_region: Region | None = None
        """Smallest block of file voxels that the last operation changed; None when it changed nothing."""

    @property
    def history(self) -> History:
        """Prompt log with undo and redo."""
        return self._history

    @property
    def log(self) -> Log:
        """Prompts and locks in the order they were given."""
        return self._history.log

    @property
    def labels(self) -> npt.NDArray[np.uint8]:
        """Current class of each voxel (I, J, K)."""
        return self._labels

    @property
    def result(self) -> LabelMap:
        """Current label map on the file's grid."""
        return LabelMap(self.labels.copy(), self.geometry)

    @property
    def notes(self) -> list[str]:
        """Notes on prompts that later prompts or locks overrule."""
        if self._notes is None:
            self._notes = conflict_notes(self.log, self._locked, self.geometry.shape)
        return self._notes

    def add_point(self, class_id: int, voxel: Voxel, positive: bool = True) -> None:
        """Add a click: the voxel is (not) of the class. Raises InputError outside the volume or for unknown classes."""
        with _validation_errors():
            self.add(Point(class_id=class_id, positive=positive, voxel=voxel))

    def add_scribble(self, class_id: int, voxels: Sequence[Voxel], positive: bool = True) -> None:
        """Add a brush stroke: these voxels are (not) of the class. Raises InputError as :meth:`add_point`."""
        with _validation_errors():
            self.add(Scribble(class_id=class_id, positive=positive, voxels=tuple(voxels)))

    def add_lasso(self, class_id: int, axis: int, vertices: Sequence[Voxel], positive: bool = True) -> None:
        """Add a polygon on a slice across `axis` (0, 1 or 2 of i, j, k). Raises InputError as :meth:`add_point`."""
        with _validation_errors():
            self.add(Lasso(class_id=class_id, positive=positive, axis=axis, vertices=tuple(vertices)))

    def add_box(self, class_id: int, start: Voxel, stop: Voxel, positive: bool = True) -> None:
        """Add a half-open box around all of the class on its slices. Raises InputError as :meth:`add_point`."""
        with _validation_errors():
            self.add(Box(class_id=class_id, positive=positive, start=start, stop=stop))

    def add_mask(self, class_id: int, mask: LabelMap | AnyImage, positive: bool = True) -> None:
        """Add a mask: these voxels are (not) of the class.

        Args:
            class_id: label value.
            mask: array (I, J, K), or label map, nibabel or SimpleITK image on the session's grid; voxels above 0 are
                in it.
            positive: whether they are of the class.

        Raises:
            InputError: another grid, or as :meth:`add_point`.
        """
        if not isinstance(mask, np.ndarray):
            labels = as_label_map(mask)
            self.geometry.require_same_grid(labels.geometry, "the mask")
            mask = labels.data
        if mask.shape != self.geometry.shape:
            raise InputError(f"mask {mask.shape} must have the image's shape {self.geometry.shape}")
        with _validation_errors():
            self.add(Mask.from_array(np.asarray(mask) > 0, class_id, positive))

    def lock(self, class_id: int, locked: bool = True) -> None:
        """Lock a class, so that later prompts leave its voxels as they are, or unlock it."""
        with _validation_errors():
            self.add(Lock(class_id=class_id, locked=locked))

    def add(self, *entries: Entry) -> None:
        """Add prompts of any number of classes in one round; all of them or, if one is invalid, none."""
        self.apply(self._history.add(*entries))

    def add_round(self, points: Sequence[Point]) -> None:
        """Add one round of clicks (:class:`s2vnet.evaluation.protocol.InteractiveSession`)."""
        self.add(*points)

    def remove(self, index: int) -> None:
        """Remove any entry of the log. Raises InputError when there is none with this number."""
        self.apply(self._history.remove(index))

    def reset(self) -> None:
        """Remove all entries; can be undone."""
        self.apply(self._history.push(()))

    def undo(self) -> bool:
        """Go back one operation; False when there is none."""
        before = self._history
        self.apply(before.undo())
        return self._history is not before

    def redo(self) -> bool:
        """Repeat the last undone operation; False when there is none."""
        before = self._history
        self.apply(before.redo())
        return self._history is not before

    def apply(
        self, history: History, on_slice: SliceCallback | None = None, on_step: StepCallback | None = None
    ) -> None:
        """Compute the labels of a history and make it the current one; after an exception nothing is changed.

        Args:
            history: new history; it may differ from the current one by several operations.
            on_slice: called with slices as they are done, those with the newest prompt first.
            on_step: called after each decoder step, also for locks, of which no slices are sent.

        Raises:
            InputError: a prompt outside the volume or of an unknown class.
        """
        if history is self._history:
            return
        self.check(*history.log)
        result, locked = self._compute(history.log, on_slice, on_step)
        self.changed_region = bounding_box(result.labels != self.labels)
        self._notes = None
        self._history, self._result, self._labels, self._locked = history, result, result.labels, locked
        self._lock_masks = {log: mask for log, mask in self._lock_masks.items() if log == history.log[: len(log)]}
        for listener in self.listeners:
            listener()

    def check(self, *entries: Entry) -> None:
        """Raise InputError for a prompt outside the volume, damaged, or of an unknown class."""
        for entry in entries:
            self._check(entry)

    def valid_entries(self, log: Log) -> Log:
        """Entries of a log that :meth:`check` accepts."""
        return tuple(entry for entry in log if self._is_valid(entry))

    @property
    def plane(self) -> int:
        """File axis (0, 1 or 2 of i, j, k) perpendicular to the network's slices."""
        return self._grid.orientation.axes[self._grid.axis]

    @property
    def nbytes(self) -> int:
        """Memory in bytes: labels, locked voxels, :attr:`volume`, and cached tensors unless they are offloaded.

        Safe to call from any thread.
        """
        applier, result, volume = self._applier, self._result, self.volume
        masks = [*tuple(self._lock_masks.values()), *self._locked.values()]
        arrays = {id(array): array.nbytes for array in (self._labels, *masks)}
        cached = 0 if applier is None else applier.nbytes + applier.prompted_nbytes(result)
        return sum(arrays.values()) + cached + (0 if volume is None else volume.data.nbytes)

    @property
    def offloaded_nbytes(self) -> int:
        """Memory in bytes that the next prompt loads again; 0 unless offloaded."""
        return self._offloaded_nbytes if self._applier is None else 0

    def offload(self, path: Path) -> None:
        """Write cached tensors to a safetensors file and free their memory; the next prompt loads them again.

        Raises:
            InputError: the file cannot be written.
        """
        if self._applier is None:
            return
        if path != self._offload_path or not path.exists():  # cached tensors never change
            with atomic_write(path) as temporary, disk_errors(SafetensorError):
                save_file(self._applier.encoded.state_dict(), temporary)
        self._offloaded_nbytes = self._applier.nbytes
        self._applier, self._offload_path, self._result, self._lock_masks = None, path, None, {}

    def _load_applier(self) -> PromptApplier:
        """Return the encoded volume, loaded from its file if it was offloaded. Raises InputError if that fails."""
        if self._applier is None:
            assert self._offload_path is not None
            try:
                tensors = load_file(self._offload_path, device=str(self.segmenter.device))
            except (OSError, SafetensorError) as error:
                message = f"{self._offload_path}: cached tensors cannot be loaded ({error}); open the scan again"
                raise InputError(message) from error
            encoded = EncodedVolume.from_state_dict(self.segmenter.models[0], tensors)
            self._applier = PromptApplier(self.segmenter, self._grid, encoded)
        return self._applier

    def _segmentation(self) -> Segmentation:
        """Return the network's current result, computed again after offloading."""
        return (self._result or self._compute(self.log)[0]).segmentation

    def likely_class(self, voxels: npt.ArrayLike) -> int:
        """Most frequent class but background of voxels (N, 3); the most probable one if all are background.

        Raises:
            InputError: voxels outside the volume.
        """
        indices = np.asarray(voxels, np.intp).reshape(-1, 3)
        if (indices < 0).any() or (indices >= np.array(self.geometry.shape)).any():
            size = " x ".join(map(str, self.geometry.shape))
            raise InputError(f"prompt reaches outside the volume of {size}; indices start at 0")
        votes = np.bincount(self.labels[tuple(indices.T)], minlength=len(self.segmenter.class_names))[1:]
        if votes.any():
            return int(votes.argmax()) + 1
        scores = suggest.scores_at(self._segmentation(), indices, self.segmenter.plan.stem_stride)
        return int(scores[:, 1:].mean(0).argmax()) + 1

    def slice_uncertainty(self) -> npt.NDArray[np.float32]:
        """Mean entropy (D,) in nats of the class probabilities on each of the network's slices."""
        return suggest.slice_uncertainty(self._segmentation())

    def next_slice_to_check(self) -> tuple[int, int] | None:
        """File axis and index of the most uncertain slice away from prompts; None where no slice is left."""
        return suggest.next_slice(self._segmentation(), self.log)

    def voxel_to_check(self) -> Voxel:
        """Centre of the newest prompt; without prompts the most uncertain voxel of :meth:`next_slice_to_check`."""
        stride = self.segmenter.plan.stem_stride
        centre = suggest.newest_prompt_centre(self.log)
        return centre or suggest.next_voxel(self._segmentation(), self.log, stride)

    def view(self) -> View:
        """Widget for a notebook that shows image and labels, takes clicks, and follows this session.

        Raises:
            InputError: ipyniivue is not installed, or :attr:`volume` is None.
        """
        require_extra("notebook", "a view in a notebook", "ipyniivue")
        from s2vnet.interactive.notebook import View

        return View(self)

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.geometry.shape))
        return f"<Session over {size} voxels, {len(self.segmenter.class_names) - 1} classes, {len(self.log)} prompts>"

    def _repr_png_(self) -> bytes | None:
        """PNG for notebooks: three planes through :meth:`voxel_to_check`; None without the image.

        https://ipython.readthedocs.io/en/stable/config/integrating.html#custom-methods
        """
        if self.volume is None:
            return None
        from s2vnet.visualization.overlays import figure_to_png, orthogonal_planes

        clicks = [entry for entry in self.log if isinstance(entry, Point)]
        labels = LabelMap(self.labels, self.geometry)
        return figure_to_png(
            orthogonal_planes(self.volume, labels, self.segmenter.class_names, self.voxel_to_check(), clicks)
        )

    def save_log(self, path: Path | str) -> None:
        """Write the prompt log as JSON. Raises InputError where the file cannot be written."""
        saved = SavedLog(self.log, self.segmenter.sha256, self.geometry)
        write_log(Path(path), saved, self.segmenter.class_names, self.notes)

    def replay(self, path: Path) -> None:
        """Replace the log by a saved one, in one operation.

        Raises:
            InputError: damaged, of another format, for an image of another shape, or for another model.
        """
        saved = read_log(path)
        self.geometry.require_same_grid(saved.geometry, f"{path}: this image and the one of the log")
        if saved.model_sha256 != self.segmenter.sha256:
            raise InputError(f"{path}: log of another model; use the model with sha256 {saved.model_sha256:.12}")
        try:
            self.apply(self._history.push(saved.entries))
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def _is_valid(self, entry: Entry) -> bool:
        try:
            self._check(entry)
        except InputError:
            return False
        return True

    def _check(self, entry: Entry) -> None:
        names = self.segmenter.class_names
        if entry.class_id not in names:
            known = ", ".join(f"{k} {name}" for k, name in names.items())
            raise InputError(f"no class {entry.class_id}; classes of the model: {known}")
        if isinstance(entry, Lock):
            return
        shape = self.geometry.shape
        size = " x ".join(map(str, shape))
        try:
            corners = prompt_corners(entry)
            outside = bool((corners < 0).any() or (corners >= np.array(shape)).any())
        except OverflowError:
            outside = True
        if outside:
            raise InputError(f"{entry.kind} prompt reaches outside the volume of {size}; indices start at 0")
        if isinstance(entry, Mask):
            entry.voxels()

    def _compute(
        self, log: Log, on_slice: SliceCallback | None = None, on_step: StepCallback | None = None
    ) -> tuple[PromptResult, LockedMasks]:
        """Compute the result of a log, and the voxels of classes that are locked at its end."""
        locked: dict[int, npt.NDArray[np.bool_]] = {}
        prompts: Prompts = ()
        for number, entry in enumerate(log, start=1):
            if not isinstance(entry, Lock):
                prompts = (*prompts, entry)
            elif not entry.locked:
                locked.pop(entry.class_id, None)
            elif entry.class_id not in locked:
                if (until := log[:number]) not in self._lock_masks:
                    result = self._load_applier().apply(prompts, locked, on_step=on_step)
                    self._lock_masks[until] = result.labels == entry.class_id
                locked[entry.class_id] = self._lock_masks[until]
        previous = self._result and self._result.sweeps
        return self._load_applier().apply(prompts, locked, on_slice, previous, on_step), locked


@contextmanager
def _validation_errors() -> Iterator[None]:
    """Translate errors of a prompt's own validation into one line.

    Raises:
        InputError: in place of a ValidationError of pydantic.
    """
    try:
        yield
    except ValidationError as error:
        raise InputError(f"{error.title.lower()} prompt: {first_error(error)}") from error
