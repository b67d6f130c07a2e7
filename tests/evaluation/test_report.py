"""Reports: means, rules of the challenge, and files that others can read."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from s2vnet.errors import InputError
from s2vnet.evaluation.protocol import InteractiveScores
from s2vnet.evaluation.report import automatic_report, interactive_report, markdown, write_report
from s2vnet.metrics.overlap_and_distance import ClassMetrics
from s2vnet.prompts import Point

NAN = math.nan
NAMES = {1: "liver", 2: "left|kidney"}
UNDEFINED = ClassMetrics(NAN, NAN, NAN)
CASES = {
    "a": {1: ClassMetrics(0.8, 0.9, 4.0), 2: ClassMetrics(0.6, 0.5, 8.0)},
    "b": {1: ClassMetrics(0.9, 1.0, 2.0), 2: UNDEFINED},
    "c": {1: UNDEFINED, 2: UNDEFINED},
}


def scores(dice: list[dict[int, float]], nsd: list[dict[int, float]] | None = None) -> InteractiveScores:
    clicks: list[list[Point]] = [[] for _ in dice]
    return InteractiveScores(dice, nsd or dice, clicks, [0.5, 1.5])


PLAYED = {
    "a": scores(
        [{1: 0.1, 2: 0.3}, {1: 0.7, 2: 0.5}, {1: 0.86, 2: 0.5}], [{1: 0.4, 2: 0.6}, {1: 0.5, 2: 0.7}, {1: 1.0, 2: 0.8}]
    ),
    "b": scores([{1: 0.92}, {1: 0.92}, {1: 0.92}]),
}


def test_automatic_mean_is_over_cases_of_means_over_defined_classes() -> None:
    part = automatic_report(CASES, NAMES)["automatic"]
    assert part["dice"] == pytest.approx((0.7 + 0.9) / 2)
    assert part["nsd"] == pytest.approx((0.7 + 1.0) / 2)
    assert part["hd95"] == pytest.approx((6.0 + 2.0) / 2)
    assert [row["case"] for row in part["cases"]] == ["a", "b", "c"]
    assert part["cases"][0]["hd95"] == 6.0
    assert part["cases"][0]["per_class"]["liver"] == {"dice": 0.8, "nsd": 0.9, "hd95": 4.0}
    assert math.isnan(part["cases"][2]["dice"])


def test_automatic_classes_and_intervals() -> None:
    part = automatic_report(CASES, NAMES)["automatic"]
    liver, kidney = part["per_class"]["liver"], part["per_class"]["left|kidney"]
    assert [liver["cases"], kidney["cases"]] == [2, 1]
    assert liver["dice"] == pytest.approx(0.85)
    assert kidney["hd95_ci95"] == [8.0, 8.0]
    assert liver["dice_ci95"] == pytest.approx([0.8, 0.9])
    assert part["nsd_ci95"] == pytest.approx([0.7, 1.0])


def test_class_missing_from_a_case_is_left_out() -> None:
    part = automatic_report({"a": {1: CASES["a"][1]}, "b": CASES["b"]}, NAMES)["automatic"]
    assert [row["cases"] for row in part["per_class"].values()] == [2, 0]


def test_interactive_rounds_and_challenge_rule() -> None:
    part = interactive_report(PLAYED, NAMES, rounds=2)["interactive"]
    assert part["dice_per_round"] == pytest.approx([(0.2 + 0.92) / 2, (0.6 + 0.92) / 2, (0.68 + 0.92) / 2])
    assert part["cases"][0]["nsd_per_round"] == pytest.approx([0.0, 0.6, 0.9])  # mean Dice 0.2 is too low for NSD
    assert part["nsd_per_round"] == pytest.approx([0.46, 0.76, 0.91])
    assert part["dsc_auc"] == pytest.approx(((0.6 + 0.68) / 2 + 0.92) / 2)
    assert part["nsd_auc"] == pytest.approx((0.75 + 0.92) / 2)
    assert part["cases"][0]["per_class"]["liver"] == {"dice_per_round": [0.1, 0.7, 0.86]}
    assert part["seconds_per_round"] == 1.0


def test_number_of_clicks_is_capped() -> None:
    part = interactive_report(PLAYED, NAMES, rounds=2)["interactive"]
    assert part["noc85"] == pytest.approx((2 + 2 + 0) / 3)  # second reached by none, counts as 2
    assert part["failed85"] == pytest.approx(1 / 3)
    assert part["noc90"] == pytest.approx((2 + 2 + 0) / 3)
    assert part["failed90"] == pytest.approx(2 / 3)


def test_number_of_rounds_must_agree() -> None:
    with pytest.raises(InputError, match="a: evaluated 2 rounds, not 5"):
        interactive_report(PLAYED, NAMES)


def test_files(tmp_path: Path) -> None:
    empty = {"e": InteractiveScores([{}, {}, {}], [{}, {}, {}], [[], [], []], [])}
    report = automatic_report(CASES, NAMES) | interactive_report(PLAYED | empty, NAMES, rounds=2)
    path = tmp_path / "report.json"
    write_report(path, report)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.json", "report.md"]

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    found = json.loads(path.read_text(), parse_constant=refuse)
    assert found["automatic"]["dice"] == report["automatic"]["dice"]
    assert found["automatic"]["cases"][2]["dice"] is None
    assert found["interactive"]["cases"][2]["dice_per_round"] == [None] * 3
    assert markdown(found) == markdown(report) == (tmp_path / "report.md").read_text()
    write_report(path, found)
    assert json.loads(path.read_text()) == found


def test_report_must_not_be_named_as_its_tables(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"report\.json"):
        write_report(tmp_path / "report.md", {})


def test_markdown_tables() -> None:
    text = markdown(automatic_report(CASES, NAMES))
    assert "| liver | 0.850 [0.800, 0.900] |" in text
    assert "left\\|kidney" in text
    assert "| c | - | - | - |" in text
    assert "Interactive" not in text
    other = markdown(interactive_report(PLAYED, NAMES, rounds=2))
    assert "| Round | 0 | 1 | 2 | AUC |" in other
    assert "Automatic" not in other
    for table in (text + other).split("\n\n"):
        rows = [line for line in table.splitlines() if line.startswith("|")]
        assert len({line.replace("\\|", "").count("|") for line in rows}) <= 1


def test_nothing_evaluated(tmp_path: Path) -> None:
    report = automatic_report({}, NAMES) | interactive_report({}, NAMES)
    write_report(tmp_path / "r.json", report)
    assert math.isnan(report["automatic"]["dice"])
    assert math.isnan(report["interactive"]["noc85"])
    assert markdown({}) == ""
