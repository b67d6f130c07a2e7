"""Training jobs on the scans that clients have labelled; one at a time, in a process of its own.

A job is a folder: the dataset in nnU-Net's layout, the run that `s2vnet train` writes, and a record of both. A
stopped job is resumed by a request with the same options and labels, also after a restart. The job's process locks the
folder until it ends, which may be after the server that started it.
"""

from __future__ import annotations

import contextlib
import json
import os
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
from s2vnet.data.plan import Plan, save_json
from s2vnet.errors import InputError, S2VNetError
from s2vnet.server.folder_lock import LOCK_FILE, is_locked, lock_folder
from s2vnet.server.model_library import ServedModel
from s2vnet.server.training_dataset import LabelledScan, write_dataset
from s2vnet.utils.atomic_write import atomic_write, remove_unfinished
from s2vnet.utils.extras import require_extra
from s2vnet.utils.json_io import read_json
from s2vnet.utils.validation_errors import first_error

MIN_CASES = 5
"""One for each of nnU-Net's folds, one of which is held out for validation."""
STOP_S = 60.0
"""Seconds that a training has to finish its step and to write its checkpoint."""
KILL_S = 10.0
"""Seconds that the system has to end a killed process."""
RECORD, RUN, DATASET, PLAN, LOG = "training.json", "run", "dataset", "plan.json", "train.log"
SUBMITTED, RUNNING, DONE, STOPPED, ERROR = "SUBMITTED", "RUNNING", "DONE", "STOPPED", "ERROR"
MONAI_NAMES = {"max_epochs": "epochs", "train_batch_size": "batch_size"}
"""Names of MONAI Label's settings in TrainConfig."""
ALREADY_RUNNING = "a training is running already; stop it, or wait for its end"
_SET_BY_PLAN = ("in_channels", "num_classes", "encoder", "stem_stride")
_LOG_LINES = 300


@dataclass
class TrainingJob:
    """Record of a training job; its fields are the keys of `training.json`."""

    id: str
    request: dict[str, Any]
    config: dict[str, Any]
    """Requested values of a TrainConfig."""
    options: list[str]
    """Options of `s2vnet train` except dataset and folder."""
    cases: list[tuple[str, int]]
    """File names and times (ns) of the labels; a job is resumed only with the same ones."""
    start_ts: str
    end_ts: str | None = None
    model: str = ""
    """Name of the model that the training starts from."""
    status: str = SUBMITTED
    why: str = ""
    began: float = field(default_factory=time.time)

    def size(self) -> tuple[int, int]:
        """Return the number of epochs, and of steps per epoch."""
        config = TrainConfig.model_validate(self.config)
        return config.epochs, config.steps_per_epoch


class TrainingJobs:
    """Training jobs of a server. Thread-safe."""

    def __init__(self, folder: Path, device: str) -> None:
        self._folder, self._device = folder, device
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._active_folder: Path | None = None
        """Folder of the job that this server started last."""

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that clients may choose, with their defaults."""
        default = TrainConfig()
        return {"max_epochs": default.epochs, "train_batch_size": default.batch_size, "pretrained": True}

    @property
    def running(self) -> bool:
        """Whether a job is running, started by this server or another one."""
        return self._runs_own or self._locked_folder() is not None

    def start(self, request: Mapping[str, Any], scans: Sequence[LabelledScan], model: ServedModel) -> dict[str, Any]:
        """Start a job, or resume the last one if it was stopped and had the same options and labels.

        Args:
            request: settings that the client chose.
            scans: with final labels of the model's classes.
            model: from which the training starts.

        Raises:
            InputError: a job is running, too few scans, an invalid setting, or training is not installed.
        """
        require_extra("train", "training on the server", "lightning_fabric")
        if len(scans) < MIN_CASES:
            raise InputError(
                f"{len(scans)} scans with final labels, and training needs {MIN_CASES}; label more of them"
            )
        config = parse_config(request)
        options = self._options(request, config, model)
        cases = [(scan.labels.name, scan.labels.stat().st_mtime_ns) for scan in scans]
        with self._lock:
            if self.running:
                raise InputError(ALREADY_RUNNING)
            folder, job = self._new_or_resumed(request, config, options, cases, model.name)
            folder.mkdir(parents=True, exist_ok=True)
            lock = lock_folder(folder)
            if lock is None:
                raise InputError("a training is running here already; stop it, or wait for its end")
            try:
                remove_unfinished(folder)
                self._write(folder, job)
                self._active_folder, args = folder, (folder, list(scans), model, lock)
                self._thread = threading.Thread(target=self._run, args=args, name="training", daemon=True)
                self._thread.start()
            except BaseException:
                os.close(lock)
                raise
        return self.status(folder)

    def _new_or_resumed(
        self,
        request: Mapping[str, Any],
        config: dict[str, Any],
        options: list[str],
        cases: list[tuple[str, int]],
        model: str,
    ) -> tuple[Path, TrainingJob]:
        """Return folder and record of the job to start."""
        last = self._last()
        if last is not None and _resumable(job := self._read(last), options, cases):
            job.status, job.end_ts, job.why = SUBMITTED, None, ""
            return last, job
        now, name = datetime.now(), uuid.uuid4().hex
        job = TrainingJob(name, dict(request), config, options, cases, _now(), model=model)
        if last is not None:  # keep jobs in order of their start even if the system's clock was set back
            job.began = max(job.began, self._read(last).began + 1)
        return self._folder / f"{now:%Y%m%d-%H%M%S}-{name[:4]}", job

    def stop(self) -> dict[str, Any] | None:
        """Stop the running job after its current step, so that it can be resumed. Returns None if no job runs."""
        folder = self._stop_own()
        if folder is None and (folder := self._locked_folder()) is not None:
            self._set_status(folder, STOPPED)
            self._terminate(folder)
        return None if folder is None else self.status(folder)

    def _stop_own(self) -> Path | None:
        """Stop a job that this server started; return its folder, or None if it is not running."""
        with self._lock:
            folder, thread = self._active_folder, self._thread
            if folder is None or thread is None or not thread.is_alive():
                return None
            self._set_status(folder, STOPPED)
            if self._process is not None:
                self._process.terminate()
        thread.join(STOP_S)
        with self._lock:
            if self._process is not None:
                self._process.kill()
        thread.join()
        return folder

    def _terminate(self, folder: Path) -> None:
        """End the process of a job that another server started.

        Raises:
            InputError: the process does not end.
        """
        for number, seconds in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, KILL_S)):
            # suppressed if the process has ended or has not started yet; in the latter case its server reads the record
            with contextlib.suppress(OSError, ValueError):
                process = int((folder / LOCK_FILE).read_text())
                if is_locked(folder):
                    (os.kill if number == signal.SIGTERM else os.killpg)(process, number)
            deadline = time.monotonic() + seconds
            while is_locked(folder):
                if time.monotonic() > deadline:
                    break
                time.sleep(0.05)
            else:
                return
        raise InputError("the training does not end; stop its process where the server runs")

    def latest(self) -> dict[str, Any] | None:
        """Return the status of the last job; None if there was none."""
        last = self._last()
        return None if last is None else self.status(last)

    def all(self) -> list[dict[str, Any]]:
        """Return the status of all jobs, the oldest first."""
        return [self.status(folder) for folder in self._folders()]

    def status(self, folder: Path) -> dict[str, Any]:
        """Return the status of a job in MONAI Label's form."""
        job = self._read(folder)
        rows = _history(folder)
        epochs, steps = job.size()
        lines = [_progress_line(row, epochs, steps) for row in rows[-20:]]
        if job.status == DONE:
            lines.append(f"use the model: s2vnet serve -m {folder / RUN}")
        elif job.status == STOPPED:
            lines.append("stopped; the same request resumes it")
        elif job.status == ERROR:
            lines.append(job.why)
        elif not rows:
            lines.append(f"preparing {len(job.cases)} scans")
        fields = {key: getattr(job, key) for key in ("id", "status", "request", "start_ts", "end_ts")}
        return {**fields, "details": lines, "result": lines[-1]}

    def latest_model(self) -> str:
        """Return the name of the model that the last job started from; empty if there was none."""
        last = self._last()
        return "" if last is None else self._read(last).model

    def statistics(self) -> dict[str, Any]:
        """Return the progress of the last job, as Slicer's progress bar needs it."""
        last = self._last()
        if last is None:
            return {}
        job, rows = self._read(last), _history(last)
        epochs, steps = job.size()
        scores = [row["dice"] for row in rows if "dice" in row]
        statistics: dict[str, Any] = {"epoch": int(rows[-1]["step"]) // steps if rows else 0, "total_epochs": epochs}
        statistics |= {"start_ts": job.start_ts, "best_metric": max(scores, default=0.0)}
        if not self.running:
            statistics["total_time"] = rows[-1].get("seconds", 0.0) if rows else 0.0
        return statistics

    def log(self) -> str:
        """Return the last lines of the last job's log."""
        last = self._last()
        path = None if last is None else last / LOG
        if path is None or not path.is_file():
            return ""
        return "\n".join(path.read_text(errors="replace").splitlines()[-_LOG_LINES:])

    def close(self) -> None:
        """Stop the job that this server started; it can be resumed."""
        self._stop_own()

    def _options(self, request: Mapping[str, Any], config: Mapping[str, Any], model: ServedModel) -> list[str]:
        """Return the options of `s2vnet train`."""
        options = ["--fold", "all" if str(request.get("val_split")) in ("0", "0.0") else "0", "--no-validation"]
        options += ["--device", self._device]
        if str(request.get("pretrained", True)).lower() not in ("false", "0"):
            options += ["--init", model.source]
            network = model.segmenter.models[0].config
            for name, field_info in ModelConfig.model_fields.items():
                value = getattr(network, name)
                if name not in _SET_BY_PLAN and value != field_info.default:
                    options += ["-n", f"{name}={value}"]
        for name, value in config.items():
            options += ["-c", f"{name}={value}"]
        return options

    @property
    def _runs_own(self) -> bool:
        """Whether a job is running that this server started."""
        return self._thread is not None and self._thread.is_alive()

    def _locked_folder(self) -> Path | None:
        """Return the folder of a running job of any server."""
        return next((path.parent for path in self._folder.glob(f"*/{RECORD}") if is_locked(path.parent)), None)

    def _run(self, folder: Path, scans: list[LabelledScan], model: ServedModel, lock: int) -> None:
        """Body of the background thread: run a job; its process inherits the folder's lock."""
        try:
            self._train(folder, scans, model.plan, lock)
        finally:
            os.close(lock)

    def _train(self, folder: Path, scans: list[LabelledScan], plan: Plan, lock: int) -> None:
        """Write the dataset, train, and record the result."""
        try:
            command = self._command(folder)
            write_dataset(folder / DATASET, scans, plan, lambda: self._read(folder).status == STOPPED)
            if "--init" in command:  # the weights require the plan that they were trained with
                save_json(plan, folder / PLAN)
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
                        pass_fds=() if sys.platform == "win32" else (lock,),
                    )
                    os.write(lock, str(self._process.pid).encode())
                    self._set_status(folder, RUNNING)
                code = self._process.wait()
            with self._lock:
                self._process = None
                if self._read(folder).status != STOPPED:
                    reason = "" if code == 0 else (self.log().splitlines() or [f"exit code {code}"])[-1]
                    self._set_status(folder, DONE if code == 0 else ERROR, reason)
        except (S2VNetError, OSError, MemoryError) as error:
            with self._lock:
                self._process = None
                self._set_status(folder, ERROR, str(error) or "not enough memory")

    def _command(self, folder: Path) -> list[str]:
        command = [sys.executable, "-m", "s2vnet", "train", str(folder / DATASET), "-o", str(folder / RUN)]
        return [*command, "--resume", *self._read(folder).options]

    def _folders(self) -> list[Path]:
        return sorted((path.parent for path in self._folder.glob(f"*/{RECORD}")), key=lambda f: self._read(f).began)

    def _last(self) -> Path | None:
        folders = self._folders()
        return folders[-1] if folders else None

    def _read(self, folder: Path) -> TrainingJob:
        job = TrainingJob(**read_json(folder / RECORD))
        job.cases = [(name, time_ns) for name, time_ns in job.cases]
        if job.status in (SUBMITTED, RUNNING) and folder != self._active_folder and not is_locked(folder):
            job.status = STOPPED  # its process was killed
        return job

    def _write(self, folder: Path, job: TrainingJob) -> None:
        with atomic_write(folder / RECORD) as temporary:
            temporary.write_text(json.dumps(asdict(job)))

    def _set_status(self, folder: Path, status: str, reason: str = "") -> None:
        job = self._read(folder)
        job.status, job.why = status, reason
        job.end_ts = None if status == RUNNING else _now()
        self._write(folder, job)


def parse_config(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the requested values of a TrainConfig. MONAI's `pretrained` refers to the whole network, not the encoder.

    Raises:
        InputError: an invalid value.
    """
    values = {MONAI_NAMES.get(key, key): value for key, value in request.items() if key != "pretrained"}
    values = {key: value for key, value in values.items() if key in TrainConfig.model_fields}
    try:
        config = TrainConfig.model_validate(values)
    except ValidationError as error:
        raise InputError(f"setting {first_error(error)}") from error
    return {key: getattr(config, key) for key in values}


def _resumable(job: TrainingJob, options: list[str], cases: list[tuple[str, int]]) -> bool:
    return job.status == STOPPED and job.options == options and job.cases == cases


def _history(folder: Path) -> list[dict[str, float]]:
    try:
        rows: list[dict[str, float]] = read_json(folder / RUN / "history.json")
    except (OSError, ValueError):
        return []
    return rows


def _progress_line(row: Mapping[str, float], epochs: int, steps: int) -> str:
    score = f", Dice {row['dice']:.3f}" if "dice" in row else ""
    return f"epoch {int(row['step']) // steps} of {epochs}: loss {row['loss']:.4f}{score}"


def _now() -> str:
    return f"{datetime.now():%Y-%m-%d %H:%M:%S}"
