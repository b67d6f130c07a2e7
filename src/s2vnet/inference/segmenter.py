"""Automatic segmentation: volume in, label map on exactly its grid out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy.typing as npt
import psutil
import torch
from pydantic import ValidationError

from s2vnet.data.modality import modality_conflict, model_modality
from s2vnet.data.plan import Plan
from s2vnet.data.preprocess import Case, PreparedSlices, with_neighbours
from s2vnet.data.slice_grid import SliceGrid
from s2vnet.errors import CheckpointError, InputError
from s2vnet.inference.backends import AUTO, RUNTIMES, ExportedNetwork, to_fastest_runtime, to_runtime
from s2vnet.inference.correction import CorrectorFunction
from s2vnet.inference.disk_cache import MemoryBudget
from s2vnet.inference.encoded_volume import (
    EncodedVolume,
    PreviewBatch,
    ProgressCallback,
    SlicesCallback,
    first_batch_indices,
)
from s2vnet.inference.segmentation import MAX_THREADS, SLICES_PER_CHUNK, Segmentation
from s2vnet.inference.streaming import estimate_working_nbytes, segment_streaming
from s2vnet.io.convert import as_lazy
from s2vnet.io.files import max_read_nbytes, read_geometry
from s2vnet.io.geometry import Geometry, Volume
from s2vnet.io.lazy_image import LazyImage
from s2vnet.model.checkpoint import TrainedModel, choose_device, load_model, read_description
from s2vnet.model.corrector import Corrector
from s2vnet.model.interface import DecoderOutput, Network
from s2vnet.model.s2vnet import S2VNet
from s2vnet.utils.byte_sizes import format_size
from s2vnet.utils.validation_errors import first_error

if TYPE_CHECKING:
    from s2vnet.io.convert import AnyImage

BUNDLED_MODELS = Path(__file__).parent.parent / "weights"
"""Folder of the models in the package, which are loaded by name."""

_WRITERS_NBYTES = 100 << 20
"""Bytes that libraries allocate while frames and pictures are written."""
_PERCENTILES_NBYTES = 40
"""Bytes per pixel needed to scale a volume by its own percentiles."""


def find_model(name: str | Path) -> Path:
    """Folder of a model by name or path.

    Raises:
        CheckpointError: neither a bundled model nor a folder with one.
    """
    for folder in (Path(name), BUNDLED_MODELS / str(name)):
        if (folder / "model.json").is_file():
            return folder
    known = sorted(path.parent.name for path in BUNDLED_MODELS.glob("*/model.json"))
    raise CheckpointError(f"no model {str(name)!r}; give a folder with model.json or one of {', '.join(known)}")


def load_plan(*names: str | Path) -> Plan:
    """Plan of models by name or folder, without loading their weights.

    Raises:
        CheckpointError: an unknown or damaged model, or models with different plans.
    """
    return _shared_plan([read_description(find_model(name)).get("plan", {}) for name in names])


def _shared_plan(contents: Sequence[Mapping[str, Any]]) -> Plan:
    try:
        plans = [Plan.model_validate(dict(content)) for content in contents]
    except ValidationError as error:
        raise CheckpointError(f"the model's plan is of another version or damaged ({first_error(error)})") from error
    if any(plan != plans[0] for plan in plans):
        raise CheckpointError("the models were trained with different plans; name models of one dataset and plan")
    return plans[0]


def _require_plan_match(model: S2VNet, plan: Plan) -> None:
    for name, expected in plan.network.items():
        actual = getattr(model.config, name)
        if actual != expected:
            raise CheckpointError(
                f"the model's {name} is {actual} but its plan needs {expected}; train or download it again"
            )


def _recognition_score(decoded: DecoderOutput) -> float:
    """Score of how clearly classes are recognised on slices that were decoded independently of each other.

    The sum over classes of presence times extent (square root of area), on the slice where that is largest.
    """
    extent = decoded.logits.softmax(1)[:, 1:].sum((2, 3)).sqrt()
    return float((decoded.presence[:, 1:].sigmoid() * extent).amax(0).sum())


class Segmenter:
    """One or several trained networks of one plan; probabilities of several are averaged."""

    def __init__(
        self,
        trained: Sequence[TrainedModel],
        device: str = "auto",
        runtime: str = "torch",
        folders: Sequence[Path | None] | None = None,
    ) -> None:
        """Move models with the same plan to a device or runtime.

        Args:
            trained: one or several models.
            device: torch device by name, or ``auto``.
            runtime: one of :data:`s2vnet.inference.backends.RUNTIMES`, or ``auto``, the fastest that is installed.
            folders: folders of the models, which may contain exported graphs.

        Raises:
            CheckpointError: a plan of another version, models with different plans, one that does not fit its plan,
                or graphs of other weights.
            InputError: unknown runtime, or it is not installed.
        """
        self.plan = _shared_plan([each.plan for each in trained])
        for each in trained:
            _require_plan_match(each.model, self.plan)
        self.device = choose_device("cpu" if device == AUTO and runtime in RUNTIMES[1:] else device)
        self.models: tuple[Network, ...] = tuple(
            to_fastest_runtime(each, str(self.device), folder)
            if runtime == AUTO
            else to_runtime(each, runtime, self.device, folder)
            for each, folder in zip(trained, folders or [None] * len(trained), strict=True)
        )
        self.sha256 = trained[0].sha256
        self._first_batches: WeakKeyDictionary[Case | PreparedSlices, PreviewBatch] = WeakKeyDictionary()
        """First batch of a case by the first network, computed to detect a mirrored volume."""

    @classmethod
    def from_pretrained(cls, *names: str | Path, device: str = "auto", runtime: str = AUTO) -> Segmenter:
        """Load models by name (``hippocampus-mr``) or folder; works offline.

        Args:
            names: one or several models.
            device: torch device by name, or ``auto``.
            runtime: ``auto``, the fastest that is installed, or one of :data:`s2vnet.inference.backends.RUNTIMES`.

        Raises:
            CheckpointError: unknown or damaged model.
            InputError: unknown runtime, or it is not installed.
        """
        folders = [find_model(name) for name in names]
        return cls([load_model(folder) for folder in folders], device, runtime, folders)

    @cached_property
    def corrector(self) -> CorrectorFunction:
        """The package's corrector, which answers prompts in sessions; it runs where the first model does."""
        model = self.models[0]
        return model.correct if isinstance(model, ExportedNetwork) else Corrector.bundled()

    @property
    def class_names(self) -> dict[int, str]:
        """Class name by label value, background included."""
        return self.plan.class_names

    def prepare(self, image: Volume | LazyImage, name: str = "") -> Case:
        """Preprocess a volume. Raises InputError for another number of channels than the plan's."""
        prepared = self.prepare_slices(image, name)
        case = prepared.case(name)
        if prepared in self._first_batches:
            self._first_batches[case] = self._first_batches.pop(prepared)
        return case

    def prepare_slices(self, image: Volume | LazyImage, name: str = "") -> PreparedSlices:
        """Preprocess a volume like :meth:`prepare`, but slice by slice, when slices are needed."""
        prepared = PreparedSlices(image, self.plan, name)
        if self.plan.mirrored:
            orientations = (prepared.mirror("RAS".index(self.plan.mirrored)), prepared)
            batches = {each: self._preview_first_batch(each) for each in orientations}
            prepared = max(batches, key=lambda each: _recognition_score(batches[each].decoded))
            self._first_batches[prepared] = batches[prepared]
        return prepared

    def training_differences(self, volume: Volume | LazyImage, case: Case | PreparedSlices) -> list[str]:
        """Ways in which a volume and its case differ from the training data, one line each."""
        conflict = modality_conflict(model_modality(self.plan.channels), volume)
        differences = [*([conflict] if conflict else []), *self.plan.range_warnings(volume)]
        if self.plan.mirrored and case.grid.orientation == volume.geometry.canonical()[1]:
            ends = {"A": "front and back", "S": "head and feet"}[self.plan.mirrored]
            differences.append(f"the header seems to have exchanged {ends}; segmented by the image content")
        return differences

    @torch.inference_mode()
    def _preview_first_batch(self, prepared: PreparedSlices) -> PreviewBatch:
        indices = first_batch_indices(prepared.grid.depth)
        slices = with_neighbours(prepared, indices, self.plan.context_slices)
        return PreviewBatch.compute(self.models[0], indices, torch.from_numpy(slices).to(self.device))

    def encode(
        self,
        case: Case,
        model: Network,
        progress: ProgressCallback | None = None,
        on_slices: SlicesCallback | None = None,
        on_preview: SlicesCallback | None = None,
    ) -> EncodedVolume:
        """Encode a case and decode it in both directions; callbacks as of :meth:`EncodedVolume.encode`."""
        depth = case.image.shape[1]
        slices = torch.from_numpy(with_neighbours(case.image, range(depth), self.plan.context_slices))
        first_batch = self._first_batches.pop(case, None) if model is self.models[0] else None
        return EncodedVolume.encode(
            model,
            slices.to(self.device),
            progress=progress,
            on_slices=on_slices,
            on_preview=on_preview,
            first_batch=first_batch,
        )

    def segment(
        self, image: AnyImage, progress: ProgressCallback | None = None, *, affine: npt.ArrayLike | None = None
    ) -> Segmentation:
        """Segment an image automatically.

        Args:
            image: volume, nibabel or SimpleITK image, or array, as of :func:`s2vnet.io.convert.as_volume`.
            progress: called with slices encoded and decoded.
            affine: matrix (4, 4) of an array, voxel indices to RAS+ mm.

        Raises:
            InputError: another number of channels than the plan's, or as :func:`s2vnet.io.convert.as_volume` and
                :meth:`segment_case`.
        """
        return self.segment_case(self.prepare_slices(as_lazy(image, affine).require_finite(None)), progress)

    def segment_case(
        self, case: Case | PreparedSlices, progress: ProgressCallback | None = None, budget: MemoryBudget | None = None
    ) -> Segmentation:
        """Segment a preprocessed case, bit for bit as sessions do.

        Args:
            case: from :meth:`prepare` or :meth:`prepare_slices`.
            progress: called with slices encoded and decoded.
            budget: memory for cached tensors, a share of the free memory by default; the rest is cached on disk.

        Raises:
            InputError: too little disk space.
        """
        scores = segment_streaming(
            self.models,
            case.image if isinstance(case, Case) else case,
            case.grid.depth,
            context=self.plan.context_slices,
            share=self.plan.smallest_part,
            device=self.device,
            budget=MemoryBudget.for_device(self.device) if budget is None else budget,
            progress=progress,
            first_batch=self._first_batches.pop(case, None),
        )
        return Segmentation(case.grid, scores, self.class_names)

    def session_nbytes(self, geometry: Geometry) -> int:
        """Size in bytes of the tensors that a session caches for an image with this grid, before any prompt."""
        grid, config = SliceGrid.from_plan(geometry, self.plan), self.models[0].config
        cells = grid.padded[0] * grid.padded[1] // config.stem_stride**2
        levels = sum(cells >> 2 * n for n in range(1, 4)) * config.layers_per_level
        features = 4 * (config.mask_dim * cells + 2 * config.dim * levels)
        classes = config.num_classes
        sweeps = 4 * classes * cells
        detached_parts = 2 * cells if self.plan.smallest_part else 0
        scores = 2 * classes * cells
        return grid.depth * (features + sweeps + scores + detached_parts) + math.prod(geometry.shape)

    def opening_nbytes(self, geometry: Geometry) -> int:
        """Peak size in bytes of what opening a session on an image with this grid allocates, before any prompt.

        The file's voxels and their float32 values, the network's slices with their neighbours, the cached tensors, and
        the labels twice.
        """
        grid, channels, voxels = (
            SliceGrid.from_plan(geometry, self.plan),
            len(self.plan.channels),
            math.prod(geometry.shape),
        )
        slices = 4 * channels * grid.depth * math.prod(grid.padded)
        return (
            8 * channels * voxels + slices * (2 + 2 * self.plan.context_slices) + self.session_nbytes(geometry) + voxels
        )

    def memory_budget(self, images: Sequence[Path], limit: int, frames: int = 0) -> MemoryBudget:
        """Memory left for caches when the process segments an image within a limit.

        Args:
            images: files of the image, one per channel.
            limit: largest memory of the process in bytes.
            frames: float32 frames of the image's size that are in memory at once when results are written.

        Raises:
            InputError: segmenting needs more, or as :func:`s2vnet.io.files.read_geometry`.
        """
        geometry = read_geometry(images[0])
        reading = sum(map(max_read_nbytes, images))
        voxels = math.prod(geometry.shape)
        grid = SliceGrid.from_plan(geometry, self.plan)
        by_percentiles = any(scheme.kind != "ct" for scheme in self.plan.intensities)
        pixels = grid.depth * math.prod(grid.sampled)
        scaling = _PERCENTILES_NBYTES * len(self.plan.channels) * pixels if by_percentiles else 0
        writing = _WRITERS_NBYTES + 4 * frames * voxels if frames else 0
        concurrent = SLICES_PER_CHUNK * min(torch.get_num_threads(), MAX_THREADS)
        working = estimate_working_nbytes(self.models, grid, concurrent, writing)
        needed = psutil.Process().memory_info().rss + reading + voxels + scaling + working
        if needed > limit:
            raise InputError(f"{format_size(needed)} of memory are needed, --max-memory allows {format_size(limit)}")
        return MemoryBudget(limit - needed)
