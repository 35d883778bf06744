from pathlib import Path

import pytest

from orchestrator import records
from orchestrator.errors import RecordError, SpecError
from orchestrator.folder import SweepFolder
from orchestrator.records import TrialRecord


def record(trial: str, score: float = 0.5, params: float = 100.0, status: str = "done") -> TrialRecord:
    return TrialRecord(
        trial=trial,
        method="rosita",
        sample={"heads": 2},
        config={"heads": 2, "compat": []},
        key=trial,
        seed=0,
        status=status,
        costs={"params": params},
        metrics={"score": score, "score_se": 0.01},
    )


def test_a_record_survives_the_disk(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, "sweep")
    records.write(folder, record("t0001"))
    records.write(folder, record("t0000"))
    records.write(folder, record("teacher"))
    assert records.read(folder) == [record("teacher"), record("t0000"), record("t0001")]


def test_writing_again_replaces_and_leaves_nothing_aside(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, "sweep")
    records.write(folder, record("t0000", score=0.1))
    records.write(folder, record("t0000", score=0.9))
    assert [item.metrics["score"] for item in records.read(folder)] == [0.9]
    assert [path.name for path in folder.record("t0000").parent.iterdir()] == ["t0000.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a readable record"),
        ("[1]", "a record is a JSON object, found list"),
        ('{"trial": "t0000"}', "key 'config' is missing"),
        ('{"trial": "t0000", "colour": 1}', "unknown key 'colour'"),
        ("\udcff", "not a readable record"),
    ],
)
def test_a_broken_record_names_its_file(tmp_path: Path, text: str, message: str) -> None:
    folder = SweepFolder(tmp_path, "sweep")
    path = folder.record("t0000")
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RecordError, match=message) as caught:
        records.read(folder)
    assert str(path) in str(caught.value)


def test_an_unknown_status_is_refused() -> None:
    with pytest.raises(RecordError, match="status 'fine'; allowed: done, stopped, failed, refused"):
        record("t0000", status="fine")


@pytest.mark.parametrize("name", ["../evil", "", ".hidden", "a/b", "Big", "a" * 81, "a\nb"])
def test_a_name_cannot_leave_the_root(tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match="is not a sweep's name"):
        SweepFolder(tmp_path, name)
