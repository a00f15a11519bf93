import itertools
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from killing import killed_at, killed_beyond
from tiny import make_tiny, outputs, results
from torch import Tensor

from lunaops.params import read_params
from lunaops.resume import ResumeFile, training_fingerprint

FORKS = multiprocessing.get_context("forkserver")  # a process that imports torch once and computes nothing
FORKS.set_forkserver_preload(["stages.train", "torch._dynamo"])


class Part:
    def __init__(self, **values: Any) -> None:
        self.values = values

    def tensors(self) -> dict[str, Tensor]:
        return {"a/b": torch.tensor(self.values["tensor"])}

    def facts(self) -> dict[str, Any]:
        return {"fact": self.values["fact"]}

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        self.values = {"tensor": tensors["a/b"].tolist(), **facts}


def test_what_was_kept_is_given_back_exactly(tmp_path: Path) -> None:
    file = ResumeFile(tmp_path / "folder" / "state", {"seed": 1, "size": (1, 2)})
    one, two = Part(tensor=[0.1, 2.0], fact=0.1 + 0.2), Part(tensor=[3.0], fact=None)
    file.write({"one": one, "two": two}, {"position": "p"})
    others = {"one": Part(), "two": Part()}
    assert ResumeFile(tmp_path / "folder" / "state", {"seed": 1, "size": [1, 2]}).restore(others) == {"position": "p"}
    assert others["one"].values == {"tensor": torch.tensor([0.1, 2.0]).tolist(), "fact": 0.1 + 0.2}
    assert others["two"].values == {"tensor": [3.0], "fact": None}
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["state"]


def test_a_state_of_other_params_is_refused_by_name_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ResumeFile(tmp_path / "state", {"train.seed": 1, "cpu": 1}).write({"part": Part(tensor=[1.0], fact=1)}, {})
    part = Part(untouched=True)
    assert ResumeFile(tmp_path / "state", {"train.seed": 2, "cpu": 1}).restore({"part": part}) == {}
    assert part.values == {"untouched": True}
    assert "not resumed, it is of another run: train.seed was 1, is 2; starting anew" in caplog.text


def kept(tmp_path: Path) -> ResumeFile:
    file = ResumeFile(tmp_path / "state", {"seed": 1})
    file.write({"part": Part(tensor=[1.0] * 100, fact=1)}, {"position": "p"})
    return file


@pytest.mark.parametrize("content", [b"", b"not safetensors", None])
def test_a_damaged_state_is_said_and_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    file = kept(tmp_path)
    whole = file.path.read_bytes()
    file.path.write_bytes(whole[:-10] if content is None else content)
    assert file.restore({"part": Part()}) == {}
    assert "not resumed, it cannot be read" in caplog.text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_bit_of_a_state_may_flip(tmp_path: Path, data: st.DataObject) -> None:
    file, part = kept(tmp_path), Part(untouched=True)
    content = bytearray(file.path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    file.path.write_bytes(content)
    facts = file.restore({"part": part})
    assert (facts, part.values) in [({}, {"untouched": True}), ({"position": "p"}, {"tensor": [1.0] * 100, "fact": 1})]


def test_killed_at_any_moment_of_writing_the_old_state_or_the_new_one_is_there(tmp_path: Path) -> None:
    file = ResumeFile(tmp_path / "folder" / "state", {})
    old, new = Part(tensor=[1.0] * 1000, fact="old"), Part(tensor=[2.0] * 2000, fact="new")
    file.write({"part": new}, {})
    length = file.path.stat().st_size

    def is_killed(killed: Callable[[int, Callable[[], object]], bool], moment: int) -> bool:
        file.write({"part": old}, {"position": "old"})
        was_killed = killed(moment, lambda: file.write({"part": new}, {"position": "new"}))
        found = Part()
        position = file.restore({"part": found})
        assert (found.values, position["position"]) in [(part.values, part.values["fact"]) for part in (old, new)]
        assert was_killed or found.values == new.values
        return was_killed

    changes = next(change for change in itertools.count() if not is_killed(killed_at, change))
    assert changes >= 1, "a file is renamed"
    assert all(is_killed(killed_beyond, byte) for byte in (0, 1, 7, 8, 100, length // 2, length - 1))
    assert not is_killed(killed_beyond, 2 * length)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["state"]


def test_without_a_state_there_is_nothing_to_say(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert ResumeFile(tmp_path / "none", {}).restore({}) == {}
    assert caplog.text == ""


def test_the_fingerprint_names_data_params_and_devices_but_not_the_number_of_workers(tmp_path: Path) -> None:
    def fingerprint(device: str = "cpu", **train: Any) -> dict[str, Any]:
        paths = make_tiny(tmp_path, **train)
        inputs = {"candidates": paths["candidates"], "crops": paths["manifest"]}
        return training_fingerprint(read_params(paths["params_file"]), inputs, device=device)

    assert fingerprint() == fingerprint(num_workers=3, checkpoint_every=4)
    assert fingerprint() != fingerprint(device="cuda")
    assert fingerprint() != fingerprint(learning_rate=0.5)
    (tmp_path / "candidates.parquet").write_bytes(b"other")
    assert {"candidates", "crops", "device", "model.channels", "augment.flip"} <= set(fingerprint())


def start(paths: dict[str, Path], cache: Path) -> ForkServerProcess:
    process = FORKS.Process(target=_train, args=(paths, cache))
    process.start()
    return process


def _train(paths: dict[str, Path], cache: Path) -> None:
    os.environ |= {"LUNAOPS_CACHE_DIR": str(cache), "MLFLOW_TRACKING_URI": "off"}
    torch.set_num_threads(1)  # the cores are the other tests' too
    from stages import train

    train.main(**paths)


def finish(paths: dict[str, Path], cache: Path) -> None:
    process = start(paths, cache)
    process.join()
    assert process.exitcode == 0


@pytest.mark.long
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_killed_at_any_moment_and_run_again_it_ends_with_the_same_bytes(tmp_path: Path, precision: str) -> None:
    paths = make_tiny(tmp_path, epochs=6, precision=precision)
    finish(paths | outputs(tmp_path / "whole"), tmp_path / "crops")
    seed = random.randrange(10**6)
    moments, kills = random.Random(seed), 0
    for attempt in range(200):
        process = start(paths, tmp_path / "crops")
        process.join(timeout=moments.uniform(0.02, 0.8))
        if process.exitcode is not None:
            assert process.exitcode == 0
            if kills >= 20:
                break
            (tmp_path / "run").rename(tmp_path / f"run {attempt}")  # complete too soon: once more
            assert results(tmp_path / f"run {attempt}") == results(tmp_path / "whole"), f"seed {seed}"
            continue
        process.kill()
        process.join()
        kills += 1
    else:
        finish(paths, tmp_path / "crops")
    assert kills >= 20
    assert results(tmp_path / "run") == results(tmp_path / "whole"), f"seed {seed}"
    assert not paths["resume"].exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_keeps_the_state_and_the_next_run_ends_as_an_undisturbed_one(
    tmp_path: Path, number: signal.Signals
) -> None:
    paths = make_tiny(tmp_path, epochs=12, checkpoint_every=0)
    finish(paths | outputs(tmp_path / "whole"), tmp_path / "crops")
    process = start(paths, tmp_path / "crops")
    while not (paths["models"] / "last" / "model.json").exists():
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode not in (0, None)
    assert paths["resume"].exists()
    finish(paths, tmp_path / "crops")
    assert results(tmp_path / "run") == results(tmp_path / "whole")


@pytest.mark.slow
def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path) -> None:
    runs = []
    for workers in (0, 1, 4):
        paths = make_tiny(tmp_path, epochs=2, num_workers=workers) | outputs(tmp_path / f"{workers}")
        finish(paths, tmp_path / "crops")
        runs.append(results(tmp_path / f"{workers}"))
    assert runs[0] == runs[1] == runs[2]
