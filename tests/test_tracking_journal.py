"""The journal on the disk: whole lines, one writer, one deliverer, files as they were."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from lunaops.tracking_journal import (
    Delivered,
    Journal,
    delivery_lock,
    end_if_abandoned,
    files_of,
    find_journals,
    last_entry,
    read_delivered,
    read_entries,
    remove_journal,
    write_delivered,
)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal.create(tmp_path)
    journal.append({"do": "start"}, millis=1)
    return journal


def entries_of(folder: Path, offset: int = 0) -> list[dict[str, object]]:
    return [entry for _, entry in read_entries(folder, offset)]


def test_entries_come_back_in_their_order_from_any_offset(journal: Journal) -> None:
    journal.append({"do": "metrics", "step": 1}, millis=2)
    (first_end, _), (end, _) = read_entries(journal.folder)
    assert entries_of(journal.folder, first_end) == [{"do": "metrics", "step": 1, "millis": 2}]
    assert entries_of(journal.folder, end) == []


def test_a_number_that_is_no_number_never_reaches_it(journal: Journal) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        journal.append({"do": "metrics", "values": {"loss": float("nan")}})


def test_a_torn_last_line_is_not_read_and_is_gone_when_the_run_goes_on(journal: Journal) -> None:
    with (journal.folder / "journal.jsonl").open("ab") as file:
        file.write(b'{"do":"metrics","st')
    assert [entry["do"] for entry in entries_of(journal.folder)] == ["start"]
    journal.close()
    again = Journal.reopen(journal.folder)
    assert again is not None
    again.append({"do": "resume"}, millis=3)
    assert [entry["do"] for entry in entries_of(journal.folder)] == ["start", "resume"]


def test_one_process_writes_at_a_time(journal: Journal) -> None:
    assert Journal.reopen(journal.folder, wait=0) is None
    journal.close()
    assert Journal.reopen(journal.folder, wait=0) is not None


def test_one_delivers_at_a_time(journal: Journal) -> None:
    with delivery_lock(journal.folder) as mine, delivery_lock(journal.folder) as also_mine:
        assert (mine, also_mine) == (True, False)
    with delivery_lock(journal.folder) as mine:
        assert mine
    with delivery_lock(journal.folder.with_name("gone")) as mine:
        assert not mine


def test_kept_files_are_those_of_then(journal: Journal, tmp_path: Path) -> None:
    weights = tmp_path / "last" / "weights.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"first")
    name = journal.keep(weights.parent)
    weights.write_bytes(b"second")
    assert (files_of(journal.folder, name) / "weights.safetensors").read_bytes() == b"first"
    journal.drop(name)
    assert not files_of(journal.folder, name).exists()


def test_how_far_it_is_delivered_is_written_and_read(journal: Journal) -> None:
    assert read_delivered(journal.folder) == Delivered()
    write_delivered(journal.folder, Delivered(offset=12, run_id="r"))
    assert read_delivered(journal.folder) == Delivered(offset=12, run_id="r")


def test_how_far_it_is_delivered_is_on_the_disk_before_it_has_its_name(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[bool, bool]] = []
    there = journal.folder / "delivered.json"
    monkeypatch.setattr(os, "fsync", lambda number: synced.append((os.fstat(number).st_size > 0, there.exists())))
    write_delivered(journal.folder, Delivered(offset=12))
    assert synced == [(True, False)]


def test_a_journal_that_is_half_removed_is_none(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "rmtree", lambda folder, **_: None)  # killed before it
    remove_journal(journal.folder)
    assert (journal.folder.exists(), find_journals(journal.folder.parent)) == (False, [])


def test_a_journal_that_goes_while_its_lock_is_asked_for_is_nobodys(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "exists", lambda _: shutil.rmtree(journal.folder) is None)
    with delivery_lock(journal.folder) as mine:
        assert not mine


def test_journals_are_found_the_oldest_first(tmp_path: Path) -> None:
    for name in ("20250102T000000-a", "20250101T000000-b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "journal.jsonl").touch()
    (tmp_path / "another folder").mkdir()
    assert [folder.name for folder in find_journals(tmp_path)] == ["20250101T000000-b", "20250102T000000-a"]


def test_a_living_run_is_not_ended_by_others(journal: Journal) -> None:
    end_if_abandoned(journal.folder)
    assert last_entry(journal.folder) == {"do": "start", "millis": 1}


KILLED = """
import os, signal, sys
from pathlib import Path
from lunaops.tracking_journal import Journal
journal = Journal.create(Path(sys.argv[1]))
journal.append({"do": "start"}, millis=1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_is_ended_at_its_last_entry_and_only_once(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=environment, check=False)
    assert done.returncode == -9
    (folder,) = find_journals(tmp_path)
    for _ in range(2):
        end_if_abandoned(folder)
    assert (folder / "journal.jsonl").read_text().splitlines()[1:] == [
        json.dumps({"do": "end", "status": "KILLED", "millis": 1}, separators=(",", ":"))
    ]
