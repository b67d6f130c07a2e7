"""Segmentation of image files and folders to label files. A failed case does not stop the others."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from s2vnet.data.case_files import CaseFiles, case_name, find_case_files, is_image_folder
from s2vnet.errors import InputError, NotFoundError, S2VNetError, unexpected
from s2vnet.inference.label_writers import (
    geometry_notes,
    is_dicom_output,
    is_label_file,
    is_rtstruct,
    label_stem,
    require_format,
    save_result,
    write_result,
)
from s2vnet.inference.model_set import ModelSet
from s2vnet.inference.segmentation import Segmentation, volumes_ml
from s2vnet.inference.segmenter import Segmenter
from s2vnet.io.dicom.seg import read_segmentation
from s2vnet.io.dicom.series import is_series
from s2vnet.io.files import image_ending, read_labels, read_lazy_image, write_image
from s2vnet.io.geometry import LabelMap
from s2vnet.io.lazy_image import LazyImage
from s2vnet.utils.atomic_write import atomic_write
from s2vnet.utils.file_names import fit_file_name, printable
from s2vnet.utils.folders import make_folder
from s2vnet.utils.memory import memory_errors

UNLIKE = "unlike the training data: {}"


@dataclass(frozen=True)
class ExtraOutputs:
    """Outputs besides the label map."""

    probabilities: bool = False
    """``{case}_probabilities.nii.gz``, one frame per class."""
    uncertainty: bool = False
    """``{case}_uncertainty.nii.gz``, entropy 0..1."""
    overlay: bool = False
    """``{case}.png``."""
    volumes: bool = False
    """``volumes.csv``: ml per class, one row per case."""

    def frames(self, classes: int) -> int:
        """Float32 frames of the image's size that are in memory at once while one of these is written."""
        return max((1 + classes) * self.probabilities, 2 * self.uncertainty, 3 * self.overlay)


@dataclass(frozen=True)
class Job:
    """One image to segment, and the file of its labels."""

    case: CaseFiles
    output: Path
    notes: tuple[str, ...] = ()
    """What the output will not state as the image does."""
    dicom_outputs: tuple[Path, ...] = ()
    """Further files of the labels, in DICOM formats."""


def plan_jobs(source: Path, target: Path, channels: int) -> list[Job]:
    """List the images of a file, a DICOM folder, or a folder in nnU-Net's naming.

    A zip archive, a multi-frame file, or a folder without image files is read as one DICOM series; its labels can go to
    a DICOM SEG file (``.dcm``) or an RT structure set (``.rtstruct.dcm``). One image with `channels` channels in
    several files is given as a folder.

    Raises:
        InputError: no such input, an output that is neither a folder nor a label file, or one that is an input.
    """
    jobs = []
    for job in _plan(source, target, channels):
        if job.output.resolve() in [image.resolve() for image in job.case.images]:
            raise InputError(f"{job.output}: the labels would replace the image; choose another output")
        folders = [image.resolve() for image in job.case.images if image.is_dir()]
        if is_dicom_output(job.output) and any(map(job.output.resolve().is_relative_to, folders)):
            raise InputError(f"{job.output}: lies among the series' own images; choose another folder")
        jobs.append(replace(job, notes=require_format(job.output, job.case.images[0])))  # checked before any work
    return jobs


def find_cases(source: Path, channels: int) -> tuple[CaseFiles, ...]:
    """Images of a folder in nnU-Net's naming, or the one image of a file, DICOM folder or zip archive.

    Raises:
        InputError: no such input, or a case with another number of channels.
    """
    if not source.exists():
        raise NotFoundError(f"{source}: no such file or folder")
    if is_image_folder(source):
        return find_case_files(source, channels)
    if not is_series(source):
        image_ending(source)
    return (CaseFiles(case_name(source), (source,)),)


def _plan(source: Path, target: Path, channels: int) -> list[Job]:
    cases = find_cases(source, channels)
    if is_label_file(target):
        if is_image_folder(source):
            raise InputError(f"{target}: several images need a folder to go to, not a file")
        return [Job(cases[0], target)]
    endings = [".nii.gz" if is_series(case.images[0]) else image_ending(case.images[0]) for case in cases]
    return [Job(case, target / fit_file_name(case.name, ending)) for case, ending in zip(cases, endings, strict=True)]


def predict(
    models: Segmenter | ModelSet,
    jobs: Sequence[Job],
    *,
    extras: ExtraOutputs = ExtraOutputs(),
    classes: Sequence[int] | None = None,
    fill_nonfinite: float | None = None,
    overwrite: bool = True,
    max_memory: int | None = None,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
    note: Callable[[str, str], None] = lambda name, text: None,
) -> Iterator[tuple[Job, S2VNetError | None]]:
    """Segment and write each job; yield the job with its error, or None.

    Args:
        models: one model or an ensemble, or several of which each image gets one; those refuse images of another
            modality.
        jobs: from :func:`plan_jobs`.
        extras: further outputs.
        classes: label values to keep; others become background.
        fill_nonfinite: value for NaN and infinite voxels, which are refused otherwise.
        overwrite: False keeps existing label maps and skips their images; their volumes are still listed.
        max_memory: largest memory of the process in bytes; an image that needs more is refused before it is read.
        progress: called with (case, units done, total units).
        note: called with (case, one line on the image's header, or on how it differs from the training data).
    """
    models = ModelSet([models], any_modality=True) if isinstance(models, Segmenter) else models
    rows: dict[str, dict[str, float]] = {}
    table = jobs[0].output.parent / "volumes.csv" if jobs else None
    for job in jobs:
        skipped = not overwrite and job.output.exists()
        error: S2VNetError | None = None
        try:
            with memory_errors():
                if not skipped:
                    labels = _segment_job(models, job, extras, classes, fill_nonfinite, max_memory, progress, note)
                elif extras.volumes:
                    labels = _existing_labels(job)
                if extras.volumes and table is not None:
                    kept = {k: n for k, n in models.only.class_names.items() if classes is None or k in classes}
                    rows[job.case.name] = volumes_ml(labels, kept)
                    _write_table(table, rows)
        except S2VNetError as failure:
            error = failure.without_traceback()  # a traceback would keep the image in memory
        except Exception as failure:  # a fault of this package or of a library with one image
            error = InputError(unexpected(failure))
        yield job, error


def _segment_job(
    models: ModelSet,
    job: Job,
    extras: ExtraOutputs,
    classes: Sequence[int] | None,
    fill: float | None,
    max_memory: int | None,
    progress: Callable[[str, int, int], None],
    note: Callable[[str, str], None],
) -> LabelMap:
    frames_as_channels = len(job.case.images) == 1 and models.channels > 1
    if max_memory is not None:  # refused before it is read
        budgets = [
            each.memory_budget(job.case.images, max_memory, extras.frames(each.plan.num_classes))
            for each in models.segmenters
        ]
    dicom_notes = [note for file in job.dicom_outputs for note in require_format(file, job.case.images[0])]
    image = read_lazy_image(job.case.images, fill_nonfinite=fill, frames_as_channels=frames_as_channels)
    segmenter, chosen = models.choose(image, job.case.images[0])
    budget = None if max_memory is None else budgets[models.segmenters.index(segmenter)]
    case = segmenter.prepare_slices(image)
    notes = [*job.notes, *dicom_notes, *([chosen] if chosen else []), *image.geometry.notes]
    notes += geometry_notes(job.output, image.geometry)
    for text in (*notes, *map(UNLIKE.format, segmenter.training_differences(image, case))):
        note(job.case.name, text)
    segmentation = segmenter.segment_case(case, lambda done, total: progress(job.case.name, done, total), budget)
    labels = segmentation.labels(classes)
    make_folder(job.output.parent)
    try:
        for file in job.dicom_outputs:
            write_result(file, labels, segmenter.class_names, job.case.images[0])
        _write_extras(segmenter, job, extras, image, segmentation, labels)
    except Exception:  # not an interrupt: labels are the sign that a case is complete
        save_result(job.output, labels, segmenter.class_names, job.case.images[0])
        raise
    save_result(job.output, labels, segmenter.class_names, job.case.images[0])
    return labels


def _write_extras(
    segmenter: Segmenter,
    job: Job,
    extras: ExtraOutputs,
    image: LazyImage,
    segmentation: Segmentation,
    labels: LabelMap,
) -> None:
    """Write what is requested besides the labels."""
    folder, stem = job.output.parent, label_stem(job.output)
    if extras.probabilities:
        write_image(folder / fit_file_name(stem, "_probabilities.nii.gz"), segmentation.probabilities())
    if extras.uncertainty:
        write_image(folder / fit_file_name(stem, "_uncertainty.nii.gz"), segmentation.uncertainty())
    if extras.overlay:
        from s2vnet.visualization.overlays import write_overlay

        names = segmenter.class_names
        shown = replace(image, channels=image.channels[:1]).to_volume()
        plan, picture = segmenter.plan, folder / fit_file_name(stem, ".png")
        write_overlay(picture, shown, {"automatic": labels}, names, plan.axis, channel=plan.channels[0])


def _existing_labels(job: Job) -> LabelMap:
    """Labels written by an earlier run."""
    if is_rtstruct(job.output):
        raise InputError(f"{job.output}: volumes cannot be computed from contours; leave out --skip-existing")
    if is_dicom_output(job.output):
        return read_segmentation(job.output, job.case.images[0])[0]
    return read_labels(job.output)


def _write_table(path: Path, rows: dict[str, dict[str, float]]) -> None:
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        names = list(next(iter(rows.values())))
        writer = csv.writer(stream)
        writer.writerow(["case", *(f"{name} (ml)" for name in names)])
        writer.writerows([printable(case), *(f"{row[name]:.4f}" for name in names)] for case, row in rows.items())
