"""Automatic segmentation: volume in, label map on exactly its grid out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import psutil
import torch
from pydantic import ValidationError
from torch import Tensor

from s2vnet.data.plan import Plan
from s2vnet.data.preprocess import Case, PreparedSlices, with_neighbours
from s2vnet.data.slice_grid import SliceGrid, SliceProbabilities
from s2vnet.errors import CheckpointError, InputError
from s2vnet.inference.backends import to_runtime
from s2vnet.inference.disk_cache import MemoryBudget
from s2vnet.inference.encoded_volume import (
    EncodedVolume,
    PreviewBatch,
    PreviewCallback,
    ProgressCallback,
    SweepCallback,
    first_batch_indices,
)
from s2vnet.inference.streaming import estimate_working_nbytes, segment_streaming
from s2vnet.inference.upsampling import upsample_labels
from s2vnet.io.files import max_read_nbytes, read_geometry
from s2vnet.io.geometry import Geometry, LabelMap, Volume
from s2vnet.io.lazy_image import LazyImage
from s2vnet.model.checkpoint import TrainedModel, choose_device, load_model, read_description
from s2vnet.model.s2vnet import DecoderOutput, Network, S2VNet
from s2vnet.utils.sizes import format_size
from s2vnet.utils.validation import first_error

BUNDLED_MODELS = Path(__file__).parent.parent / "weights"
"""Models that come with the package, found by name."""
SLICES_PER_CHUNK = 4
"""Slices brought to the file's grid at a time, so that no volume of all classes is ever held."""
MAX_THREADS = 4
"""Threads that do so at the same time at most."""

_WRITERS = 100 << 20
"""Bytes for what those who write frames and pictures hold besides."""
_WHOLE = 40
"""Bytes per pixel that scaling a volume by its own percentiles takes."""


def find_model(name: str | Path) -> Path:
    """Folder of a model by name or path.

    Raises:
        CheckpointError: neither a shipped model nor a folder with one.
    """
    for folder in (Path(name), BUNDLED_MODELS / str(name)):
        if (folder / "model.json").is_file():
            return folder
    known = sorted(path.parent.name for path in BUNDLED_MODELS.glob("*/model.json"))
    raise CheckpointError(f"no model {str(name)!r}; give a folder with model.json or one of {', '.join(known)}")


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What a network says about one volume."""

    grid: SliceGrid
    kept: SliceProbabilities = field(repr=False)
    class_names: Mapping[int, str]

    @property
    def scores(self) -> Tensor:
        """(D, K, h, w) class probabilities of the network's slices on the mask grid, float16; all in memory."""
        return self.kept[:]

    def labels(self, classes: Sequence[int] | None = None) -> LabelMap:
        """Most probable class of every voxel; classes outside the subset become background."""
        found = np.zeros(self.grid.geometry.shape, np.uint8)

        def fill(n: int) -> None:
            slices = self.label_slices(n, min(n + SLICES_PER_CHUNK, self.grid.size[0]))
            if classes is not None:
                slices[~np.isin(slices, list(classes))] = 0
            block, values = self.grid.slices_to_file(slices, n)
            found[block] = values

        # borders are gathered by index, which no library does in threads of its own
        with ThreadPoolExecutor(min(torch.get_num_threads(), MAX_THREADS)) as pool:
            for _ in pool.map(fill, range(0, self.grid.size[0], SLICES_PER_CHUNK)):
                pass
        return LabelMap(found, self.grid.geometry)

    def label_slices(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Most probable class (stop - start, H, W) on the source pixels of some slices of the crop."""
        parts = range(start, stop, SLICES_PER_CHUNK)
        between = (self.grid.interpolate_slices(self.kept, n, min(n + SLICES_PER_CHUNK, stop)) for n in parts)
        return np.concatenate([upsample_labels(self.grid, part) for part in between])

    def probabilities(self) -> Volume:
        """Class probabilities (K, I, J, K) on the file's grid; background is 1 outside the crop."""
        found = np.zeros((len(self.class_names), *self.grid.geometry.shape), np.float32)
        found[0] = 1
        return self._map_slices(found, lambda p: p)

    def uncertainty(self) -> Volume:
        """Entropy of the class probabilities over log K, 0 (sure) to 1, on the file's grid (1, I, J, K)."""
        found = np.zeros((1, *self.grid.geometry.shape), np.float32)
        return self._map_slices(
            found, lambda p: torch.special.entr(p.clamp(0, 1)).sum(1, keepdim=True) / np.log(p.shape[1])
        )

    def _map_slices(self, found: npt.NDArray[np.float32], of: Callable[[Tensor], Tensor]) -> Volume:
        """What is made of the probabilities (n, K, H, W) of some slices, put in place on the file's grid."""
        start = 0
        for part in self.source(0, self.grid.size[0]):
            stack: npt.NDArray[np.float32] = of(part).cpu().float().numpy()
            block, values = self.grid.slices_to_file(np.moveaxis(stack, 1, 0), start)
            found[(slice(None), *block)] = values
            start += len(stack)
        return Volume(found, self.grid.geometry)

    def source(self, start: int, stop: int) -> Iterator[Tensor]:
        """Probabilities (n, K, H, W) on source pixels, a few slices at a time: all of a CT's would fill the memory."""
        for n in range(start, stop, SLICES_PER_CHUNK):
            yield self.grid.upsample(self.grid.interpolate_slices(self.kept, n, min(n + SLICES_PER_CHUNK, stop)))


def _recognition_score(decoded: DecoderOutput) -> float:
    """How much of the classes is recognised on slices that were decoded each by itself.

    For every class the slice that shows most of it counts: how present the class is there, times its extent.
    """
    extent = decoded.logits.softmax(1)[:, 1:].sum((2, 3)).sqrt()
    return float((decoded.presence[:, 1:].sigmoid() * extent).amax(0).sum())


def load_plan(*names: str | Path) -> Plan:
    """Plan of models by name or folder; no network is made.

    Raises:
        CheckpointError: an unknown or damaged model, or models with different plans.
    """
    return _shared_plan([read_description(find_model(name)).get("plan", {}) for name in names])


def _shared_plan(plans: Sequence[Mapping[str, Any]]) -> Plan:
    try:
        found = [Plan.model_validate(dict(plan)) for plan in plans]
    except ValidationError as error:
        raise CheckpointError(f"the model's plan is of another version or damaged ({first_error(error)})") from error
    if any(plan != found[0] for plan in found):
        raise CheckpointError("the models were trained with different plans; name models of one dataset and plan")
    return found[0]


def _require_plan_match(model: S2VNet, plan: Plan) -> None:
    for name, needs in plan.network.items():
        has = getattr(model.config, name)
        if has != needs:
            raise CheckpointError(f"the model's {name} is {has} but its plan needs {needs}; train or download it again")


def volumes_ml(labels: LabelMap, class_names: Mapping[int, str]) -> dict[str, float]:
    """Volume in ml of each class but background."""
    voxel = labels.geometry.voxel_volume_ml
    return {name: float(np.count_nonzero(labels.data == k) * voxel) for k, name in class_names.items() if k}


class Segmenter:
    """One or several trained networks of one plan; several are averaged."""

    def __init__(
        self,
        trained: Sequence[TrainedModel],
        device: str = "auto",
        runtime: str = "torch",
        folders: Sequence[Path | None] | None = None,
    ) -> None:
        """Models with the same plan.

        Args:
            trained: one or several.
            device: by name.
            runtime: what computes (:mod:`s2vnet.inference.backends`).
            folders: of the models, where graphs may have been exported.

        Raises:
            CheckpointError: a plan of another version, models with different plans, one that is not for its plan, or
                graphs of other weights.
            InputError: no such runtime, or it is not installed.
        """
        self.plan = _shared_plan([t.plan for t in trained])
        for t in trained:
            _require_plan_match(t.model, self.plan)
        self.device = choose_device(device)
        self.models: tuple[Network, ...] = tuple(
            to_runtime(t, runtime, self.device, folder)
            for t, folder in zip(trained, folders or [None] * len(trained), strict=True)
        )
        self.sha256 = trained[0].sha256
        self._first_batches: WeakKeyDictionary[Case | PreparedSlices, PreviewBatch] = WeakKeyDictionary()
        """What the first network has made of a case's first slices, to find out which way round it lies."""

    @classmethod
    def from_pretrained(cls, *names: str | Path, device: str = "auto", runtime: str = "torch") -> Segmenter:
        """Models by name (``hippocampus-mr``) or folder; no network is needed.

        Raises:
            CheckpointError: unknown or damaged model.
            InputError: no such runtime, or it is not installed.
        """
        folders = [find_model(name) for name in names]
        # the others' graphs are the CPU's
        device = "cpu" if device == "auto" and runtime != "torch" else device
        return cls([load_model(folder) for folder in folders], device, runtime, folders)

    @property
    def class_names(self) -> dict[int, str]:
        """Class name by label value, background included."""
        return self.plan.class_names

    def prepare(self, image: Volume | LazyImage, name: str = "") -> Case:
        """The volume as the network sees it. Raises InputError for another number of channels."""
        prepared = self.prepare_slices(image, name)
        case = prepared.case(name)
        if prepared in self._first_batches:
            self._first_batches[case] = self._first_batches.pop(prepared)
        return case

    def prepare_slices(self, image: Volume | LazyImage, name: str = "") -> PreparedSlices:
        """Like :meth:`prepare`, but slices are made when they are needed."""
        prepared = PreparedSlices(image, self.plan, name)
        if self.plan.mirrored:
            seen = {
                each: self._encode_first_batch(each)
                for each in (prepared.mirror("RAS".index(self.plan.mirrored)), prepared)
            }
            prepared = max(seen, key=lambda each: _recognition_score(seen[each].decoded))
            self._first_batches[prepared] = seen[prepared]
        return prepared

    def training_differences(self, volume: Volume | LazyImage, case: Case | PreparedSlices) -> list[str]:
        """In what a volume and its case lie outside of what the network was trained on, a line each."""
        found = list(self.plan.range_warnings(volume))
        if self.plan.mirrored and case.grid.orientation == volume.geometry.canonical()[1]:
            ends = {"A": "front and back", "S": "head and feet"}[self.plan.mirrored]
            found.append(f"{ends} seem to be exchanged, by its header; segmented as the image shows it")
        return found

    @torch.inference_mode()
    def _encode_first_batch(self, prepared: PreparedSlices) -> PreviewBatch:
        places = first_batch_indices(prepared.grid.depth)
        shown = with_neighbours(prepared, places, self.plan.context_slices)
        return PreviewBatch.compute(self.models[0], places, torch.from_numpy(shown).to(self.device))

    def encode(
        self,
        case: Case,
        model: Network,
        progress: ProgressCallback | None = None,
        watch: SweepCallback | None = None,
        preview: PreviewCallback | None = None,
    ) -> EncodedVolume:
        """Encode a case and sweep it in both directions."""
        depth = case.image.shape[1]
        slices = torch.from_numpy(with_neighbours(case.image, range(depth), self.plan.context_slices))
        first = self._first_batches.pop(case, None) if model is self.models[0] else None
        return EncodedVolume.encode(
            model, slices.to(self.device), progress=progress, watch=watch, preview=preview, first=first
        )

    def segment(self, image: Volume | LazyImage, progress: ProgressCallback | None = None) -> Segmentation:
        """Segment a volume (C, I, J, K) automatically.

        Raises:
            InputError: the volume has another number of channels than the plan, or as :meth:`segment_case`.
        """
        return self.segment_case(self.prepare_slices(image), progress)

    def segment_case(
        self, case: Case | PreparedSlices, progress: ProgressCallback | None = None, budget: MemoryBudget | None = None
    ) -> Segmentation:
        """Segment a prepared case, to the bit as sessions do; what exceeds the budget is cached on disk.

        Raises:
            InputError: too little space there.
        """
        kept = segment_streaming(
            self.models,
            case.image if isinstance(case, Case) else case,
            case.grid.depth,
            context=self.plan.context_slices,
            share=self.plan.smallest_part,
            device=self.device,
            budget=MemoryBudget.for_device(self.device) if budget is None else budget,
            progress=progress,
            first=self._first_batches.pop(case, None),
        )
        return Segmentation(case.grid, kept, self.class_names)

    def session_nbytes(self, geometry: Geometry) -> int:
        """Bytes that a session of one network caches of a scan on such a grid, before anybody prompts."""
        grid, config = SliceGrid.from_plan(geometry, self.plan), self.models[0].config
        cells = grid.padded[0] * grid.padded[1] // config.stem_stride**2
        levels = sum(cells >> 2 * n for n in range(1, 4)) * config.layers_per_level
        features = 4 * (config.mask_dim * cells + 2 * config.dim * levels)
        classes = config.num_classes
        swept = 2 * (2 * classes * cells + 4 * classes * (2 * config.dim + 3) + 4)
        remove_detached_parts = 2 * cells if self.plan.smallest_part else 0
        scores = 2 * classes * cells
        return grid.depth * (features + swept + scores + remove_detached_parts) + math.prod(geometry.shape)

    def memory_budget(self, images: Sequence[Path], most: int, frames: int = 0) -> MemoryBudget:
        """Room for what is kept, where a process may hold so many bytes at most while it segments an image.

        Args:
            images: files of its channels.
            most: bytes.
            frames: float32 frames of the image's size that are held at once when results are written.

        Raises:
            InputError: it needs more, or the files are as :func:`s2vnet.io.files.read_geometry` refuses them.
        """
        geometry = read_geometry(images[0])
        reading = sum(map(max_read_nbytes, images))
        voxels = math.prod(geometry.shape)
        grid = SliceGrid.from_plan(geometry, self.plan)
        whole = 0 if all(scheme.kind == "ct" for scheme in self.plan.intensities) else _WHOLE * len(self.plan.channels)
        prepared = whole * grid.depth * math.prod(grid.sampled)
        writing = _WRITERS + 4 * frames * voxels if frames else 0
        work = estimate_working_nbytes(
            self.models, grid, SLICES_PER_CHUNK * min(torch.get_num_threads(), MAX_THREADS), writing
        )
        needed = psutil.Process().memory_info().rss + reading + voxels + prepared + work
        if needed > most:
            raise InputError(f"{format_size(needed)} of memory are needed, --max-memory allows {format_size(most)}")
        return MemoryBudget(most - needed)
