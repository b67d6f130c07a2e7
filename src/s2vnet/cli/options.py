"""Options shared by several commands, and parsing of their values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError

from s2vnet.errors import InputError
from s2vnet.utils.validation_errors import first_error

DatasetArgument = Annotated[Path | None, typer.Argument(help="Folder in nnU-Net's raw layout or the Decathlon's.")]
DatasetOption = Annotated[Path | None, typer.Option("-d", "--dataset", help="The same, by nnU-Net's flag.")]


def comma_separated(text: str) -> list[str]:
    """Return the parts of a comma-separated value, without surrounding whitespace."""
    return [part.strip() for part in text.split(",")]


def split_names(values: Sequence[str] | None) -> list[str]:
    """Return the names of an option that may be repeated or list several, separated by commas.

    A folder with a comma in its name is one value.
    """
    parts = [[value] if Path(value).exists() else comma_separated(value) for value in values or ()]
    return [name for names in parts for name in names if name]


Models = Annotated[
    list[str],
    typer.Option(
        "-m",
        "--model",
        callback=split_names,
        help="Model name (see `s2vnet models`) or folder; several: comma-separated or repeated. Those of one plan are "
        "averaged; of several modalities, each image gets its own.",
    ),
]
DEFAULT_MODEL = "abdomen-ct"
"""Model of the viewer and the server."""
ServedModels = Annotated[
    list[str] | None,
    typer.Option(
        "-m",
        "--model",
        callback=split_names,
        help="Model name (see `s2vnet models`) or folder; several: comma-separated or repeated, of which each scan "
        "gets the first that fits. Default: abdomen-ct.",
    ),
]
Model = Annotated[str, typer.Option("-m", "--model", help="Model name (abdomen-ct, hippocampus-mr) or folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Series = Annotated[
    str | None, typer.Option("--series", help="Series of a DICOM folder or .zip with several: number or UID.")
]
AnyModality = Annotated[
    bool, typer.Option("--any-modality", help="Segment an image even if its modality contradicts the model.")
]
Fill = Annotated[float | None, typer.Option("--fill-nan", help="Value for NaN and infinite voxels; default: an error.")]
Runtime = Annotated[str, typer.Option(help="torch, onnxruntime or openvino; auto: the fastest that is installed.")]
StateFolder = Annotated[
    Path | None, typer.Option("--state", help="Folder for sessions and uploaded scans; default: the user's.")
]
_Settings = TypeVar("_Settings", bound=BaseModel)


def dataset_folder(argument: Path | None, option: Path | None) -> Path:
    """Return the dataset's folder, given either as an argument or as an option.

    Raises:
        InputError: Neither or both are given.
    """
    folders = [folder for folder in (argument, option) if folder is not None]
    if len(folders) != 1:
        raise InputError("name one dataset folder, as an argument or by -d")
    return folders[0]


def key_values(options: Sequence[str] | None) -> dict[str, Any]:
    """Return KEY=VALUE options as a dictionary with integers as int; pydantic validates and converts other values.

    Raises:
        InputError: An option without "=".
    """
    values: dict[str, Any] = {}
    for text in options or ():
        key, sign, value = text.partition("=")
        if not sign:
            raise InputError(f"{text!r}: settings are given as KEY=VALUE")
        values[key] = int(value) if re.fullmatch("-?[0-9]+", value) else value
    return values


def validate_settings(kind: type[_Settings], values: dict[str, Any]) -> _Settings:
    """Return validated settings.

    Raises:
        InputError: An unknown setting, or an invalid value.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise InputError(f"setting {first_error(error)}") from error
