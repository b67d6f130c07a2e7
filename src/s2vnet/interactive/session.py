"""Interactive session on one volume, whose labels are a function of the image and the prompt log alone.

Entries of the log are applied one by one, in its order (:mod:`s2vnet.interactive.corrections`), to the automatic
labels or to initial ones. The voxels that each entry changed are kept, so undo is exact and immediate; removing an
entry applies those after it again. Slices are encoded once; a prompt costs a few windows of the corrector.

More than 400 lines, because it is the whole interface of interactive segmentation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from s2vnet.errors import InputError
from s2vnet.inference.encoded_volume import ProgressCallback
from s2vnet.inference.segmentation import Segmentation
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive import suggest_slice as suggest
from s2vnet.interactive.applied_log import AppliedLog, StepCallback
from s2vnet.interactive.check_entries import check_entries, new_class, valid_entries, validation_errors
from s2vnet.interactive.corrections import Corrections
from s2vnet.interactive.history import History, Log
from s2vnet.interactive.live_updates import LiveUpdates, SliceCallback
from s2vnet.interactive.overruled_prompts import OverruledPrompts
from s2vnet.interactive.prompt_log import SavedLog, class_names, conflict_notes, read_log, write_log
from s2vnet.io.convert import as_label_map, as_volume
from s2vnet.io.geometry import LabelMap, Region, Volume
from s2vnet.prompts import Box, Entry, Lasso, Lock, Mask, Point, Scribble, Voxel
from s2vnet.utils.atomic_write import atomic_write, disk_errors
from s2vnet.utils.extras import require_extra

if TYPE_CHECKING:
    from s2vnet.interactive.notebook import View
    from s2vnet.io.convert import AnyImage


OLD_FORMAT_NOTE = "log of format 1, whose prompts were applied together: the labels may differ from those at that time"


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
        initial: LabelMap | AnyImage | None = None,
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
            initial: labels to start from instead of the automatic ones, on the volume's grid.

        Raises:
            InputError: several models (an ensemble has no single state to prompt), channels that do not fit, initial
                labels on another grid or with values that are no class of the model, or as
                :func:`s2vnet.io.convert.as_volume`.
        """
        if len(segmenter.models) != 1:
            raise InputError("a session works with one model, not an ensemble; name one model")
        if not isinstance(volume, Volume):
            volume = as_volume(volume, affine)
        if initial is not None:
            given = as_label_map(initial, affine if isinstance(initial, np.ndarray) else None)
            volume.geometry.require_same_grid(given.geometry, "image and initial labels")
        self.segmenter = segmenter
        self.geometry = volume.geometry
        self.volume: Volume | None = volume
        """The image, for display only; set it to None to free its memory."""
        self._initial = None if initial is None else self._check_labels(given.data)
        """Labels that the log starts from, if they are not the automatic ones."""
        self.listeners: list[Callable[[], None]] = []
        """Called after every change of the log."""
        case = segmenter.prepare(volume)
        self._grid = case.grid
        self.training_differences = segmenter.training_differences(volume, case)
        """Ways in which the volume differs from the training data, one line each."""
        updates = None if on_slice is None else LiveUpdates(case.grid, on_slice)
        send = None if updates is None else updates.on_slices
        encoded = segmenter.encode(case, segmenter.models[0], progress, on_slices=send, on_preview=send)
        self._corrections: Corrections | None = Corrections.of(segmenter, case, encoded)
        del encoded
        self._offload_path: Path | None = None
        self._offloaded_nbytes = 0
        self._history = History()
        self._notes: list[str] | None = None
        self._overruled = OverruledPrompts(self.geometry.shape)
        self._old_log: Log | None = None
        """Entries of a log of format 1, if one was opened."""
        self._applied = AppliedLog(self._automatic_labels() if self._initial is None else self._initial)
        self.changed_region: Region | None = None
        """Smallest block of file voxels that the last operation changed; None when it changed nothing."""
        self.last_changes: dict[int, tuple[float, float]] = {}
        """Volume in ml that each class gained and lost by the last operation; classes without a change are left out."""

    @property
    def history(self) -> History:
        """Prompt log with undo and redo."""
        return self._history

    @property
    def log(self) -> Log:
        """Prompts and locks in the order they were given."""
        return self._history.log

    @property
    def class_names(self) -> dict[int, str]:
        """Class name by label value: the network's classes and those that were added."""
        return class_names(self.segmenter.class_names, self.log)

    @property
    def labels(self) -> npt.NDArray[np.uint8]:
        """Current class of each voxel (I, J, K)."""
        return self._applied.labels

    @property
    def result(self) -> LabelMap:
        """Current label map on the file's grid."""
        return LabelMap(self.labels.copy(), self.geometry)

    @property
    def notes(self) -> list[str]:
        """Notes on prompts that later prompts or locks overrule, and on a log of an older format."""
        if self._notes is None:
            self._overruled = self._overruled.follow(self.log)
            self._notes = conflict_notes(self.log, self.labels, self._overruled.overruled)
            if self._old_log and self.log[: len(self._old_log)] == self._old_log:
                self._notes.insert(0, OLD_FORMAT_NOTE)
        return self._notes

    def add_point(self, class_id: int, voxel: Voxel, positive: bool = True) -> None:
        """Add a click: the voxel is (not) of the class. Raises InputError outside the volume or for unknown classes."""
        with validation_errors():
            self.add(Point(class_id=class_id, positive=positive, voxel=voxel))

    def add_scribble(self, class_id: int, voxels: Sequence[Voxel], positive: bool = True) -> None:
        """Add a brush stroke: these voxels are (not) of the class. Raises InputError as :meth:`add_point`."""
        with validation_errors():
            self.add(Scribble(class_id=class_id, positive=positive, voxels=tuple(voxels)))

    def add_lasso(self, class_id: int, axis: int, vertices: Sequence[Voxel], positive: bool = True) -> None:
        """Add a polygon on a slice across `axis` (0, 1 or 2 of i, j, k). Raises InputError as :meth:`add_point`."""
        with validation_errors():
            self.add(Lasso(class_id=class_id, positive=positive, axis=axis, vertices=tuple(vertices)))

    def add_box(self, class_id: int, start: Voxel, stop: Voxel, positive: bool = True) -> None:
        """Add a half-open box around all of the class on its slices. Raises InputError as :meth:`add_point`."""
        with validation_errors():
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
        with validation_errors():
            self.add(Mask.from_array(np.asarray(mask) > 0, class_id, positive))

    def lock(self, class_id: int, locked: bool = True) -> None:
        """Lock a class, so that later prompts leave its voxels as they are, or unlock it."""
        with validation_errors():
            self.add(Lock(class_id=class_id, locked=locked))

    def add_class(self, name: str) -> int:
        """Add a class that the network does not know; return its label value.

        Raises:
            InputError: as :func:`s2vnet.interactive.check_entries.new_class`.
        """
        entry = new_class(name, self.class_names)
        self.add(entry)
        return entry.class_id

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
            on_step: called after each step of the computation, also where there is nothing to send.

        Raises:
            InputError: a prompt outside the volume or of an unknown class.
        """
        if history is self._history:
            return
        check_entries(history.log, self.segmenter.class_names, self.geometry.shape)
        applied = self._applied.follow(history.log, self._load_corrections, on_slice, on_step)
        if history.undone:
            applied = applied.keep_longest(self._applied)
        self._set(history, applied)

    def _set(self, history: History, applied: AppliedLog) -> None:
        """Make a history with its labels the current one."""
        before, after = self.labels.reshape(-1), applied.labels.reshape(-1)
        changed = np.flatnonzero(before != after)
        self.changed_region = _region_of(changed, self.geometry.shape)
        gained, lost = (np.bincount(each[changed], minlength=256) for each in (after, before))
        voxel = self.geometry.voxel_volume_ml
        self.last_changes = {
            int(k): (float(gained[k] * voxel), float(lost[k] * voxel)) for k in np.flatnonzero(gained + lost)
        }
        self._notes = None
        self._history, self._applied = history, applied
        for listener in self.listeners:
            listener()

    def check(self, log: Log) -> None:
        """Raise InputError as :meth:`apply`, for a log in place of the current one."""
        check_entries(log, self.segmenter.class_names, self.geometry.shape)

    def valid_entries(self, log: Log) -> Log:
        """Entries of a log without those that :meth:`check` refuses."""
        return valid_entries(log, self.segmenter.class_names, self.geometry.shape)

    @property
    def plane(self) -> int:
        """File axis (0, 1 or 2 of i, j, k) perpendicular to the network's slices."""
        return self._grid.orientation.axes[self._grid.axis]

    @property
    def nbytes(self) -> int:
        """Memory in bytes: labels, changes, :attr:`volume`, and cached tensors unless they are offloaded.

        Safe to call from any thread.
        """
        corrections, volume = self._corrections, self.volume
        labels = self._applied.nbytes + self._overruled.nbytes
        if self._initial is not None and self._initial is not self.labels:
            labels += self._initial.nbytes
        cached = 0 if corrections is None else corrections.nbytes
        return labels + cached + (0 if volume is None else volume.data.nbytes)

    @property
    def offloaded_nbytes(self) -> int:
        """Memory in bytes that the next prompt loads again; 0 unless offloaded."""
        return self._offloaded_nbytes if self._corrections is None else 0

    def offload(self, path: Path) -> None:
        """Write cached tensors to a safetensors file and free their memory; the next prompt loads them again.

        Raises:
            InputError: the file cannot be written.
        """
        if self._corrections is None:
            return
        if path != self._offload_path or not path.exists():  # cached tensors never change
            with atomic_write(path) as temporary, disk_errors(SafetensorError):
                save_file(self._corrections.state_dict(), temporary)
        self._offloaded_nbytes = self._corrections.nbytes
        self._corrections, self._offload_path = None, path

    def _load_corrections(self) -> Corrections:
        """Return the cached tensors, loaded from their file if they were offloaded. Raises InputError if that fails."""
        if self._corrections is None:
            assert self._offload_path is not None
            try:
                tensors = load_file(self._offload_path)
            except (OSError, SafetensorError) as error:
                message = f"{self._offload_path}: cached tensors cannot be loaded ({error}); open the scan again"
                raise InputError(message) from error
            self._corrections = Corrections.from_state_dict(self.segmenter, self._grid, tensors)
        return self._corrections

    def _automatic_labels(self) -> npt.NDArray[np.uint8]:
        return np.asarray(self._segmentation().labels().data, np.uint8)

    def _segmentation(self) -> Segmentation:
        """Return the network's automatic result."""
        return self._load_corrections().automatic

    def likely_class(self, voxels: npt.ArrayLike) -> int:
        """Most frequent class but background of voxels (N, 3); the most probable one if all are background.

        Raises:
            InputError: voxels outside the volume.
        """
        indices = np.asarray(voxels, np.intp).reshape(-1, 3)
        if (indices < 0).any() or (indices >= np.array(self.geometry.shape)).any():
            size = " x ".join(map(str, self.geometry.shape))
            raise InputError(f"prompt reaches outside the volume of {size}; indices start at 0")
        votes = np.bincount(self.labels[tuple(indices.T)], minlength=len(self.class_names))[1:]
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

    def places_to_check(self, count: int = 12) -> list[Voxel]:
        """Voxels of highest uncertainty of the automatic result, the most uncertain first.

        They are at least 3 cm, or a fifth of a small volume's largest side, apart from each other and from prompts.
        """
        return suggest.places_to_check(self._segmentation(), self.log, self.segmenter.plan.stem_stride, count)

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
        return f"<Session over {size} voxels, {len(self.class_names) - 1} classes, {len(self.log)} prompts>"

    def _repr_png_(self) -> bytes | None:
        """PNG for notebooks: three planes through :meth:`voxel_to_check`; None without the image.

        https://ipython.readthedocs.io/en/stable/config/integrating.html#custom-methods
        """
        if self.volume is None:
            return None
        from s2vnet.visualization.overlays import figure_to_png, orthogonal_planes

        clicks = [entry for entry in self.log if isinstance(entry, Point)]
        labels = LabelMap(self.labels, self.geometry)
        channel = self.segmenter.plan.channels[0]
        return figure_to_png(
            orthogonal_planes(self.volume, labels, self.class_names, self.voxel_to_check(), clicks, channel)
        )

    def save_log(self, path: Path | str) -> None:
        """Write the prompt log as JSON. Raises InputError where the file cannot be written."""
        saved = SavedLog(self.log, self.segmenter.sha256, self.geometry, self._initial)
        write_log(Path(path), saved, self.class_names, self.notes)

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
            check_entries(saved.entries, self.segmenter.class_names, self.geometry.shape)
            start, history = self._applied, self._history
            if not _equal(saved.initial, self._initial):  # what came before cannot be undone to other initial labels
                labels = self._automatic_labels() if saved.initial is None else self._check_labels(saved.initial)
                start, history = AppliedLog(labels), History()
            applied = start.follow(saved.entries, self._load_corrections)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        self._old_log = saved.entries if saved.format == 1 else None
        if history is not self._history:
            self._initial = saved.initial
        self._set(history.push(saved.entries), applied)

    def _check_labels(self, labels: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
        unknown = sorted(set(np.unique(labels).tolist()) - set(self.segmenter.class_names))
        if unknown:
            raise InputError(f"initial labels have the value {unknown[0]}, which is no class of the model")
        checked: npt.NDArray[np.uint8] = np.array(labels, np.uint8, order="C")
        checked.flags.writeable = False
        return checked


def _region_of(flat: npt.NDArray[np.intp], shape: tuple[int, int, int]) -> Region | None:
    """Smallest block that holds voxels (N,) given by flat index; None without any."""
    if not len(flat):
        return None
    i, j, k = (slice(int(v.min()), int(v.max()) + 1) for v in np.unravel_index(flat, shape))
    return i, j, k


def _equal(first: npt.NDArray[np.uint8] | None, second: npt.NDArray[np.uint8] | None) -> bool:
    """Whether two sessions start from the same labels; None stands for the automatic ones."""
    if first is None or second is None:
        return first is second
    return np.array_equal(first, second)
