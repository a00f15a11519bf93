"""The real stage in a process of its own, killed at random moments."""

import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from ruamel.yaml import YAML
from server import Handler, Zenodo, served

pytestmark = pytest.mark.long

KILLS = 20
STAGE = """
import runpy
from lunaops import subsets
subsets.LUNA16["subset0"] = (subsets.RemoteFile("subset0.zip", 7, {size}, "{md5}"),)
runpy.run_module("stages.fetch_subsets", run_name="__main__")
"""


def scans(seed: int) -> dict[str, bytes]:
    """Two scans of 8 MB that pack well, so that unpacking takes a while, and one that does not, to download."""
    draw = np.random.default_rng(seed)
    header = (
        "ObjectType = Image\nNDims = 3\nDimSize = 256 256 {}\nOffset = 0 0 0\nElementSpacing = 1 1 1\n"
        "ElementType = MET_SHORT\n"
    )
    files = {}
    for name, slices, high in (("1.1", 64, 2), ("1.2", 64, 2), ("1.3", 16, 30_000)):
        files[f"{name}.mhd"] = f"{header.format(slices)}ElementDataFile = {name}.raw\n".encode()
        files[f"{name}.raw"] = draw.integers(0, high, (slices, 256, 256), np.int16).tobytes()
    return files


def slowly(handler: Handler, content: bytes) -> None:
    rest = handler.head_of_range(content)
    for at in range(0, len(rest), 1 << 15):
        handler.wfile.write(rest[at : at + (1 << 15)])
        time.sleep(0.002)


class Stage:
    """The stage for subset0, from a slow server whose archive may be replaced by a new one."""

    def __init__(self, server: Zenodo, place: Path) -> None:
        self.server, self.place = server, place
        self.folder, self.archives = place / "raw" / "subset0", place / "archives"
        self.archive = self.archives / "subset0.zip"
        yaml = YAML()
        tree = yaml.load(ROOT / "params.yaml")
        tree["fetch"] |= {"source": "zenodo", "base_url": server.url}
        yaml.dump(tree, place / "params.yaml")

    def publish(self, files: dict[str, bytes]) -> None:
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, content in files.items():
                archive.writestr(f"subset0/{name}", content)
        self.server.put("subset0.zip", sink.getvalue())
        digest = md5(sink.getvalue(), usedforsecurity=False).hexdigest()
        self.code = STAGE.format(size=len(sink.getvalue()), md5=digest)

    def start(self) -> subprocess.Popen:
        paths = ["--folder", self.folder, "--archives", self.archives, "--params-file", self.place / "params.yaml"]
        command = [sys.executable, "-c", self.code, "--part", "subset0", *map(str, paths)]
        return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)

    def begins(self, phase: str) -> Callable[[], bool]:
        """Whether the process that is started now downloads, or unpacks."""
        requests, now_ns = len(self.server.ranges), time.time_ns()

        def has_begun() -> bool:
            try:
                fresh = self.folder.with_name(".subset0.unfinished").stat().st_ctime_ns > now_ns
            except FileNotFoundError:
                return False
            return fresh and (self.archive.exists() if phase == "unpack" else len(self.server.ranges) > requests)

        return has_begun

    def finish(self, process: subprocess.Popen) -> None:
        said = process.communicate()[1]
        assert process.returncode == 0, said

    def fetched(self) -> dict[str, bytes]:
        """The part, or the one that was moved aside for it."""
        aside = self.folder.with_name(".subset0.replaced")
        place = self.folder if self.folder.exists() or not aside.exists() else aside
        return {path.name: path.read_bytes() for path in place.glob("*")}

    def left(self) -> list[str]:
        return sorted(str(path.relative_to(self.place)) for path in self.place.rglob("*") if path.is_file())


def wait_for(event: Callable[[], bool], process: subprocess.Popen) -> float:
    """Wait for the event or the end of the process; the time."""
    while not event() and process.poll() is None:
        time.sleep(0.001)
    return time.monotonic()


@pytest.fixture
def stage(tmp_path):
    with served() as server:
        server.always = slowly
        yield Stage(server, tmp_path)


def test_killed_twenty_times_the_stage_ends_as_if_undisturbed(stage):
    old, new = scans(1), scans(2)
    stage.publish(old)
    process = stage.start()
    began = wait_for(stage.archives.exists, process)
    came = wait_for(stage.archive.exists, process)
    put = wait_for(lambda: not stage.archive.exists(), process)
    stage.finish(process)
    spans = {"download": came - began, "unpack": put - came}
    undisturbed = stage.left()
    assert stage.fetched() == old

    seed = int(os.environ.get("LUNAOPS_KILL_SEED", random.SystemRandom().randrange(10**6)))
    story = [f"again with LUNAOPS_KILL_SEED={seed}", str(spans)]
    draw = random.Random(seed)
    stage.publish(new)
    kills = {"download": 0, "unpack": 0}
    while sum(kills.values()) < KILLS:
        phase = min(kills, key=lambda phase: kills[phase])
        if phase == "download" and stage.archive.exists():
            stage.archive.unlink()
        begins = stage.begins(phase)
        process = stage.start()
        wait_for(begins, process)
        moment = draw.uniform(0, spans[phase])
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        finished = process.returncode == 0
        story.append(f"{phase}, {moment:.3f} s: {'too late' if finished else 'killed'}: {', '.join(stage.left())}")
        kills[phase] += not finished
        assert stage.fetched() in (old, new), "\n".join(story)
        if stage.fetched() == new:  # once more, from one to the other
            stage.finish(stage.start())
            assert stage.left() == undisturbed, "\n".join(story)
            old, new = new, old
            stage.publish(new)
    stage.finish(stage.start())
    assert stage.fetched() == new, "\n".join(story)
    assert stage.left() == undisturbed, "\n".join(story)


def test_killed_without_an_earlier_part_there_is_none_until_it_is_whole(stage):
    files = scans(1)
    stage.publish(files)
    for num_bytes in (1, 1_000_000, 2_000_000):
        process = stage.start()
        part = stage.archive.with_name("subset0.zip.part")
        wait_for(lambda part=part, n=num_bytes: part.exists() and part.stat().st_size >= n, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not stage.fetched()
    assert int(stage.server.ranges[-1].removeprefix("bytes=").removesuffix("-")) >= 1_000_000
    stage.finish(stage.start())
    assert stage.fetched() == files
    shutil.rmtree(stage.folder)


def test_what_is_unfinished_is_no_data_for_dvc_and_git():
    unfinished = ["data/raw/.subset0.unfinished", "data/raw/.subset0.replaced"]
    for program in ([sys.executable, "-m", "dvc", "check-ignore"], ["git", "check-ignore", "--no-index"]):
        command = [*program, *(f"{path}/1.1.raw" for path in unfinished)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.stdout.splitlines() == command[len(program) :], done.stderr
