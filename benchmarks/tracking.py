"""What tracking costs an epoch: seconds of the training thread in the Tracker's calls, and CPU of its background.

    python -m benchmarks.tracking [--samples 495958] [--epochs 10] [--seconds-per-epoch 2]

The epochs are as long as said and do nothing; stores are a real sqlite file, one that is not there, and off. The line
"off" is TensorBoard alone.
"""

import argparse
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lunaops.metrics import classification_metrics
from lunaops.model import LunaModel, write_model
from lunaops.tracking import Tracker, start_run


def main() -> None:
    """Measure each store in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=495_958, help="of a training epoch; LUNA16 has 495,958")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seconds-per-epoch", type=float, default=2.0)
    options = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{probe.getsockname()[1]}"
    print(f"{options.samples} training samples an epoch; the first epoch, the median and the worst of the later ones")
    for name, uri in (("off", "off"), ("sqlite", "sqlite:///mlflow.db"), ("not there", nowhere)):
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            os.environ["MLFLOW_TRACKING_URI"] = uri
            measure(name, options.samples, options.epochs, options.seconds_per_epoch)
            os.chdir("/")


def measure(name: str, samples: int, epochs: int, seconds_per_epoch: float) -> None:
    """Run some epochs and print what their calls took."""
    generator = np.random.default_rng(0)
    is_nodule, scores = generator.random(samples) < 0.5, generator.random(samples)
    metrics = classification_metrics(is_nodule, scores, scores, threshold=0.5)
    model = LunaModel()
    spent: dict[str, list[float]] = {"log_metrics": [], "log_scores": [], "log_checkpoint": [], "position": []}
    with start_run(kind="train", params={"a": 1}, inputs={}, tensorboard=Path("runs")) as tracker:
        cpu = time.process_time() - time.thread_time()
        for epoch in range(1, epochs + 1):
            time.sleep(seconds_per_epoch)
            write_model(model, Path("last"), {"epoch": epoch})
            for call, calls in calls_of(tracker, metrics, is_nodule, scores, epoch).items():
                began = time.perf_counter()
                calls()
                spent[call].append(time.perf_counter() - began)
        background = (time.process_time() - time.thread_time() - cpu) / epochs
    totals = [sum(of_epoch) for of_epoch in zip(*spent.values(), strict=True)]
    print(
        f"{name:10s} first {1000 * totals[0]:7.1f} ms   median {1000 * statistics.median(totals[1:]):6.1f} ms   "
        f"worst {1000 * max(totals[1:]):6.1f} ms   background {1000 * background:6.1f} ms CPU   median of "
        + ", ".join(f"{call} {1000 * statistics.median(times[1:]):.1f}" for call, times in spent.items())
    )


def calls_of(
    tracker: Tracker, metrics: dict[str, float], is_nodule: np.ndarray, scores: np.ndarray, epoch: int
) -> dict[str, Callable[[], object]]:
    """What training calls after an epoch."""
    step, few = epoch * len(scores), len(scores) // 9
    both = {f"{split}/{name}": value for split in ("train", "val") for name, value in metrics.items()}

    def log_scores() -> None:
        tracker.log_scores(is_nodule, scores, step=step, split="train")
        tracker.log_scores(is_nodule[:few], scores[:few], step=step, split="val")

    return {
        "log_metrics": lambda: tracker.log_metrics(both, step=step),
        "log_scores": log_scores,
        "log_checkpoint": lambda: tracker.log_checkpoint(Path("last"), epoch=epoch, best_epoch=1, keep=3),
        "position": lambda: tracker.position,
    }


if __name__ == "__main__":
    main()
