"""An interactive session over one volume. Its result is a function of the image and the prompt log, nothing else.

So undo is exact, any prompt can be removed, and a saved log replays to the same labels. Slices are encoded once;
a prompt costs decoder passes only (:meth:`EncodedVolume.prompted`), and what they give can be looked at slice by
slice while they run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from s2vnet.errors import InputError
from s2vnet.inference.encoded_volume import EncodedVolume, ProgressCallback
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.apply_prompts import LockedMasks, PromptApplier, PromptResult, Prompts, StepCallback
from s2vnet.interactive.history import History, Log
from s2vnet.interactive.live_updates import LiveUpdates, SliceCallback
from s2vnet.interactive.voxelize import is_box, prompt_voxels
from s2vnet.io.geometry import Geometry, LabelMap, Region, Volume
from s2vnet.prompts import Box, Entry, Lasso, Lock, Mask, Point, Prompt, Scribble, Voxel
from s2vnet.utils.atomic_write import atomic_write, disk_errors
from s2vnet.utils.components import bounding_box
from s2vnet.utils.extras import require_extra
from s2vnet.utils.json_io import read_json
from s2vnet.utils.validation import first_error

if TYPE_CHECKING:
    from s2vnet.interactive.notebook import View

LOG_FORMAT = 1
MAX_NOTED_VOXELS = 100_000
"""Prompts of more voxels are left out of the notes, which look at each."""
CHECKED_MARGIN = 2
"""The network's slices on either side of a prompted one that are taken for checked."""
_entries: TypeAdapter[list[Entry]] = TypeAdapter(list[Entry])


class Session:
    """Prompts on one volume; label values and voxel indices ``i j k`` are the file's. A notebook shows it."""

    def __init__(
        self,
        segmenter: Segmenter,
        volume: Volume,
        progress: ProgressCallback | None = None,
        watch: SliceCallback | None = None,
    ) -> None:
        """Encode the volume and segment it automatically.

        Args:
            segmenter: of one model.
            volume: as read from its file.
            progress: told of slices encoded and swept.
            watch: told of slices twice: as each by itself gives it once it is encoded, and as the sweeps give it.

        Raises:
            InputError: several models (an ensemble has no one state to prompt), or channels that do not fit.
        """
        if len(segmenter.models) != 1:
            raise InputError("a session works with one model, not an ensemble; name one model")
        self.segmenter = segmenter
        self.geometry = volume.geometry
        self.volume: Volume | None = volume
        """What is segmented, for showing only; who has it elsewhere may set None, and its memory is free."""
        self.listeners: list[Callable[[], None]] = []
        """Called after every change of the log."""
        case = segmenter.prepare(volume)
        self._grid = case.grid
        self.training_differences = segmenter.training_differences(volume, case)
        """In what the volume lies outside of what the network was trained on, a line each."""
        stream = None if watch is None else LiveUpdates(case.grid, watch)
        engine = segmenter.encode(
            case, segmenter.models[0], progress, stream.swept if stream else None, stream.seen_alone if stream else None
        )
        self._ready: PromptApplier | None = PromptApplier(segmenter, case.grid, engine)
        self._away: Path | None = None
        self._away_bytes = 0
        self._history = History()
        self._noted: list[str] | None = None
        self._locked: dict[Log, npt.NDArray[np.bool_]] = {}
        self._shown: PromptResult | None = None
        self._shown, self._frozen = self._result(())
        self._labels = self._shown.labels
        self.changed_region: Region | None = None
        """Smallest block of file voxels that the last operation changed; None when it changed nothing."""

    @property
    def history(self) -> History:
        """What has been said and undone."""
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
        """What the log says that a user should know: prompts that a later one or a lock overrules."""
        if self._noted is None:
            self._noted = _notes(self.log, self._frozen, self.geometry.shape)
        return self._noted

    def add_point(self, class_id: int, voxel: Voxel, positive: bool = True) -> None:
        """Click: this voxel is (not) of the class. Raises InputError outside the volume or for an unknown class."""
        with _checked():
            self.add(Point(class_id=class_id, positive=positive, voxel=voxel))

    def add_scribble(self, class_id: int, voxels: Sequence[Voxel], positive: bool = True) -> None:
        """Brush stroke: these voxels are (not) of the class. Raises InputError as :meth:`add_point`."""
        with _checked():
            self.add(Scribble(class_id=class_id, positive=positive, voxels=tuple(voxels)))

    def add_lasso(self, class_id: int, axis: int, vertices: Sequence[Voxel], positive: bool = True) -> None:
        """Polygon on a slice across `axis` (0, 1 or 2 of i, j, k). Raises InputError as :meth:`add_point`."""
        with _checked():
            self.add(Lasso(class_id=class_id, positive=positive, axis=axis, vertices=tuple(vertices)))

    def add_box(self, class_id: int, start: Voxel, stop: Voxel, positive: bool = True) -> None:
        """Half-open box around all of the class on the slices that it spans. Raises InputError as :meth:`add_point`."""
        with _checked():
            self.add(Box(class_id=class_id, positive=positive, start=start, stop=stop))

    def add_mask(self, class_id: int, mask: npt.NDArray[np.bool_], positive: bool = True) -> None:
        """Mask (I, J, K): these voxels are (not) of the class. Raises InputError as :meth:`add_point`."""
        if mask.shape != self.geometry.shape:
            raise InputError(f"mask {mask.shape} must have the image's shape {self.geometry.shape}")
        with _checked():
            self.add(Mask.from_array(np.asarray(mask) > 0, class_id, positive))

    def lock(self, class_id: int, locked: bool = True) -> None:
        """From here on prompts leave this class as it is now (or may change it again)."""
        with _checked():
            self.add(Lock(class_id=class_id, locked=locked))

    def add(self, *entries: Entry) -> None:
        """Take prompts of any number of classes in one round; all of them or, when one is wrong, none."""
        self.apply(self._history.add(*entries))

    def add_round(self, points: Sequence[Point]) -> None:
        """One round of clicks (:class:`s2vnet.evaluation.protocol.InteractiveSession`)."""
        self.add(*points)

    def remove(self, index: int) -> None:
        """Take any entry out of the log. Raises InputError when there is none with this number."""
        self.apply(self._history.remove(index))

    def reset(self) -> None:
        """Take everything out of the log; can be undone."""
        self.apply(self._history.push(()))

    def undo(self) -> bool:
        """Go back one operation; False when there is none."""
        before = self._history
        self.apply(before.undo())
        return self._history is not before

    def redo(self) -> bool:
        """Take back the last undo; False when there is none."""
        before = self._history
        self.apply(before.redo())
        return self._history is not before

    def apply(self, history: History, watch: SliceCallback | None = None, pause: StepCallback | None = None) -> None:
        """Work out what a history's log gives and take it over; an error or interrupt on the way changes nothing.

        Args:
            history: any number of operations away from the present one.
            watch: told of slices as they are done, those with the newest prompt first.
            pause: called after each step, also of what locks need, of which a watch is told nothing.

        Raises:
            InputError: a prompt outside the volume or of an unknown class.
        """
        if history is self._history:
            return
        self.check(*history.log)
        shown, frozen = self._result(history.log, watch, pause)
        self.changed_region = bounding_box(shown.labels != self.labels)
        self._noted = None
        self._history, self._shown, self._labels, self._frozen = history, shown, shown.labels, frozen
        self._locked = {log: mask for log, mask in self._locked.items() if log == history.log[: len(log)]}
        for follower in self.listeners:
            follower()

    def check(self, *entries: Entry) -> None:
        """Raise InputError for a prompt outside the volume, damaged, or of an unknown class."""
        for entry in entries:
            self._check(entry)

    def valid_entries(self, log: Log) -> Log:
        """Those entries of a log that :meth:`check` takes."""
        return tuple(entry for entry in log if not _refused(self._check, entry))

    @property
    def plane(self) -> int:
        """File axis (0, 1 or 2 of i, j, k) across which the network's slices lie."""
        return self._grid.orientation.axes[self._grid.axis]

    @property
    def nbytes(self) -> int:
        """Memory in bytes: labels, locked voxels, :attr:`volume`, and what is cached unless it is put away.

        Any thread may ask.
        """
        ready, shown, volume = self._ready, self._shown, self.volume
        masks = [*tuple(self._locked.values()), *self._frozen.values()]
        arrays = {id(array): array.nbytes for array in (self._labels, *masks)}
        cached = 0 if ready is None else ready.nbytes + ready.prompted_nbytes(shown)
        return sum(arrays.values()) + cached + (0 if volume is None else volume.data.nbytes)

    @property
    def offloaded_nbytes(self) -> int:
        """Memory in bytes that comes back with what was put away; 0 while nothing is."""
        return self._away_bytes if self._ready is None else 0

    def offload(self, path: Path) -> None:
        """Write what is cached to a safetensors file and free its memory; the next prompt reads it again.

        Raises:
            InputError: the system refuses to.
        """
        if self._ready is None:
            return
        if path != self._away or not path.exists():  # what is cached never changes
            with atomic_write(path) as temporary, disk_errors(SafetensorError):
                save_file(self._ready.engine.state_dict(), temporary)
        self._away_bytes = self._ready.nbytes
        self._ready, self._away, self._shown, self._locked = None, path, None, {}

    @property
    def _answers(self) -> PromptApplier:
        """What is cached, read again where it was put away. Raises InputError if that is not there any more."""
        if self._ready is None:
            assert self._away is not None
            try:
                packed = load_file(self._away, device=str(self.segmenter.device))
            except (OSError, SafetensorError) as error:
                raise InputError(f"{self._away}: what was cached is lost ({error}); open the scan again") from error
            engine = EncodedVolume.from_state_dict(self.segmenter.models[0], packed)
            self._ready = PromptApplier(self.segmenter, self._grid, engine)
        return self._ready

    def likely_class(self, voxels: npt.ArrayLike) -> int:
        """The class but background that voxels (N, 3) most probably are of: the one they have, else could have."""
        places = np.asarray(voxels, np.intp).reshape(-1, 3)
        if (places < 0).any() or (places >= np.array(self.geometry.shape)).any():
            size = " x ".join(map(str, self.geometry.shape))
            raise InputError(f"prompt reaches outside the volume of {size}; indices start at 0")
        votes = np.bincount(self.labels[tuple(places.T)], minlength=len(self.segmenter.class_names))[1:]
        if votes.any():
            return int(votes.argmax()) + 1
        return int(self._scores_at(places)[:, 1:].mean(0).argmax()) + 1

    def slice_uncertainty(self) -> npt.NDArray[np.float32]:
        """How unsure the network is on each of its slices: mean entropy of the class probabilities, nats."""
        shown = self._shown or self._result(self.log)[0]
        entropy = torch.special.entr(shown.segmentation.scores.float().clamp(0, 1)).sum(1)
        found: npt.NDArray[np.float32] = entropy.mean((1, 2)).cpu().numpy()
        return found

    def next_slice_to_check(self) -> tuple[int, int] | None:
        """Axis of the file and index of the slice where the network is least sure, away from prompts; None for none.

        Unsure is as :meth:`slice_uncertainty` says.
        """
        grid, doubt = self._grid, self.slice_uncertainty()
        for entry in self.log:
            if not isinstance(entry, Lock):
                d = np.rint(grid.voxels_to_pixels(_ends(entry))[:, 0]).astype(int)
                doubt[max(0, d.min() - CHECKED_MARGIN) : max(0, d.max() + CHECKED_MARGIN + 1)] = -1
        if doubt.max() <= 0:
            return None
        start, stop = grid.slab(int(doubt.argmax()))
        axis = self.plane
        return axis, grid.file_region((start + stop) // 2, (start + stop) // 2 + 1)[axis].start

    def voxel_to_check(self) -> Voxel:
        """Centre of the newest prompt, else the most uncertain voxel of :meth:`next_slice_to_check`."""
        prompts = [entry for entry in self.log if not isinstance(entry, Lock)]
        if prompts:
            ends = _ends(prompts[-1])
            i, j, k = ((ends.min(0) + ends.max(0)) // 2).tolist()
            return i, j, k
        shape = list(self.geometry.shape)
        unsure = self.next_slice_to_check()
        if unsure is None:
            i, j, k = (n // 2 for n in shape)
            return i, j, k
        axis, index = unsure
        shape[axis] = 1
        places = np.indices(shape).reshape(3, -1).T
        places[:, axis] = index
        crop = self._grid.voxels_to_crop(places)
        places = places[((crop >= 0) & (crop < self._grid.size)).all(1)]
        i, j, k = places[int(torch.special.entr(self._scores_at(places)).sum(1).argmax())].tolist()
        return i, j, k

    def view(self) -> View:
        """A widget for a notebook that shows image and labels, takes clicks, and follows this session.

        Raises:
            InputError: ipyniivue is not installed, or :attr:`volume` was let go of.
        """
        require_extra("notebook", "a view in a notebook", "ipyniivue")
        from s2vnet.interactive.notebook import View

        return View(self)

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.geometry.shape))
        return f"<Session over {size} voxels, {len(self.segmenter.class_names) - 1} classes, {len(self.log)} prompts>"

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows of it: three planes through :meth:`voxel_to_check`; nothing without the image.

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
        """Write the prompt log as JSON. Raises InputError when the system refuses to."""
        content = {
            "format": LOG_FORMAT,
            "model_sha256": self.segmenter.sha256,
            "shape": self.geometry.shape,
            "affine": self.geometry.affine.tolist(),
            "classes": self.segmenter.class_names,
            "entries": _entries.dump_python(list(self.log), mode="json"),
            "notes": self.notes,
        }
        with atomic_write(Path(path)) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")

    def replay(self, path: Path) -> None:
        """Take over a saved log in one operation.

        Raises:
            InputError: damaged, of another format, for an image of another shape, or for another model.
        """
        content = read_log(path)
        self.geometry.require_same_grid(content["geometry"], f"{path}: this image and the one of the log")
        if content["model_sha256"] != self.segmenter.sha256:
            raise InputError(f"{path}: log of another model; use the model with sha256 {content['model_sha256']:.12}")
        try:
            self.apply(self._history.push(tuple(content["entries"])))
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def _scores_at(self, places: npt.NDArray[np.intp]) -> torch.Tensor:
        """Class probabilities (N, K) of the cells nearest to file voxels (N, 3)."""
        shown = self._shown or self._result(self.log)[0]
        scores = shown.segmentation.scores
        cells = self._grid.voxels_to_cells(places, self.segmenter.plan.stem_stride)
        d, y, x = np.clip(np.rint(cells).astype(int), 0, np.array(scores.shape)[[0, 2, 3]] - 1).T
        return scores[d, :, y, x].float().clamp(0, 1)

    def _check(self, entry: Entry) -> None:
        names = self.segmenter.class_names
        if entry.class_id not in names:
            known = ", ".join(f"{k} {name}" for k, name in names.items())
            raise InputError(f"no class {entry.class_id}; the model knows {known}")
        if isinstance(entry, Lock):
            return
        shape = self.geometry.shape
        size = " x ".join(map(str, shape))
        try:
            ends = _ends(entry)
            outside = bool((ends < 0).any() or (ends >= np.array(shape)).any())
        except OverflowError:
            outside = True
        if outside:
            raise InputError(f"{entry.kind} prompt reaches outside the volume of {size}; indices start at 0")
        if isinstance(entry, Mask):
            entry.voxels()

    def _result(
        self, log: Log, watch: SliceCallback | None = None, pause: StepCallback | None = None
    ) -> tuple[PromptResult, LockedMasks]:
        """What a log gives, and the voxels that its locks hold."""
        frozen: dict[int, npt.NDArray[np.bool_]] = {}
        prompts: Prompts = ()
        for number, entry in enumerate(log, start=1):
            if not isinstance(entry, Lock):
                prompts = (*prompts, entry)
            elif entry.locked and entry.class_id in frozen:
                continue  # it is held already
            elif entry.locked:
                if (until := log[:number]) not in self._locked:
                    held = self._answers.apply(prompts, frozen, pause=pause)
                    self._locked[until] = held.labels == entry.class_id
                frozen[entry.class_id] = self._locked[until]
            else:
                frozen.pop(entry.class_id, None)
        return self._answers.apply(prompts, frozen, watch, self._shown and self._shown.sweeps, pause), frozen


def read_log(path: Path) -> dict[str, Any]:
    """A saved prompt log; its ``entries`` are prompts and locks, its ``geometry`` the grid of their image.

    Raises:
        InputError: missing, damaged, or of another format.
    """
    try:
        content = read_json(path)
        if content["format"] != LOG_FORMAT:
            raise InputError(f"{path}: prompt log of format {content['format']}, but this version reads {LOG_FORMAT}")
        content["entries"] = _entries.validate_python(content["entries"])
        content["model_sha256"] = str(content["model_sha256"])
        i, j, k = (int(n) for n in content["shape"])
        content["geometry"] = Geometry((i, j, k), np.array(content["affine"], float))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except InputError:
        raise
    except (OverflowError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise InputError(f"{path}: not a prompt log, or damaged ({str(error).splitlines()[0]})") from error
    checked: dict[str, Any] = content
    return checked


def _refused(check: Callable[[Entry], None], entry: Entry) -> bool:
    try:
        check(entry)
    except InputError:
        return True
    return False


def num_prompt_voxels(entry: Entry) -> int:
    """Voxels that a prompt is given by; of a box or a mask, those of its block."""
    if isinstance(entry, Box | Mask):
        return int(np.prod([b - a for a, b in zip(entry.start, entry.stop, strict=True)], dtype=object))
    return len(entry.voxels) if isinstance(entry, Scribble) else 1


def _ends(prompt: Prompt) -> npt.NDArray[np.intp]:
    """Voxels (N, 3) that must lie in the volume for all of the prompt to do so."""
    if isinstance(prompt, Box | Mask):
        return np.array([prompt.start, np.array(prompt.stop) - 1])
    if isinstance(prompt, Lasso):
        return np.array(prompt.vertices)
    return prompt_voxels(prompt)


def _notes(log: Sequence[Entry], frozen: LockedMasks, shape: tuple[int, int, int]) -> list[str]:
    """What later prompts overrule, and what the locks in force do."""
    since: dict[int, int] = {}
    for number, entry in enumerate(log):
        if isinstance(entry, Lock) and entry.locked:
            since.setdefault(entry.class_id, number)
        elif isinstance(entry, Lock):
            since.pop(entry.class_id, None)
    standing: dict[int, dict[tuple[int, bool], int]] = {}
    notes = []
    for number, entry in enumerate(log):
        if isinstance(entry, Lock):
            continue
        own, locks = (entry.class_id, entry.positive), [k for k, n in since.items() if n < number]
        if entry.class_id in locks:
            notes.append(f"prompt {number} speaks of class {entry.class_id}, which is locked: it changes nothing of it")
        if is_box(entry) or num_prompt_voxels(entry) > MAX_NOTED_VOXELS:
            continue
        where = tuple(prompt_voxels(entry).T)
        for class_id in locks:
            if entry.positive and class_id != entry.class_id and frozen[class_id][where].any():
                notes.append(f"prompt {number} lies on class {class_id}, which is locked: it changes nothing there")
        overruled = set()
        for voxel in np.ravel_multi_index(where, shape).tolist():
            said = standing.setdefault(voxel, {})
            for other in [other for other in said if _contradict(other, own)]:
                overruled.add(said.pop(other))
            said[own] = number
        notes += [f"prompt {number} overrules prompt {before} where they overlap" for before in sorted(overruled)]
    return notes


def _contradict(earlier: tuple[int, bool], later: tuple[int, bool]) -> bool:
    """Whether two statements (class, positive) about one voxel exclude each other."""
    if earlier[1] and later[1]:
        return earlier[0] != later[0]
    return earlier[1] != later[1] and earlier[0] == later[0]


@contextmanager
def _checked() -> Iterator[None]:
    """Say in one line what a prompt's own checks refuse.

    Raises:
        InputError: in place of pydantic's error.
    """
    try:
        yield
    except ValidationError as error:
        raise InputError(f"{error.title.lower()} prompt: {first_error(error)}") from error
