from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from s2vnet.config import ModelConfig, TrainConfig
from s2vnet.data.plan import Plan
from s2vnet.data.preprocess import Case
from s2vnet.errors import CheckpointError, InputError
from s2vnet.model.checkpoint import TrainedModel, load_model
from s2vnet.model.s2vnet import S2VNet
from s2vnet.training.initialization import IMAGENET, load_imagenet_encoder, load_initial_weights
from s2vnet.training.trainer import Hardware, Trainer


def _trained(config: ModelConfig, labels: dict[str, int]) -> TrainedModel:
    torch.manual_seed(7)
    return TrainedModel(S2VNet(config), {"labels": labels}, {}, "")


def test_all_weights_are_copied_for_the_same_classes(model_config: ModelConfig, plan: Plan) -> None:
    model, trained = S2VNet(model_config), _trained(model_config, plan.labels)
    assert load_initial_weights(model, trained, plan.labels) == []
    own, theirs = model.state_dict(), trained.model.state_dict()
    assert all(torch.equal(own[name], theirs[name]) for name in theirs)


def test_encoders_with_bundled_imagenet_weights_start_from_them(model_config: ModelConfig) -> None:
    model = S2VNet(model_config.model_copy(update={"encoder": "efficientnet-lite0", "stem_stride": 2}))
    assert load_imagenet_encoder(model)
    shipped = load_file(IMAGENET)
    own = model.encoder.state_dict()
    assert torch.equal(own["blocks.10.project.weight"], shipped["blocks.10.project.weight"].float())
    assert not load_imagenet_encoder(S2VNet(model_config))


@pytest.mark.parametrize("names", [("right", "left"), ("a", "b", "c")])
def test_weights_per_class_are_reset_for_other_classes(
    model_config: ModelConfig, plan: Plan, names: tuple[str, ...]
) -> None:
    labels = {"background": 0, **{name: value for value, name in enumerate(names, 1)}}
    model = S2VNet(model_config.model_copy(update={"num_classes": len(labels)}))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = _trained(model_config, plan.labels)
    anew = load_initial_weights(model, trained, labels)
    assert sorted(anew) == [
        "identity",
        "initial_centres",
        "pixel_decoder.auxiliary.bias",
        "pixel_decoder.auxiliary.weight",
    ]
    after, theirs = model.state_dict(), trained.model.state_dict()
    assert all(torch.equal(after[name], before[name] if name in anew else theirs[name]) for name in after)


def test_the_stem_is_reset_for_other_channels(model_config: ModelConfig, plan: Plan) -> None:
    model = S2VNet(model_config.model_copy(update={"in_channels": 6}))
    assert load_initial_weights(model, _trained(model_config, plan.labels), plan.labels) == ["encoder.stem.0.weight"]


@pytest.mark.parametrize(
    ("changes", "theirs", "line"),
    [
        ({"dim": 48}, {}, r"another one \(dim 32, not 48\)"),
        ({"encoder": "compact"}, {}, r"another one \(encoder tiny, not compact\)"),
        ({}, {"encoder": "compact"}, r"another one \(encoder compact, not tiny\)"),
    ],
)
def test_another_network_is_refused_with_the_differing_settings(
    model_config: ModelConfig, plan: Plan, changes: dict[str, object], theirs: dict[str, object], line: str
) -> None:
    model = S2VNet(model_config.model_copy(update=changes))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=line):
        load_initial_weights(model, _trained(model_config.model_copy(update=theirs), plan.labels), plan.labels)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_run_and_its_average_start_from_initial_weights(
    cases: list[Case], plan: Plan, model_config: ModelConfig, config: TrainConfig, tmp_path: Path
) -> None:
    first = Trainer(cases[:2], plan, model_config, config, Hardware("cpu")).run(tmp_path)
    still = config.model_copy(update={"learning_rate": 1e-12, "weight_decay": 0.0, "seed": 5})
    second = Trainer(cases[:2], plan, model_config, still, Hardware("cpu"), init=first).run(tmp_path)
    theirs = first.model.state_dict()
    for name, value in second.model.state_dict().items():
        torch.testing.assert_close(value, theirs[name], atol=1e-6, rtol=0)


def test_a_run_cannot_resume_with_other_initial_weights(
    cases: list[Case], plan: Plan, model_config: ModelConfig, config: TrainConfig, tmp_path: Path
) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    first, second = (
        dataclasses.replace(_trained(model_config, plan.labels), sha256=letter * 64) for letter in ("a", "b")
    )
    with pytest.raises(KeyboardInterrupt):
        Trainer(cases[:2], plan, model_config, config, Hardware("cpu"), init=first).run(tmp_path, report=stop)
    with pytest.raises(CheckpointError, match="start init_sha256"):
        Trainer(cases[:2], plan, model_config, config, Hardware("cpu"), init=second).run(tmp_path, resume=True)
    Trainer(cases[:2], plan, model_config, config, Hardware("cpu")).run(tmp_path, resume=True)
    assert load_model(tmp_path).info["init_sha256"] == "a" * 64
