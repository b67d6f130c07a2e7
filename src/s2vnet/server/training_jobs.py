"""Training on the scans that clients have labelled, in a process of its own; one at a time.

A training is a folder: the dataset in nnU-Net's layout, its cases under numbers, the run that `s2vnet train` writes,
and a record of both. So one that was stopped goes on when the same is asked for again, also after a restart. Its
process marks the folder for as long as it lives, which may be longer than the server that began it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from s2vnet.config import ModelConfig, TrainConfig
from s2vnet.data.plan import save_json
from s2vnet.errors import InputError, S2VNetError
from s2vnet.inference.segmenter import Segmenter
from s2vnet.io.files import read_image, write_image
from s2vnet.io.geometry import Volume
from s2vnet.server.folder_lock import MARK, is_taken, take
from s2vnet.utils.atomic_write import atomic_write, remove_unfinished
from s2vnet.utils.extras import require_extra
from s2vnet.utils.json_io import read_json
from s2vnet.utils.validation import first_error

LEAST_CASES = 5
"""nnU-Net's folds; one of them is held out for the score."""
STOP_S = 60.0
"""Longest that a training may take to end its step and to write its state."""
KILLED_S = 10.0
"""Longest that the system may take to end it."""
ENDING = ".nii.gz"
RECORD, RUN, DATASET, PLAN, LOG = "training.json", "run", "dataset", "plan.json", "train.log"
SUBMITTED, RUNNING, DONE, STOPPED, ERROR = "SUBMITTED", "RUNNING", "DONE", "STOPPED", "ERROR"
THEIR_NAMES = {"max_epochs": "epochs", "train_batch_size": "batch_size"}
"""MONAI's names of settings."""
_BY_PLAN = ("in_channels", "num_classes", "encoder", "stem_stride")
_LINES = 300


@dataclass(frozen=True)
class LabelledScan:
    """A scan that a client has labelled."""

    image: Path
    labels: Path


@dataclass
class TrainingJob:
    """A training, as its record says."""

    id: str
    request: dict[str, Any]
    config: dict[str, Any]
    """What of a TrainConfig was asked for."""
    options: list[str]
    """Of `s2vnet train`, but for dataset and folder."""
    cases: list[tuple[str, int]]
    """Labels by their number and time; trained anew where they are others."""
    start_ts: str
    end_ts: str | None = None
    status: str = SUBMITTED
    why: str = ""
    began: float = field(default_factory=time.time)


class TrainingJobs:
    """Trainings of a server. Safe to call from any thread."""

    def __init__(self, folder: Path, segmenter: Segmenter, model: str, device: str) -> None:
        self._folder, self._segmenter, self._model, self._device = folder, segmenter, model, device
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._at: Path | None = None
        """Folder of the training that is at work."""

    @property
    def settings(self) -> dict[str, Any]:
        """What a client may choose, with what is chosen for it."""
        default = TrainConfig()
        return {"max_epochs": default.epochs, "train_batch_size": default.batch_size, "pretrained": True}

    @property
    def running(self) -> bool:
        """Whether a training is at work, be it of another server, or of one that was killed."""
        return self._own or self._taken() is not None

    def start(self, request: Mapping[str, Any], scans: Sequence[LabelledScan]) -> dict[str, Any]:
        """Begin a training, or go on with the last one if it was stopped and is the same.

        Raises:
            InputError: one is at work, too few scans, no such setting, or nothing to train with.
        """
        require_extra("train", "training on the server", "lightning_fabric")
        if len(scans) < LEAST_CASES:
            raise InputError(
                f"{len(scans)} scans with final labels, and training needs {LEAST_CASES}; label more of them"
            )
        config = _config(request)
        options = self._options(request, config)
        cases = [(scan.labels.name, scan.labels.stat().st_mtime_ns) for scan in scans]
        with self._lock:
            if self.running:
                raise InputError("a training is at work already; stop it, or wait for its end")
            last = self._last()
            if last is not None and _same(self._read(last), options, cases):
                folder, task = last, self._read(last)
                task.status, task.end_ts, task.why = SUBMITTED, None, ""
            else:
                now, name = datetime.now(), uuid.uuid4().hex
                folder = self._folder / f"{now:%Y%m%d-%H%M%S}-{name[:4]}"
                task = TrainingJob(name, dict(request), config, options, cases, _now())
                if last is not None:  # the last one also where the clock was put back
                    task.began = max(task.began, self._read(last).began + 1)
            folder.mkdir(parents=True, exist_ok=True)
            mark = take(folder)
            if mark is None:
                raise InputError("a training is at work here already; stop it, or wait for its end")
            try:
                remove_unfinished(folder)
                self._write(folder, task)
                self._at, work = folder, (folder, list(scans), mark)
                self._thread = threading.Thread(target=self._work, args=work, name="training", daemon=True)
                self._thread.start()
            except BaseException:
                os.close(mark)
                raise
        return self.tell(folder)

    def stop(self) -> dict[str, Any] | None:
        """End the training at work when its step is done; its state stays. None when there is none."""
        stopped = self._stop_own()
        if stopped is None and (stopped := self._taken()) is not None:
            self._mark(stopped, STOPPED)
            self._end(stopped)
        return None if stopped is None else self.tell(stopped)

    def _stop_own(self) -> Path | None:
        """The same of a training that this server began; its folder."""
        with self._lock:
            folder, thread = self._at, self._thread
            if folder is None or thread is None or not thread.is_alive():
                return None
            self._mark(folder, STOPPED)
            if self._process is not None:
                self._process.terminate()
        thread.join(STOP_S)
        with self._lock:
            if self._process is not None:
                self._process.kill()
        thread.join()
        return folder

    def _end(self, folder: Path) -> None:
        """End the process of a training that this server did not begin.

        Raises:
            InputError: it does not end.
        """
        for number, patience in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, KILLED_S)):
            with contextlib.suppress(
                OSError, ValueError
            ):  # it has ended, or was not begun: its server reads the record
                process = int((folder / MARK).read_text())
                if is_taken(folder):
                    (os.kill if number == signal.SIGTERM else os.killpg)(process, number)
            until = time.monotonic() + patience
            while is_taken(folder):
                if time.monotonic() > until:
                    break
                time.sleep(0.05)
            else:
                return
        raise InputError("the training does not end; stop its process where the server runs")

    def newest(self) -> dict[str, Any] | None:
        """How the last training stands; None when there was none."""
        last = self._last()
        return None if last is None else self.tell(last)

    def all(self) -> list[dict[str, Any]]:
        """How every training stands, the oldest first."""
        return [self.tell(folder) for folder in self._folders()]

    def tell(self, folder: Path) -> dict[str, Any]:
        """A training in MONAI Label's form."""
        task = self._read(folder)
        rows = _history(folder)
        epochs, steps = self._extent(task)
        lines = [_line(row, epochs, steps) for row in rows[-20:]]
        if task.status == DONE:
            lines.append(f"take it into use: s2vnet serve -m {folder / RUN}")
        elif task.status == STOPPED:
            lines.append("stopped; the same request goes on with it")
        elif task.status == ERROR:
            lines.append(task.why)
        elif not rows:
            lines.append(f"{len(task.cases)} scans are being prepared")
        found = {key: getattr(task, key) for key in ("id", "status", "request", "start_ts", "end_ts")}
        return {**found, "details": lines, "result": lines[-1]}

    def statistics(self) -> dict[str, Any]:
        """Progress of the last training, as Slicer's bar wants it."""
        last = self._last()
        if last is None:
            return {}
        task, rows = self._read(last), _history(last)
        epochs, steps = self._extent(task)
        scores = [row["dice"] for row in rows if "dice" in row]
        found: dict[str, Any] = {"epoch": int(rows[-1]["step"]) // steps if rows else 0, "max_epochs": epochs}
        found |= {"start_ts": task.start_ts, "best_metric": max(scores, default=0.0)}
        return found | ({} if self.running else {"total_time": rows[-1].get("seconds", 0.0) if rows else 0.0})

    def log(self) -> str:
        """The last lines that the last training wrote."""
        last = self._last()
        path = None if last is None else last / LOG
        if path is None or not path.is_file():
            return ""
        return "\n".join(path.read_text(errors="replace").splitlines()[-_LINES:])

    def close(self) -> None:
        """Stop what this server began; it goes on when it is asked for again."""
        self._stop_own()

    def _options(self, request: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
        """Of the command line."""
        options = ["--fold", "all" if str(request.get("val_split")) in ("0", "0.0") else "0", "--no-validation"]
        options += ["--device", self._device]
        if str(request.get("pretrained", True)).lower() not in ("false", "0"):
            options += ["--init", self._model]
            network = self._segmenter.models[0].config
            for name, given in ModelConfig.model_fields.items():
                value = getattr(network, name)
                if name not in _BY_PLAN and value != given.default:
                    options += ["-n", f"{name}={value}"]
        for name, value in config.items():
            options += ["-c", f"{name}={value}"]
        return options

    @property
    def _own(self) -> bool:
        """Whether a training is at work that this server began."""
        return self._thread is not None and self._thread.is_alive()

    def _taken(self) -> Path | None:
        """Folder of a training that is at work, whoever began it."""
        return next((path.parent for path in self._folder.glob(f"*/{RECORD}") if is_taken(path.parent)), None)

    def _work(self, folder: Path, scans: list[LabelledScan], mark: int) -> None:
        """Prepare, train, and write down how it ended; the folder's mark is the process's too."""
        try:
            self._train(folder, scans, mark)
        finally:
            os.close(mark)

    def _train(self, folder: Path, scans: list[LabelledScan], mark: int) -> None:
        try:
            task = self._read(folder)
            self._prepare(folder, scans)
            command = [sys.executable, "-m", "s2vnet", "train", str(folder / DATASET), "-o", str(folder / RUN)]
            command += ["--resume", *task.options]
            if "--init" in task.options:  # its weights fit its own plan
                save_json(self._segmenter.plan, folder / PLAN)
                command += ["--plan", str(folder / PLAN)]
            with (folder / LOG).open("ab") as log:
                with self._lock:
                    if self._read(folder).status == STOPPED:
                        return
                    self._process = subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                        pass_fds=() if sys.platform == "win32" else (mark,),
                    )
                    os.write(mark, str(self._process.pid).encode())
                    self._mark(folder, RUNNING)
                code = self._process.wait()
            with self._lock:
                self._process = None
                if self._read(folder).status != STOPPED:
                    why = "" if code == 0 else (self.log().splitlines() or [f"it ended with {code}"])[-1]
                    self._mark(folder, DONE if code == 0 else ERROR, why)
        except (S2VNetError, OSError, MemoryError) as error:
            with self._lock:
                self._process = None
                self._mark(folder, ERROR, str(error) or "not enough memory")

    def _prepare(self, folder: Path, scans: Sequence[LabelledScan]) -> None:
        """The dataset in nnU-Net's layout: links where they do, else files of their own. Written once."""
        dataset, plan = folder / DATASET, self._segmenter.plan
        if (dataset / "dataset.json").exists():
            return
        for part in ("imagesTr", "labelsTr"):
            (dataset / part).mkdir(parents=True, exist_ok=True)
        for number, scan in enumerate(scans):
            if self._read(folder).status == STOPPED:
                return
            targets = [dataset / "imagesTr" / f"{number:04d}_{c:04d}{ENDING}" for c in range(len(plan.channels))]
            _place(scan.image, targets)
            shutil.copyfile(scan.labels, dataset / "labelsTr" / f"{number:04d}{ENDING}")
        content = {
            "name": plan.dataset,
            "channel_names": {str(c): name for c, name in enumerate(plan.channels)},
            "labels": dict(plan.labels),
            "numTraining": len(scans),
            "file_ending": ENDING,
        }
        with atomic_write(dataset / "dataset.json") as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")

    @staticmethod
    def _extent(task: TrainingJob) -> tuple[int, int]:
        """Epochs, and steps of one."""
        config = TrainConfig.model_validate(task.config)
        return config.epochs, config.steps_per_epoch

    def _folders(self) -> list[Path]:
        return sorted((path.parent for path in self._folder.glob(f"*/{RECORD}")), key=lambda f: self._read(f).began)

    def _last(self) -> Path | None:
        folders = self._folders()
        return folders[-1] if folders else None

    def _read(self, folder: Path) -> TrainingJob:
        task = TrainingJob(**read_json(folder / RECORD))
        task.cases = [(name, at) for name, at in task.cases]
        if task.status in (SUBMITTED, RUNNING) and folder != self._at and not is_taken(folder):  # it was killed
            task.status = STOPPED
        return task

    def _write(self, folder: Path, task: TrainingJob) -> None:
        with atomic_write(folder / RECORD) as temporary:
            temporary.write_text(json.dumps(asdict(task)))

    def _mark(self, folder: Path, status: str, why: str = "") -> None:
        task = self._read(folder)
        task.status, task.why = status, why
        task.end_ts = None if status == RUNNING else _now()
        self._write(folder, task)


def _config(request: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a training that a request asks for; MONAI's `pretrained` means the whole network, not an encoder."""
    wanted = {THEIR_NAMES.get(key, key): value for key, value in request.items() if key != "pretrained"}
    wanted = {key: value for key, value in wanted.items() if key in TrainConfig.model_fields}
    try:
        checked = TrainConfig.model_validate(wanted)
    except ValidationError as error:
        raise InputError(f"setting {first_error(error)}") from error
    return {key: getattr(checked, key) for key in wanted}


def _same(task: TrainingJob, options: list[str], cases: list[tuple[str, int]]) -> bool:
    return task.status == STOPPED and task.options == options and task.cases == cases


def _history(folder: Path) -> list[dict[str, float]]:
    try:
        found: list[dict[str, float]] = read_json(folder / RUN / "history.json")
    except (OSError, ValueError):
        return []
    return found


def _line(row: Mapping[str, float], epochs: int, steps: int) -> str:
    score = f", Dice {row['dice']:.3f}" if "dice" in row else ""
    return f"epoch {int(row['step']) // steps} of {epochs}: loss {row['loss']:.4f}{score}"


def _place(image: Path, targets: Sequence[Path]) -> None:
    """An image as a file for each channel: a link to the one that it is, where the system allows it."""
    if len(targets) == 1 and image.name.lower().endswith(ENDING):
        try:
            return targets[0].symlink_to(image.resolve())
        except FileExistsError:  # of an earlier attempt
            return
        except OSError:
            pass
    volume = read_image(image, frames_as_channels=len(targets) > 1)
    if len(volume.data) != len(targets):
        raise InputError(f"a scan of {len(volume.data)} channels, where the model takes {len(targets)}")
    for channel, target in zip(volume.data, targets, strict=True):
        write_image(target, Volume(channel[None], volume.geometry))


def _now() -> str:
    return f"{datetime.now():%Y-%m-%d %H:%M:%S}"
