"""The two classes that a model tells apart, and which candidates they are asked of: `model.task` as data."""

from dataclasses import dataclass

import pandas as pd

from lunaops.errors import InputError
from lunaops.params import TaskName


@dataclass(frozen=True)
class Task:
    """`label` is the column that says whether a candidate is of the positive class; NA: it is not asked about.

    Of detection LUNA16's rules speak: what is found in a scan, and how often something else is marked. Where the
    candidates are known to be nodules, nothing is there to be found.
    """

    name: TaskName
    label: str
    negative: str
    positive: str
    negatives: str
    positives: str
    is_detection: bool

    @property
    def classes(self) -> tuple[str, str]:
        """The names of the two, the negative one first, as the network's outputs are."""
        return self.negative, self.positive

    @property
    def telling(self) -> str:
        """The metric by which models of the task compare first."""
        return "cpm" if self.is_detection else "roc_auc"

    @property
    def facts(self) -> dict[str, object]:
        """What a model's folder says of its task."""
        return {"name": self.name, "classes": list(self.classes)}


NODULE = Task("nodule", "is_nodule", "other", "nodule", "others", "nodules", is_detection=True)
MALIGNANCY = Task(
    "malignancy", "is_malignant", "benign", "malignant", "benign nodules", "malignant nodules", is_detection=False
)
TASKS = {task.name: task for task in (NODULE, MALIGNANCY)}


def task_of(predictions: pd.DataFrame) -> Task:
    """The task that a table of predictions is of."""
    return MALIGNANCY if MALIGNANCY.label in predictions else NODULE


def labelled(candidates: pd.DataFrame, nodules: pd.DataFrame, task: Task) -> pd.DataFrame:
    """All candidates, in their order, with the task's label: the table's own, else that of the nodule it is of.

    A candidate without a nodule, or whose nodule's label is unknown, is NA. Raises InputError where train or val has
    candidates and none with a label.
    """
    if task.label in candidates:
        return candidates
    known = nodules.set_index("nodule_id")[task.label].astype("boolean")
    label = known.reindex(candidates["nodule_id"].where(candidates["is_nodule"], -1)).set_axis(candidates.index)
    for split in ("train", "val"):
        of_split = candidates["split"] == split
        if of_split.any() and label[of_split].isna().all():
            raise InputError(
                f"model.task {task.name}: of no nodule of the split {split} is known whether it is {task.positive}; "
                "see annotations_with_malignancy.csv in the labels, and the section split"
            )
    return candidates.assign(**{task.label: label})
