from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from disks import files_limited_to
from safetensors.torch import save

from s2vnet.errors import CheckpointError, InputError
from s2vnet.model.bundled import WEIGHTS_FOLDER
from s2vnet.model.checkpoint import DESCRIPTION, WEIGHTS, choose_device, load_model, save_model
from s2vnet.model.s2vnet import S2VNet

PLAN, INFO = {"spacing": [1.0, 2.0]}, {"fold": "0"}


@pytest.fixture
def saved(tmp_path: Path, model: S2VNet) -> Path:
    save_model(tmp_path, model, PLAN, INFO)
    return tmp_path


def _describe(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((folder / DESCRIPTION).read_text())
    change(content)
    (folder / DESCRIPTION).write_text(json.dumps(content))


def _reweigh(folder: Path, data: bytes) -> None:
    """Other weights, with a description that vouches for them."""
    (folder / WEIGHTS).write_bytes(data)
    _describe(folder, lambda c: c.update(sha256=hashlib.sha256(data).hexdigest()))


def test_save_and_load_round_trip(saved: Path, model: S2VNet) -> None:
    trained = load_model(saved)
    assert trained.model.config == model.config
    assert not trained.model.training
    assert (trained.plan, trained.info) == (PLAN, INFO)
    assert trained.sha256 == hashlib.sha256((saved / WEIGHTS).read_bytes()).hexdigest()
    state = trained.model.state_dict()
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_what_only_prompts_read_in_older_networks_is_ignored(saved: Path, model: S2VNet) -> None:
    config, state = model.config, {name: tensor.clone() for name, tensor in model.state_dict().items()}
    old = dict(state, prompt_identity=torch.ones(config.dim))
    old |= {"prompt_centre.0.weight": torch.ones(config.dim, 9), "prompt_centre.1.bias": torch.ones(config.dim)}
    for name in ("map_embedding.weight", "map_embedding.bias"):  # further rows embedded maps of prompts
        old[name] = torch.cat([state[name], torch.ones(4 * config.mask_dim, *state[name].shape[1:])])
    _reweigh(saved, save(old))
    _describe(saved, lambda c: c["config"].update(carry_prompts=True, prompt_reach=8))
    trained = load_model(saved)
    assert trained.model.config == config
    assert all(torch.equal(trained.model.state_dict()[name], value) for name, value in state.items())
    _reweigh(saved, save(dict(old, another=torch.ones(1))))
    with pytest.raises(CheckpointError, match="sizes differ, for example of another"):
        load_model(saved)


@pytest.mark.parametrize("name", ["abdomen-ct", "hippocampus-mr"])
def test_the_package_s_networks_load(name: str) -> None:
    assert not load_model(WEIGHTS_FOLDER / name).model.training


def test_saving_is_deterministic(saved: Path) -> None:
    before = [(saved / name).read_bytes() for name in (WEIGHTS, DESCRIPTION)]
    save_model(saved, load_model(saved).model, PLAN, INFO)
    assert [(saved / name).read_bytes() for name in (WEIGHTS, DESCRIPTION)] == before
    assert sorted(p.name for p in saved.iterdir()) == [DESCRIPTION, WEIGHTS]


def test_a_full_disk_keeps_the_previous_model(saved: Path) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    model = load_model(saved).model
    with pytest.raises(InputError) as refused, files_limited_to(20000):
        save_model(saved, model, {}, {})
    assert str(refused.value).startswith(f"cannot write {saved / DESCRIPTION}: ")
    assert "\n" not in str(refused.value)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda f: [p.unlink() for p in f.iterdir()], "not a trained model"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "not a trained model"),
    "not JSON": (lambda f: (f / DESCRIPTION).write_text("{"), "not valid JSON"),
    "not text": (lambda f: (f / DESCRIPTION).write_bytes(b"\xff\xfe\x00"), "not valid JSON"),
    "no object": (lambda f: (f / DESCRIPTION).write_text("[]"), "format None"),
    "another format": (lambda f: _describe(f, lambda c: c.update(format=1)), "format 1, but this .* reads 3"),
    "another hash": (lambda f: _describe(f, lambda c: c.update(sha256="0")), "does not match the hash in model.json"),
    "cut weights": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-9]), "does not match the hash"),
    "weights of no format": (lambda f: _reweigh(f, b"\x00" * 64), "do not fit"),
    "weights of another size": (lambda f: _describe(f, lambda c: c["config"].update(dim=64)), "do not fit"),
    "a width that cannot be": (lambda f: _describe(f, lambda c: c["config"].update(dim=33)), "do not fit"),
    "a width that no machine has": (lambda f: _describe(f, lambda c: c["config"].update(dim=10**9)), "do not fit"),
    "a width that the file has not": (lambda f: _describe(f, lambda c: c["config"].update(dim=4096)), "do not fit"),
    "layers without end": (lambda f: _describe(f, lambda c: c["config"].update(layers_per_level=10**9)), "do not fit"),
    "an unknown encoder": (lambda f: _describe(f, lambda c: c["config"].update(encoder="vit")), "unknown encoder"),
    "an unknown setting": (lambda f: _describe(f, lambda c: c["config"].update(depth=3)), "do not fit"),
    "an empty configuration": (lambda f: _describe(f, lambda c: c.update(config=None)), "do not fit"),
    "no configuration": (lambda f: _describe(f, lambda c: c.pop("config")), "do not fit"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_invalid_models_are_refused_in_one_line(saved: Path, damage: str) -> None:
    apply, reason = DAMAGES[damage]
    apply(saved)
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_model(saved)
    assert "\n" not in str(caught.value)


def test_the_cpu_is_always_available() -> None:
    assert choose_device("cpu") == torch.device("cpu")


def test_auto_chooses_an_available_device() -> None:
    assert choose_device("auto") == choose_device(choose_device("auto").type)
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        assert choose_device("auto") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:99", "cpu:1", "meta"])
def test_an_unavailable_device_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(InputError, match=r"not available; choose one of .*cpu") as caught:
        choose_device(name)
    assert "\n" not in str(caught.value)
