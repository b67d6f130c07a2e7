"""Summaries of the models in the package and in run folders. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from s2vnet.data.modality import model_modality
from s2vnet.data.plan import Plan
from s2vnet.errors import CheckpointError
from s2vnet.model.bundled import LICENCES, WEIGHTS_FOLDER
from s2vnet.utils.json_io import read_json
from s2vnet.utils.validation_errors import first_error

_DESCRIPTION, _WEIGHTS = "model.json", "model.safetensors"


class ModelSummary(BaseModel):
    """What a user chooses a model by."""

    model_config = ConfigDict(frozen=True)

    name: str
    """Name for ``-m``: of a model in the package, or a folder."""
    modality: str
    """CT, MR, or the names of the channels."""
    plane: str
    """Plane of the slices."""
    classes: tuple[str, ...]
    """Class names in order of label values from 1."""
    licence: str
    """Licence of weights and training data, where it is stated."""
    nbytes: int
    """Size of the weights."""


def list_models(folders: Iterable[Path] = ()) -> list[ModelSummary]:
    """Summaries of the models in the package, then of folders.

    Raises:
        CheckpointError: a folder without a model, or a damaged one.
    """
    bundled = sorted(path.parent for path in WEIGHTS_FOLDER.glob(f"*/{_DESCRIPTION}"))
    return [
        *(_summarize(folder, folder.name) for folder in bundled if _has_plan(folder)),
        *(_summarize(folder, str(folder)) for folder in folders),
    ]


def _has_plan(folder: Path) -> bool:
    """Whether a folder of the package holds a model by itself, rather than a part of others."""
    return "plan" in read_json(folder / _DESCRIPTION)


def _summarize(folder: Path, name: str) -> ModelSummary:
    try:
        content = read_json(folder / _DESCRIPTION)
        plan = Plan.model_validate(content["plan"])
        info = content.get("info", {})
        return ModelSummary(
            name=name,
            modality=model_modality(plan.channels) or " + ".join(plan.channels),
            plane=plan.plane,
            classes=tuple(name for name, value in sorted(plan.labels.items(), key=lambda item: item[1]) if value),
            licence=str(LICENCES.get(name) or info.get("licence") or "not stated"),
            nbytes=(folder / _WEIGHTS).stat().st_size,
        )
    except OSError as error:
        raise CheckpointError(f"{folder}: {error.strerror}; not a trained model") from error
    except ValidationError as error:
        raise CheckpointError(f"{folder}: its plan is of another version or damaged ({first_error(error)})") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / _DESCRIPTION}: damaged; train or download the model again") from error
