"""Training checkpoints: everything that a run needs to resume, in one file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from s2vnet.config import TrainConfig
from s2vnet.data.plan import Plan
from s2vnet.errors import CheckpointError
from s2vnet.model.checkpoint import PROMPT_SETTINGS, model_config
from s2vnet.model.s2vnet import S2VNet
from s2vnet.training.run_data import CASES
from s2vnet.utils.atomic_write import atomic_write, disk_errors

CHECKPOINT = "checkpoint.pt"


@dataclass
class TrainingState:
    """State of a training run."""

    step: int
    model: S2VNet
    ema: AveragedModel
    optimizer: torch.optim.Optimizer
    history: list[dict[str, float]] = field(default_factory=list)
    spent: tuple[float, float] = (0.0, 0.0)
    """Wall-clock and CPU seconds, including those before the run was resumed."""


def save_checkpoint(run: TrainingState, path: Path, signature: Mapping[str, Any]) -> None:
    """Write a checkpoint; `signature` holds the settings that a resumed run must have.

    Raises:
        InputError: the file cannot be written; an earlier one is left as it was.
    """
    state = {
        "step": run.step,
        "model": run.model.state_dict(),
        "ema": run.ema.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "history": run.history,
        "spent": list(run.spent),
        "signature": json.dumps(signature, sort_keys=True),
    }
    with atomic_write(path) as temporary, disk_errors(RuntimeError):
        torch.save(state, temporary)


def saved_epochs(path: Path) -> int | None:
    """Return the epochs that the run of a checkpoint was begun with; None without a readable checkpoint."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return int(json.loads(state["signature"])["train"]["epochs"])
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, UnpicklingError):
        return None


def load_checkpoint(run: TrainingState, path: Path, signature: dict[str, Any]) -> None:
    """Restore a run in place from a checkpoint, if there is one; ``signature["start"]`` is set to the checkpoint's.

    Raises:
        CheckpointError: the file is damaged, or was written with other settings or data than `signature`.
    """
    if not path.is_file():
        return
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        _require_same_settings(path, json.loads(state["signature"]), signature)
        run.model.load_state_dict(state["model"])
        run.ema.load_state_dict(state["ema"])
        run.optimizer.load_state_dict(state["optimizer"])
        run.step, run.history = state["step"], state["history"]
        last = run.history[-1] if run.history else {}  # older checkpoints hold times per epoch only
        seconds, cpu_seconds = state.get("spent", (last.get("seconds", 0.0), last.get("cpu_seconds", 0.0)))
        run.spent = float(seconds), float(cpu_seconds)
    except CheckpointError:
        raise
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: damaged ({reason}); remove it and start again") from error


def _require_same_settings(path: Path, saved: dict[str, Any], signature: dict[str, Any]) -> None:
    if PROMPT_SETTINGS[0] in saved["model"]:
        raise CheckpointError(
            f"{path}: training with simulated prompts, which this version of s2vnet cannot continue; "
            "continue with the version that began it, or start a new run"
        )
    saved["train"] = TrainConfig.model_validate(saved["train"]).model_dump()
    saved["model"] = model_config(saved["model"]).model_dump()
    saved["plan"] = Plan.model_validate(saved["plan"]).model_dump(mode="json")
    start = saved.setdefault("start", {"init_sha256": ""})
    if not signature["start"]["init_sha256"]:  # a resumed run need not name its initial weights again
        signature["start"] = start
    if saved.setdefault("data", signature["data"]) != signature["data"]:
        raise CheckpointError(
            f"{path}: belongs to other cases than {CASES} lists; restore that file, or start a new run"
        )
    current = json.loads(json.dumps(signature))
    different = [
        f"{part} {name}" for part in current for name in current[part] if saved[part].get(name) != current[part][name]
    ]
    if saved != current:
        raise CheckpointError(
            f"{path}: made with another plan or configuration ({', '.join(different)}); "
            "give the original settings of the run, or choose another folder"
        )
