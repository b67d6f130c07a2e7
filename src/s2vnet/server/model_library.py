"""Models of a server: names, classes, and which of them takes a scan. Weights are loaded at their first use."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from s2vnet.data.modality import header_conflict, is_modality, modality_conflict, model_modality
from s2vnet.data.plan import Plan
from s2vnet.errors import InputError, NotFoundError
from s2vnet.inference.model_set import HINT
from s2vnet.inference.segmenter import Segmenter, find_model, load_plan
from s2vnet.io.dicom.references import series_attributes
from s2vnet.io.dicom.series import is_series
from s2vnet.io.dicom.zip_archive import open_series_folder
from s2vnet.io.files import count_voxels, read_lazy_image
from s2vnet.io.geometry import Volume
from s2vnet.io.lazy_image import LazyImage
from s2vnet.model.checkpoint import WEIGHTS, read_description

MODALITY = "Modality"


class ServedModel:
    """A model of a server. Thread-safe."""

    def __init__(
        self, name: str, plan: Plan, sha256: str, nbytes: int, load: Callable[[], Segmenter], source: str = ""
    ) -> None:
        """Describe a model without loading its weights.

        Args:
            name: for clients: letters, digits, ``_``, ``-`` and ``.``.
            plan: of the model.
            sha256: hash of its weights, by which stored sessions find it.
            nbytes: size of its weights.
            load: loads it; called once, and again after :meth:`unload`.
            source: name or folder by which the server's operator named it.
        """
        self.name, self.plan, self.sha256, self.source = name, plan, sha256, source
        self._nbytes, self._load = nbytes, load
        self._lock = threading.Lock()
        self._segmenter: Segmenter | None = None

    @property
    def classes(self) -> dict[int, str]:
        """Class name by label value, background included."""
        return self.plan.class_names

    @property
    def channels(self) -> int:
        """Number of image channels."""
        return len(self.plan.channels)

    @property
    def modality(self) -> str | None:
        """Modality that the model is for: ``CT``, ``MR``, or None."""
        return model_modality(self.plan.channels)

    @property
    def segmenter(self) -> Segmenter:
        """The model, loaded at the first use. Raises CheckpointError where its files are damaged."""
        with self._lock:
            if self._segmenter is None:
                self._segmenter = self._load()
            return self._segmenter

    @property
    def nbytes(self) -> int:
        """Bytes of the weights in memory; 0 while they are not loaded."""
        return 0 if self._segmenter is None else self._nbytes

    def unload(self) -> None:
        """Free the memory of the weights, once no session uses them."""
        with self._lock:
            self._segmenter = None


class ModelLibrary:
    """The models of a server, in the order in which they are preferred. Thread-safe."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._models = tuple(models)
        self._reading = threading.Lock()

    @classmethod
    def from_pretrained(cls, names: Sequence[str], device: str = "auto", runtime: str = "auto") -> ModelLibrary:
        """Describe models by name or folder; the only one is loaded at once, several at their first use.

        Raises:
            CheckpointError: no such model, or a damaged one.
            InputError: a model is named twice.
        """
        models: list[ServedModel] = []
        for source in names:
            folder = find_model(source)
            description = read_description(folder)
            if any(model.sha256 == description["sha256"] for model in models):
                raise InputError(f"{source}: the same model is named twice")
            models.append(
                ServedModel(
                    _new_name(folder, [model.name for model in models]),
                    load_plan(folder),
                    str(description["sha256"]),
                    (folder / WEIGHTS).stat().st_size,
                    lambda folder=folder: Segmenter.from_pretrained(folder, device=device, runtime=runtime),  # type: ignore[misc]
                    str(source),
                )
            )
        library = cls(models)
        if len(models) == 1:
            _ = models[0].segmenter
        return library

    @classmethod
    def of(cls, segmenter: Segmenter, source: str | Path = "model") -> ModelLibrary:
        """Serve one model that is loaded already; `source` is its folder."""
        name = _new_name(Path(source), ())
        return cls([ServedModel(name, segmenter.plan, segmenter.sha256, 0, lambda: segmenter, str(source))])

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    @property
    def names(self) -> list[str]:
        """Names of all models."""
        return [model.name for model in self._models]

    @property
    def first(self) -> ServedModel:
        """The preferred model."""
        return self._models[0]

    @property
    def only(self) -> ServedModel | None:
        """The model where there is one only; else None."""
        return self._models[0] if len(self._models) == 1 else None

    @property
    def nbytes(self) -> int:
        """Bytes of all weights in memory."""
        return sum(model.nbytes for model in self._models)

    def get(self, name: str) -> ServedModel:
        """Return a model by its name. Raises InputError if there is none."""
        for model in self._models:
            if model.name == name:
                return model
        raise NotFoundError(f"no such model: {name[:64]!r}; this server has {', '.join(self.names)}")

    def by_hash(self, sha256: str) -> ServedModel | None:
        """Return the model of some weights; None if this server does not have it."""
        return next((model for model in self._models if model.sha256 == sha256), None)

    def with_channels(self, channels: int) -> ModelLibrary:
        """Return the models for images of some channels. Raises InputError if there is none."""
        fitting = [model for model in self._models if model.channels == channels]
        if not fitting:
            taken = " or ".join(dict.fromkeys(", ".join(model.plan.channels) for model in self._models))
            raise InputError(f"an image of {channels} channels, where the model takes {taken}")
        return ModelLibrary(fitting)

    def choose(self, image: Volume | LazyImage) -> tuple[ServedModel, str | None]:
        """Choose the model for an image.

        Models for the image's modality precede those for several or unknown ones, and otherwise the first fits.

        Returns:
            The model, and a reason where the image contradicts the modality of all models of its number of channels;
            then the model is the first of these.

        Raises:
            InputError: no model for its number of channels.
        """
        candidates = self.with_channels(len(image.data if isinstance(image, Volume) else image.channels))
        return candidates._by(lambda expected: modality_conflict(expected, image))

    def choose_for_file(self, path: Path, max_voxels: int) -> tuple[ServedModel, str | None]:
        """Choose the model for a scan as :meth:`choose`, by its header where that states a modality, else its voxels.

        Args:
            path: file, DICOM folder or zip archive.
            max_voxels: largest number of voxels that is read.

        Raises:
            InputError: as :meth:`choose`, not readable, or too many voxels.
        """
        if self.only is not None:  # which is compared with the scan when that is read
            return self.only, None
        with self._reading, open_series_folder(path) as unpacked:  # one at a time, since a scan is read into memory
            stated = series_attributes(unpacked, (MODALITY,)).get(MODALITY) if is_series(unpacked) else None
            single = [model for model in self._models if model.channels == 1]
            if is_modality(stated) and single:
                return ModelLibrary(single)._by(lambda expected: header_conflict(expected, stated))
            if (voxels := count_voxels(unpacked)) > max_voxels:
                raise InputError(f"{voxels} voxels, more than the {max_voxels} that this server opens; crop the scan")
            several = any(model.channels > 1 for model in self._models)
            return self.choose(read_lazy_image(unpacked, fill_nonfinite=0.0, frames_as_channels=several))

    def unload(self, in_use: Sequence[ServedModel]) -> None:
        """Free the memory of models that no session uses."""
        for model in self._models:
            if model not in in_use:
                model.unload()

    def _by(self, conflict: Callable[[str | None], str | None]) -> tuple[ServedModel, str | None]:
        """Choose by what contradicts a modality (CT, MR, or None)."""
        reasons = {modality: conflict(modality) for modality in dict.fromkeys(model.modality for model in self._models)}
        fitting = [model for model in self._models if reasons[model.modality] is None]
        if not fitting:
            return self.first, f"{'; '.join(dict.fromkeys(filter(None, reasons.values())))}; {HINT}"
        return min(fitting, key=lambda model: model.modality is None), None


def _new_name(folder: Path, known: Sequence[str]) -> str:
    """Name of a model for clients by its folder, different from known ones."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.resolve().name).strip("-.") or "model"
    numbered = (f"{name}-{number}" for number in range(2, len(known) + 3))
    return name if name not in known else next(each for each in numbered if each not in known)
