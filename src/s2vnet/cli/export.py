"""``s2vnet export``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s2vnet.cli.console import note, note_mismatch, progress
from s2vnet.cli.options import Model
from s2vnet.errors import InputError
from s2vnet.utils.atomic_write import atomic_write, require_writable
from s2vnet.utils.folders import make_folder
from s2vnet.utils.lazy_import import LazyModule

if TYPE_CHECKING:
    import s2vnet.batch.jobs as batch_jobs
    import s2vnet.inference.segmenter as inference
    from s2vnet.evaluation import int8_calibration
    from s2vnet.model import checkpoint, onnx_export, quantization
else:
    batch_jobs = LazyModule("s2vnet.batch.jobs")
    int8_calibration = LazyModule("s2vnet.evaluation.int8_calibration")
    inference = LazyModule("s2vnet.inference.segmenter")
    checkpoint = LazyModule("s2vnet.model.checkpoint")
    onnx_export = LazyModule("s2vnet.model.onnx_export")
    quantization = LazyModule("s2vnet.model.quantization")


def export(
    model: Model,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the model and its graphs.")],
    int8: Annotated[
        Path | None, typer.Option(help="Also an encode graph in int8, for openvino; calibrated on these images.")
    ] = None,
) -> None:
    """Write a model with its ONNX graphs, for --runtime and for your own programs.

    Example: s2vnet export -m abdomen-ct -o models/abdomen-ct --int8 imagesTr
    """
    source = inference.find_model(model)
    trained = checkpoint.load_model(source)
    cases = None if int8 is None else batch_jobs.find_cases(int8, len(trained.plan.get("channels", ())))
    make_folder(output)
    require_writable(output)
    if output.resolve() != source.resolve():
        _copy_model(source, trained, output)
    with progress() as report:
        onnx_export.export_onnx(trained, output, lambda done, total: report("exporting", done, total))
        quantization.remove_int8_graph(output)  # of an earlier export
        if cases is not None:
            agreement = int8_calibration.calibrate_int8(
                output,
                cases,
                progress=lambda done, total: report("calibrating", done, total),
                note=note_mismatch,
            )
            note(f"labels with int8 agree with those of float32 by a Dice of {agreement:.3f}, slice by slice")
    typer.echo(output)


def _copy_model(source: Path, trained: checkpoint.TrainedModel, output: Path) -> None:
    if (output / checkpoint.DESCRIPTION).exists() and checkpoint.load_model(output).sha256 != trained.sha256:
        raise InputError(f"{output} holds another model; choose another folder")
    for name in (checkpoint.WEIGHTS, checkpoint.DESCRIPTION):
        with atomic_write(output / name) as temporary:
            shutil.copyfile(source / name, temporary)
