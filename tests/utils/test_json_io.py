"""JSON that others wrote."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hostile import TARGETS, is_accepted
from pydantic import BaseModel

from s2vnet.errors import InputError
from s2vnet.prompts import Mask
from s2vnet.server.protocols.array_codec import pack, unpack
from s2vnet.utils.json_io import model_to_json, parse_json, read_json

FILES = ("plan.json", "dataset.json", "splits_final.json", "model.json", "prompts.json", "clicks", "training", "grid")


def test_json_is_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"ä": [1, null]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"ä": [1, None]} == parse_json('{"ä": [1, null]}')


class Named(BaseModel):
    """Text by text, as file names are."""

    names: dict[str, tuple[str, float | None]]


@pytest.mark.parametrize("indent", [None, 2])
def test_names_that_are_not_text_come_back(tmp_path: Path, indent: int | None) -> None:
    value = Named(names={os.fsdecode(b"\xff\xe9"): ("Größe", None), "\\udcff": ("a\nb", 0.1)})
    (tmp_path / "a.json").write_bytes(model_to_json(value, indent))
    assert Named.model_validate(read_json(tmp_path / "a.json")) == value
    plain = Named(names={"Größe 山": ('"b\\', -1000.0)})
    assert model_to_json(plain, None) == plain.model_dump_json().encode()  # digests of earlier runs hold


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [lambda text: b"[" * 100_000, lambda text: b'{"labels": ' * 50_000])
def test_what_is_nested_without_end_is_refused_in_one_line(
    tmp_path: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    assert not is_accepted(TARGETS[name], damage(b""), tmp_path)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("dataset.json", b'"liver": 1', b'"liver": Infinity'),
        ("prompts.json", b'"shape": [4,', b'"shape": [Infinity,'),
    ],
)
def test_infinity_is_no_integer(tmp_path: Path, name: str, old: bytes, new: bytes) -> None:
    seed = TARGETS[name].seeds(tmp_path)[0]
    assert old in seed
    assert is_accepted(TARGETS[name], seed, tmp_path)
    assert not is_accepted(TARGETS[name], seed.replace(old, new), tmp_path)


def test_a_mask_of_more_voxels_than_there_are_numbers_is_refused() -> None:
    mask = Mask(class_id=1, start=(0, 0, 0), stop=(10**30, 1, 1), bits="eJwDAAAAAAE=")
    with pytest.raises(InputError, match="mask prompt is damaged"):
        mask.voxels()


@pytest.mark.parametrize("kind", [b"2+2,(u1", b"O", b"int16,u1"])
def test_an_array_is_of_a_plain_type(kind: bytes) -> None:
    message = bytearray(pack(np.zeros((1, 2, 3, 4), np.int16)))
    at = message.index(b"int16")
    message[at : at + 5] = kind
    message[at - 1] = len(kind)
    with pytest.raises(InputError, match=r"voxels of no type|dimensions of"):
        unpack(bytes(message), 4, 1000)
