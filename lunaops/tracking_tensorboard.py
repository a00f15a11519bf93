"""TensorBoard's half of tracking: one folder a split, so that the splits' curves overlay."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_FOLDER_ENDINGS = {"train": "trn_cls", "val": "val_cls"}  # the book's names
_HISTOGRAM_BINS = np.linspace(0, 1, 51)


class Boards:
    """Writers of scalars, curves and histograms; `root` None: nothing is written.

    A split's folder ROOT/STAMP-trn_cls (or -val_cls) appears with its first value. `resume` is the position of a run
    to go on with, in its folders: what they hold of later steps is hidden, for it comes again.
    """

    def __init__(self, root: Path | None, *, resume: Mapping[str, Any] | None = None) -> None:
        self._root = root
        self._stamp = f"{datetime.now().astimezone():%Y-%m-%d_%H.%M.%S}"
        self._last_step = -1
        self._purge_step: int | None = None
        if resume and "boards" in resume:
            self._stamp, self._last_step = resume["boards"], resume["step"]
            self._purge_step = self._last_step + 1
        self._writers: dict[str, SummaryWriter] = {}

    @property
    def position(self) -> dict[str, Any]:
        """The folders and the last step in them, for `resume`."""
        return {"boards": self._stamp, "step": self._last_step}

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Write 'train/loss/all' as 'loss/all' of the train folder; a name without a split keeps it, there too."""
        self._last_step = max(self._last_step, step)
        if self._root is None:
            return
        for name, value in metrics.items():
            split, _, tag = name.partition("/")
            if split in _FOLDER_ENDINGS:
                self._writer(split).add_scalar(tag, value, step)
            else:
                self._writer("train").add_scalar(name, value, step)
        self._flush()

    def log_scores(
        self, is_positive: NDArray[np.bool_], scores: NDArray[np.floating], *, step: int, split: str
    ) -> None:
        """Write the PR curve 'pr' and the scores' histograms 'is_neg' and 'is_pos' (the book's tags).

        `is_positive` (n,), `scores` (n,) in [0, 1]. A class without samples has no histogram; without samples of both
        there is no curve either.
        """
        if self._root is None or not len(scores):
            return
        writer = self._writer(split)
        for tag, wanted in (("is_neg", ~is_positive), ("is_pos", is_positive)):
            if wanted.any():
                writer.add_histogram(tag, scores[wanted], step, bins=_HISTOGRAM_BINS)
        if is_positive.any() and not is_positive.all():
            writer.add_pr_curve("pr", is_positive, scores, step)
        self._flush()

    def close(self) -> None:
        """Write out what is buffered."""
        for writer in self._writers.values():
            writer.close()

    def _writer(self, split: str) -> "SummaryWriter":
        if split not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            assert self._root is not None
            folder = self._root / f"{self._stamp}-{_FOLDER_ENDINGS[split]}"
            self._writers[split] = SummaryWriter(str(folder), purge_step=self._purge_step)
        return self._writers[split]

    def _flush(self) -> None:
        for writer in self._writers.values():
            writer.flush()  # an open TensorBoard shows each epoch as it ends
