"""Records of cases, and the tables that hold them."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2vnet.batch.jobs import ExtraOutputs, plan_jobs, predict
from s2vnet.batch.records import _COLUMNS, DONE_EARLIER, LABELS_EXIST, SUMMARY, CaseRecord, open_summary, read_done
from s2vnet.batch.runner import open_batch
from s2vnet.batch.workers import BatchSettings
from s2vnet.inference.segmenter import Segmenter

pytestmark = pytest.mark.timeout(300)


@pytest.mark.usefixtures("in_process")
def test_a_list_and_a_summary_in_parquet(work: BatchSettings, images: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow (the extra parquet) is not installed")
    from pyarrow import parquet

    listed = tmp_path / "list.parquet"
    names = [str(images / f"case0{n}_0000.nii.gz") for n in range(2)]
    parquet.write_table(pyarrow.table({"image": names, "case": ["x", None]}), listed)
    asked = BatchSettings(work.models, "cpu", ExtraOutputs(volumes=True))
    records = {record.case: record for record in open_batch(str(listed), str(tmp_path / "out"), asked, 1)[0]}
    found = parquet.read_table(tmp_path / "out" / "summary.parquet").to_pylist()
    assert [row["case"] for row in found] == ["x", "case01"]
    for row in found:
        record = records[row["case"]]
        assert (row["state"], row["seconds"], row["memory_mb"]) == ("done", record.seconds, record.memory_mb)
        assert {name: row[f"{name} (ml)"] for name in record.volumes} == record.volumes


@pytest.mark.usefixtures("in_process")
def test_volumes_are_those_of_the_path_without_workers(
    segmenter: Segmenter, work: BatchSettings, images: Path, tmp_path: Path
) -> None:
    list(predict(segmenter, plan_jobs(images, tmp_path / "one", 1), extras=ExtraOutputs(volumes=True)))
    asked = BatchSettings(work.models, "cpu", ExtraOutputs(volumes=True))
    for skip in (False, True):
        (tmp_path / "one" / "batch.json").unlink(missing_ok=True)
        target = tmp_path / ("one" if skip else "many")
        records = list(open_batch(str(images), str(target), asked, 1, skip_existing=skip)[0])
        assert {(record.state, record.reason) for record in records} == {
            ("skipped", LABELS_EXIST) if skip else ("done", "")
        }
        assert (target / "volumes.csv").read_bytes() == (tmp_path / "one" / "volumes.csv").read_bytes()


def test_a_row_of_the_summary_gives_its_record_again() -> None:
    record = CaseRecord("a", "done", "", 1.5, 2, 1, 60.0, ("one", "two"), {"left": 0.25})
    row = dict(zip(_COLUMNS, map(str, record.to_row()), strict=True))
    assert CaseRecord.from_row(row) == record
    with pytest.raises(ValueError, match="unknown"):
        CaseRecord.from_row(row | {"state": "unknown"})


def test_complete_rows_of_done_cases_are_read(tmp_path: Path) -> None:
    assert read_done(str(tmp_path)) == {}
    records = [CaseRecord("a", "done"), CaseRecord("b", "failed", "damaged"), CaseRecord("c", "skipped", DONE_EARLIER)]
    with open_summary(str(tmp_path), ["a", "b", "c"], records[:1]) as summary:
        for record in records[1:]:
            summary.add(record)
    with (tmp_path / SUMMARY).open("a") as stream:
        stream.write("d,done,,1.0")
    assert read_done(str(tmp_path)) == {"a": records[0], "c": records[2]}
