"""A journal is removed once nothing more can come of it, not sooner, whoever else is at it, whatever lies beside it."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tracked import run_of, start

from lunaops.tracking_delivery import pending, remove_done
from lunaops.tracking_journal import Delivered, find_journals, write_delivered
from lunaops.tracking_store import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient

UNREADABLE = {
    "delivered.json": ["", "[]", '{"offset": 3, "run_id": null, "newer": 1}'],
    "journal.jsonl": [
        '{"do":"start"\n',
        '{"do":"start","name":"n","millis":1}\n',
        "\udcff\n",
        "5\n",
        '{"do":"start","store":"another"}\n5\n{"do":"end","status":"FINISHED"}\n',
    ],
}


def delivered_journal(journals: Path, name: str, **of_start: Any) -> Path:
    """The journal of a finished run, all of it delivered."""
    folder = journals / name
    folder.mkdir(parents=True)
    entries = [{"do": "start", "store": "s", "millis": 1} | of_start, {"do": "end", "status": "FINISHED", "millis": 2}]
    size = (folder / "journal.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    write_delivered(folder, Delivered(offset=size, run_id="r"))
    return folder


def test_a_resume_file_is_found_from_the_project_where_tracking_is_a_link(tmp_path: Path) -> None:
    project, elsewhere = tmp_path / "project", tmp_path / "disk" / "tracking"
    project.mkdir()
    elsewhere.mkdir(parents=True)
    (project / "tracking").symlink_to(elsewhere)
    (project / "state").touch()
    folder = delivered_journal(project / "tracking", "a", resume_file="state")
    remove_done(project)
    assert find_journals(project / "tracking") == [folder]
    (project / "state").unlink()
    remove_done(project)
    assert find_journals(project / "tracking") == []


def test_several_at_once_remove_what_is_done(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(100):
        delivered_journal(tmp_path / "tracking", str(number))
    with ThreadPoolExecutor(4) as pool:  # the locks keep threads apart as they do processes
        for done in [pool.submit(remove_done, tmp_path) for _ in range(4)]:
            done.result()
    assert caplog.messages == []
    assert list((tmp_path / "tracking").iterdir()) == []


@pytest.mark.parametrize(("file", "text"), [(file, text) for file, texts in UNREADABLE.items() for text in texts])
def test_an_unreadable_journal_costs_one_line_and_stays(
    file: str, text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unreadable = delivered_journal(tmp_path / "tracking", "a")
    if file == "journal.jsonl":
        (unreadable / "delivered.json").unlink()
    (unreadable / file).write_bytes(text.encode(errors="surrogateescape"))
    delivered_journal(tmp_path / "tracking", "b")
    waiting = delivered_journal(tmp_path / "tracking", "c")
    (waiting / "delivered.json").unlink()
    assert pending(tmp_path, Store("s", "s", None)) == [waiting]
    remove_done(tmp_path)
    assert find_journals(tmp_path / "tracking") == [unreadable, waiting]
    (line,) = caplog.messages
    assert line.startswith(f"{unreadable} cannot be read") and "\n" not in line


def test_no_lock_is_taken_of_a_journal_that_is_not_done(tmp_path: Path) -> None:
    waiting = delivered_journal(tmp_path / "tracking", "a")
    (waiting / "delivered.json").unlink()
    remove_done(tmp_path)
    assert [file.name for file in waiting.iterdir()] == ["journal.jsonl"]


@pytest.mark.slow
def test_a_run_beside_unreadable_journals_is_delivered(
    store: "MlflowClient", tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = delivered_journal(tmp_path / "tracking", "20250101T000000-other")
    (other / "delivered.json").write_text("")
    newer = delivered_journal(tmp_path / "tracking", "20250102T000000-newer", do="begin", store="sqlite:///mlflow.db")
    (newer / "delivered.json").write_text('{"run_id": null}')
    with start() as tracker:
        pass
    assert run_of(store, tracker).info.status == "FINISHED"
    assert [folder.name for folder in find_journals(tmp_path / "tracking")] == [other.name, newer.name]
    assert [message.split(" cannot be read")[0] for message in caplog.messages if "cannot be read" in message] == [
        f"tracking/{newer.name}",
        f"tracking/{other.name}",
    ]
