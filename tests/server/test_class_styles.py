"""Classes of a session: the model's and added ones, with the user's names and colours."""

from __future__ import annotations

import pytest

from s2vnet.errors import InputError
from s2vnet.prompts import NewClass
from s2vnet.server.class_styles import check_style, session_classes
from s2vnet.server.schemas import ClassStyle

NETWORK = {0: "background", 1: "liver", 2: "spleen"}
LOG = (NewClass(class_id=3, name="lesion"), NewClass(class_id=4, name="cyst"))


def test_added_classes_follow_the_models_in_colours_of_their_own() -> None:
    classes = session_classes(NETWORK, LOG, {2: ClassStyle(name="Milz"), 4: ClassStyle(color="#102030")})
    assert [(each.id, each.name, each.added) for each in classes] == [
        (0, "background", False), (1, "liver", False), (2, "Milz", False), (3, "lesion", True), (4, "cyst", True),
    ]  # fmt: skip
    assert classes[4].color == "#102030"
    assert len({each.color for each in classes[1:]}) == 4


@pytest.mark.parametrize(
    ("class_id", "name", "reason"),
    [(9, "x", "no such class 9"), (1, " ", "needs a name"), (1, "a\nb", "needs a name"), (1, "Spleen", "already")],
)
def test_a_style_that_does_not_fit_is_refused(class_id: int, name: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        check_style(class_id, ClassStyle(name=name), session_classes(NETWORK, (), {}))
    check_style(1, ClassStyle(name="LIVER"), session_classes(NETWORK, (), {}))
