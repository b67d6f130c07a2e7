"""Ids that show that a client was given them by a server with a token."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from s2vnet.server.signed_ids import sign, unsign

TOKEN = "a secret of many characters"


@given(st.text(min_size=1))
def test_a_signed_id_is_the_id_for_the_same_token_only(image: str) -> None:
    assert unsign(sign(image, TOKEN), TOKEN) == image
    assert unsign(sign(image, TOKEN), "another secret of many") is None
    assert unsign(image, TOKEN) is None
    assert unsign("x" + sign(image, TOKEN), TOKEN) is None


def test_without_a_token_ids_are_plain() -> None:
    assert sign("one.nii.gz", None) == "one.nii.gz"
    assert unsign("one.nii.gz~" + "0" * 32, None) is None
