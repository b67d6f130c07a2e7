"""An interactive session over one volume. Its result is a function of the image and the prompt log, nothing else.

So undo is exact, any prompt can be removed, and a saved log replays to the same labels. Slices are encoded once;
a prompt costs decoder passes only (:meth:`s2vnet.infer.engine.VolumeEngine.prompted`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from s2vnet.atomic import replacing
from s2vnet.infer.engine import Progress, combine
from s2vnet.infer.segmenter import Segmentation, Segmenter
from s2vnet.infer.strays import Cells, find_strays, winner_of, without_strays
from s2vnet.model.prompts import Stroke, draw, touched
from s2vnet.types import Box, Entry, InputError, Lasso, Lock, Mask, Point, Prompt, Scribble, Voxel
from s2vnet.volume.geometry import Geometry, LabelMap, Volume

LOG_FORMAT = 1
_NOWHERE = np.empty(0, np.intp)
Region = tuple[slice, slice, slice]
Frozen = Mapping[int, npt.NDArray[np.bool_]]
"""Voxels (I, J, K) of each locked class."""
_entries: TypeAdapter[list[Entry]] = TypeAdapter(list[Entry])


class Session:
    """Prompts on one volume; label values and voxel indices ``i j k`` are the file's."""

    def __init__(self, segmenter: Segmenter, volume: Volume, progress: Progress | None = None) -> None:
        """Encode the volume and segment it automatically.

        Raises:
            InputError: several models (an ensemble has no one state to prompt), or channels that do not fit.
        """
        if len(segmenter.models) != 1:
            raise InputError("a session works with one model, not an ensemble; name one model")
        self.segmenter = segmenter
        self.geometry = volume.geometry
        self._case = segmenter.prepare(volume)
        self.unlike = segmenter.unlike(volume, self._case)
        """In what the volume lies outside of what the network was trained on, a line each."""
        self._engine = segmenter.engine(self._case, segmenter.models[0], progress)
        self._log: tuple[Entry, ...] = ()
        self._undone: list[tuple[Entry, ...]] = []
        self._past: list[tuple[Entry, ...]] = []
        self._automatic_scores = combine(self._engine.automatic, 0, self._engine.depth).half()
        self._winner = winner_of(self._automatic_scores) if segmenter.plan.smallest_part else None
        self._strays = None if self._winner is None else find_strays(self._winner, segmenter.plan.smallest_part, {})
        self._automatic = self._segmentation(()).label_slices(0, self._case.restore.size[0])
        self._labels, self._frozen = self._result(())
        self.changed_region: Region | None = None
        """Smallest block of file voxels that the last operation changed; None when it changed nothing."""

    @property
    def log(self) -> tuple[Entry, ...]:
        """Prompts and locks in the order they were given."""
        return self._log

    @property
    def labels(self) -> npt.NDArray[np.uint8]:
        """Current class of each voxel (I, J, K)."""
        return self._labels

    @property
    def result(self) -> LabelMap:
        """Current label map on the file's grid."""
        return LabelMap(self._labels.copy(), self.geometry)

    @property
    def notes(self) -> list[str]:
        """What the log says that a user should know: prompts that a later one or a lock overrules."""
        return _notes(self._log, self._frozen, self.geometry.shape)

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
        self._move_checked((*self._log, *entries))

    def add_round(self, points: Sequence[Point]) -> None:
        """One round of clicks (:class:`s2vnet.evaluate.protocol.Interactive`)."""
        self.add(*points)

    def remove(self, index: int) -> None:
        """Take any entry out of the log. Raises InputError when there is none with this number."""
        if not 0 <= index < len(self._log):
            raise InputError(f"no prompt number {index}; the log has {len(self._log)}")
        self._move((*self._log[:index], *self._log[index + 1 :]))

    def undo(self) -> bool:
        """Go back one operation; False when there is none."""
        if not self._past:
            return False
        before = self._log
        self._show(self._past[-1])
        self._past.pop()
        self._undone.append(before)
        return True

    def redo(self) -> bool:
        """Take back the last undo; False when there is none."""
        if not self._undone:
            return False
        before = self._log
        self._show(self._undone[-1])
        self._undone.pop()
        self._past.append(before)
        return True

    def save_log(self, path: Path | str) -> None:
        """Write the prompt log as JSON. Raises InputError when the system refuses to."""
        content = {
            "format": LOG_FORMAT,
            "model_sha256": self.segmenter.sha256,
            "shape": self.geometry.shape,
            "affine": self.geometry.affine.tolist(),
            "classes": self.segmenter.class_names,
            "entries": _entries.dump_python(list(self._log), mode="json"),
            "notes": self.notes,
        }
        with replacing(Path(path)) as temporary:
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
            self._move_checked(content["entries"])
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

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

    def _move_checked(self, log: Sequence[Entry]) -> None:
        for entry in log:
            self._check(entry)
        self._move(tuple(log))

    def _move(self, log: tuple[Entry, ...]) -> None:
        before = self._log
        self._show(log)
        self._past.append(before)
        self._undone.clear()

    def _show(self, log: tuple[Entry, ...]) -> None:
        """Take over a log and its result; an error or interrupt on the way changes nothing."""
        labels, frozen = self._result(log)
        box = np.nonzero(labels != self._labels)
        found = [slice(int(a.min()), int(a.max()) + 1) for a in box] if len(box[0]) else None
        self.changed_region = (found[0], found[1], found[2]) if found else None
        self._log, self._labels, self._frozen = log, labels, frozen

    def _result(self, log: tuple[Entry, ...]) -> tuple[npt.NDArray[np.uint8], Frozen]:
        """Labels (I, J, K) of a log: the network's answer, then the prompted voxels themselves, then locks."""
        frozen: dict[int, npt.NDArray[np.bool_]] = {}
        prompts: tuple[Prompt, ...] = ()
        for entry in log:
            if not isinstance(entry, Lock):
                prompts = (*prompts, entry)
            elif entry.locked:
                frozen[entry.class_id] = self._answer(prompts, frozen) == entry.class_id
            else:
                frozen.pop(entry.class_id, None)
        return self._answer(prompts, frozen), frozen

    def _answer(self, prompts: tuple[Prompt, ...], frozen: Frozen) -> npt.NDArray[np.uint8]:
        segmentation = self._segmentation(prompts)
        start, stop = self._case.restore.reached(*self._span)
        stack = self._automatic.copy() if prompts else self._automatic
        if prompts and stop > start:
            stack[start:stop] = segmentation.label_slices(start, stop)
        labels: npt.NDArray[np.uint8] = self._case.restore.place(stack)  # type: ignore[assignment]
        flat = labels.reshape(-1)
        denied: dict[int, npt.NDArray[np.intp]] = {}
        named: dict[int, npt.NDArray[np.intp]] = {}
        boxes: list[Box] = []
        for prompt in prompts:
            own = prompt.class_id
            if _is_box(prompt):
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
        return labels

    def _ijk(self, flat: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Voxels (N, 3) of flat indices (N,)."""
        return np.stack(np.unravel_index(flat, self.geometry.shape), 1)

    def _beyond(self, box: Box, voxels: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
        """Which voxels (N, 3) lie outside a box on the slices that it spans."""
        inside = (voxels >= np.array(box.start)) & (voxels < np.array(box.stop))
        axis = self._case.restore.orientation.axes[self._case.restore.axis]
        beyond: npt.NDArray[np.bool_] = inside[:, axis] & ~inside.all(1)
        return beyond

    def _relabel(
        self,
        flat: npt.NDArray[np.uint8],
        where: npt.NDArray[np.intp],
        segmentation: Segmentation,
        denied: Mapping[int, npt.NDArray[np.intp]],
        boxes: Sequence[Box],
        never: Iterable[int],
    ) -> None:
        """Give voxels (flat indices) the most probable class but `never`, and none denied them if there is another.

        Voxels outside the crop ask its nearest voxel.
        """
        restore = self._case.restore
        voxels = self._ijk(where)
        places = np.clip(restore.crop_voxels(voxels), 0, np.array(restore.size) - 1)
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

    def _segmentation(self, prompts: tuple[Prompt, ...]) -> Segmentation:
        """The network's answer to prompts; ``_span`` then says which slices may differ from the automatic ones."""
        engine = self._engine
        strokes = [s for s in map(self._stroke, prompts) if s is not None]
        reach = engine.model.config.prompt_reach
        slices = touched(strokes, engine.depth, reach)
        classes = len(self.segmenter.class_names)
        maps = draw(strokes, torch.tensor(slices, dtype=torch.float32), classes, engine.size, reach)
        sweeps = engine.prompted({d: maps[n].to(self.segmenter.device) for n, d in enumerate(slices)})
        spans = [s.changed for s in sweeps if slices]
        self._span = (min(s.start for s in spans), max(s.stop for s in spans)) if spans else (0, 0)
        start, stop = self._span
        scores = self._automatic_scores
        if stop > start:
            scores = scores.clone()
            scores[start:stop] = combine(sweeps, start, stop).half()
        return Segmentation(self._case.restore, self._tidied(scores, strokes), self.segmenter.class_names)

    def _tidied(self, scores: Tensor, strokes: Sequence[Stroke]) -> Tensor:
        """Scores without strays; ``_span`` then takes in the slices whose strays are others than without prompts.

        For a prompt can make a part far away the largest of its class, or no longer that.
        """
        if self._winner is None or self._strays is None:
            return scores
        (start, stop), winner, strays = self._span, self._winner.copy(), self._strays
        winner[start:stop] = winner_of(scores[start:stop])
        if strokes:
            strays = find_strays(winner, self.segmenter.plan.smallest_part, _named(strokes))
            changed = np.flatnonzero((strays != self._strays).any((1, 2))).tolist()
            ends = [*changed[:1], *changed[-1:], *([start, stop - 1] if stop > start else [])]
            if ends:
                self._span = min(ends), max(ends) + 1
        return without_strays(scores, winner, strays)

    def _stroke(self, prompt: Prompt) -> Stroke | None:
        """The prompt's cells on the mask grid; None when it lies wholly outside the crop."""
        restore, stride = self._case.restore, self.segmenter.plan.stem_stride
        if _is_box(prompt):
            crop = restore.file_box(0, restore.size[0])
            low = np.maximum(prompt.start, [s.start for s in crop])
            high = np.minimum(prompt.stop, [s.stop for s in crop]) - 1
            voxels = np.array([low, high])
            if (high < low).any():
                return None
        else:
            voxels = prompt_voxels(prompt)
        cells = restore.to_slices(voxels)
        cells[:, 1:] = (cells[:, 1:] + 0.5) / stride - 0.5
        if restore.joined > 1:
            cells[:, 0] = cells[:, 0].round()
        if _is_box(prompt):  # drawn where it is tightest, if anywhere; elsewhere it only says where the class is not
            cells[:, 0] = cells[:, 0].mean().round()
        elif not isinstance(prompt, Point):
            cells = np.unique(np.rint(cells), axis=0)
        inside = (cells > -0.5).all(1) & (cells < np.array([self._engine.depth, *self._engine.size]) - 0.5).all(1)
        cells = cells[inside]
        if not len(cells):
            return None
        kind = "box" if _is_box(prompt) else "point" if isinstance(prompt, Point | Scribble) else "region"
        tensor = torch.from_numpy(cells).float()
        return Stroke(prompt.class_id, prompt.positive, tensor, kind)  # type: ignore[arg-type]


def read_log(path: Path) -> dict[str, Any]:
    """A saved prompt log; its ``entries`` are prompts and locks, its ``geometry`` the grid of their image.

    Raises:
        InputError: missing, damaged, or of another format.
    """
    try:
        content = json.loads(path.read_text())
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
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise InputError(f"{path}: not a prompt log, or damaged ({str(error).splitlines()[0]})") from error
    checked: dict[str, Any] = content
    return checked


def _named(strokes: Sequence[Stroke]) -> dict[int, Cells]:
    """Cells of the mask grid that belong to a class because a user says so; a box's corners do not."""
    named: dict[int, list[Cells]] = {}
    for s in strokes:
        if s.positive and s.kind != "box":
            named.setdefault(s.class_id, []).append(np.rint(s.cells.numpy()).astype(np.intp))
    return {class_id: np.concatenate(cells) for class_id, cells in named.items()}


def prompt_voxels(prompt: Prompt) -> npt.NDArray[np.intp]:
    """File voxels (N, 3) that a prompt names; a box names those inside it."""
    if isinstance(prompt, Point):
        return np.array([prompt.voxel], np.intp)
    if isinstance(prompt, Scribble):
        return np.array(prompt.voxels, np.intp)
    if isinstance(prompt, Mask):
        return prompt.voxels()
    if isinstance(prompt, Box):
        ranges = (np.arange(a, b) for a, b in zip(prompt.start, prompt.stop, strict=True))
        return np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, 3)
    return _inside(prompt)


def _is_box(prompt: Entry) -> TypeGuard[Box]:
    """Whether it says where a class ends; "not in this box" is a statement on the voxels inside, as a mask's."""
    return isinstance(prompt, Box) and prompt.positive


def _inside(lasso: Lasso) -> npt.NDArray[np.intp]:
    """Voxels whose centres lie in the polygon or on its edges."""
    from matplotlib.path import Path as Polygon

    vertices = np.array(lasso.vertices)
    flat = np.delete(vertices, lasso.axis, axis=1)
    low, high = flat.min(0), flat.max(0)
    grid = np.stack(np.meshgrid(*(np.arange(a, b + 1) for a, b in zip(low, high, strict=True)), indexing="ij"), -1)
    inside = grid.reshape(-1, 2)[Polygon(flat).contains_points(grid.reshape(-1, 2))]
    edges = [
        a + np.outer(np.arange(steps), b - a) // steps
        for a, b in zip(flat, np.roll(flat, -1, axis=0), strict=True)
        if (steps := int(np.gcd(*(b - a)))) > 0
    ]
    found = np.unique(np.concatenate([inside, flat, *edges]), axis=0)
    voxels: npt.NDArray[np.intp] = np.insert(found, lasso.axis, vertices[0, lasso.axis], axis=1)
    return voxels


def _ends(prompt: Prompt) -> npt.NDArray[np.intp]:
    """Voxels (N, 3) that must lie in the volume for all of the prompt to do so."""
    if isinstance(prompt, Box | Mask):
        return np.array([prompt.start, np.array(prompt.stop) - 1])
    if isinstance(prompt, Lasso):
        return np.array(prompt.vertices)
    return prompt_voxels(prompt)


def _notes(log: Sequence[Entry], frozen: Frozen, shape: tuple[int, int, int]) -> list[str]:
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
        if _is_box(entry):
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
        raise InputError(f"{error.title.lower()} prompt: {error.errors()[0]['msg']}") from error
