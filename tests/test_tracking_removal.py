"""A journal is removed once nothing more can come of it, not sooner, whoever else is at it, whatever lies beside it."""

import json
from pathlib import Path
from typing import Any

from lunaops.tracking_delivery import remove_done
from lunaops.tracking_journal import Delivered, find_journals, write_delivered


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
