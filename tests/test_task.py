import pandas as pd
import pytest

from lunaops.errors import InputError
from lunaops.task import MALIGNANCY, NODULE, labelled

# Candidate 0 and 3 are of a malignant nodule, 1 of a benign one; of 2's nothing is known, 4 to 6 are of no nodule.
CANDIDATES = pd.DataFrame(
    {
        "is_nodule": [True, True, True, True, False, True, False],
        "nodule_id": [7, 8, 9, 7, -1, -1, 8],
        "split": ["train", "val", "val", "test", "train", "val", "test"],
    }
)
NODULES = pd.DataFrame({"nodule_id": [9, 8, 7], "is_malignant": pd.array([None, False, True], "boolean")})


def test_a_candidate_has_its_nodules_label_and_none_where_nothing_is_known() -> None:
    table = labelled(CANDIDATES, NODULES, MALIGNANCY)
    assert table["is_malignant"].tolist() == [True, False, pd.NA, True, pd.NA, pd.NA, pd.NA]
    pd.testing.assert_frame_equal(table.drop(columns="is_malignant"), CANDIDATES)


def test_of_nodules_and_others_the_table_itself_is_the_label() -> None:
    assert labelled(CANDIDATES, NODULES, NODULE) is CANDIDATES


def test_a_split_of_which_no_malignancy_is_known_is_named() -> None:
    with pytest.raises(InputError, match="model.task malignancy: of no nodule of the split val is known whether it is"):
        labelled(CANDIDATES, NODULES[NODULES["nodule_id"] != 8], MALIGNANCY)
