import pytest
from hypothesis import given
from hypothesis import strategies as st

from lunaops.errors import InputError
from lunaops.params import SplitParams
from lunaops.splits import split_by_stride, split_scans

UIDS = [f"1.3.{number}" for number in range(2000)]


def split_of(strategy: str, **changes) -> SplitParams:
    values = {
        "val": ("subset3",),
        "test": ("subset4",),
        "fold": 0,
        "folds": (0,),
        "seed": 1,
        "val_share": 0.1,
        "test_share": 0.2,
    }
    return SplitParams(**{"strategy": strategy, "val_stride": 10, **values, **changes})


def folds(subsets: list[str]) -> list[dict[str, str]]:
    """Of each fold, the split of each subset."""
    scans = {f"{subset}.{number}": subset for subset in subsets for number in range(3)}
    found = []
    for fold in range(len(subsets)):
        splits = split_scans(scans, split_of("k_fold", fold=fold))
        found.append({subset: splits[f"{subset}.0"] for subset in subsets})
        assert all(splits[uid] == found[-1][subset] for uid, subset in scans.items())  # whole subsets
    return found


def test_the_named_subsets_validate_and_test_and_the_others_train() -> None:
    scans = {"a": "subset0", "b": "subset3", "c": "subset4", "d": "subset9"}
    assert split_scans(scans, split_of("subset")) == {"a": "train", "b": "val", "c": "test", "d": "train"}


def test_the_fold_th_subset_on_disk_tests_and_the_next_one_validates() -> None:
    assert folds(["subset1", "subset4", "subset8", "subset9"]) == [
        {"subset1": "test", "subset4": "val", "subset8": "train", "subset9": "train"},
        {"subset1": "train", "subset4": "test", "subset8": "val", "subset9": "train"},
        {"subset1": "train", "subset4": "train", "subset8": "test", "subset9": "val"},
        {"subset1": "val", "subset4": "train", "subset8": "train", "subset9": "test"},
    ]


def test_over_luna16s_ten_folds_every_subset_tests_once_and_validates_once() -> None:
    ten = [f"subset{number}" for number in range(10)]
    found = folds(ten)
    for subset in ten:
        assert sorted(fold[subset] for fold in found) == ["test", *["train"] * 8, "val"]


def test_folds_that_the_subsets_on_disk_do_not_give_are_refused() -> None:
    with pytest.raises(
        InputError, match="k_fold wants at least 3 subsets .* there are subset0, subset1: see fetch.parts"
    ):
        split_scans({"a": "subset0", "b": "subset1"}, split_of("k_fold"))
    with pytest.raises(
        InputError, match="split.fold 3: there are 3 subsets with scans, so folds 0 to 2: subset0, subset1"
    ):
        split_scans({"a": "subset0", "b": "subset1", "c": "subset2"}, split_of("k_fold", fold=3))


@given(st.sets(st.sampled_from(UIDS)), st.sets(st.sampled_from(UIDS)), st.integers(0, 3))
def test_a_series_stays_in_its_split_whatever_others_there_are(some: set[str], others: set[str], seed: int) -> None:
    split = split_of("series_hash", seed=seed)
    alone, together = (
        split_scans(dict.fromkeys(some, "subset0"), split),
        split_scans(dict.fromkeys(some | others, "subset7"), split),
    )
    assert alone == {uid: together[uid] for uid in some}


def test_a_hash_split_has_its_shares_and_stays_the_same_for_ever() -> None:
    splits = split_scans(dict.fromkeys(UIDS, "subset0"), split_of("series_hash"))
    counts = [list(splits.values()).count(name) for name in ("train", "val", "test")]
    assert counts == [1396, 214, 390]  # of 2000; another machine or version must find these too
    assert [splits[uid] for uid in UIDS[:8]] == ["train", "test", "val", "train", "train", "train", "train", "train"]


def test_another_seed_gives_another_hash_split() -> None:
    one, other = (split_scans(dict.fromkeys(UIDS, "subset0"), split_of("series_hash", seed=seed)) for seed in (1, 2))
    assert one != other


def test_no_test_share_leaves_no_test_split() -> None:
    splits = split_scans(dict.fromkeys(UIDS, "subset0"), split_of("series_hash", test_share=0.0))
    assert set(splits.values()) == {"train", "val"}


def test_by_stride_the_first_of_every_n_validates(caplog: pytest.LogCaptureFixture) -> None:
    found = split_by_stride(7, split_of("candidate_stride", val_stride=3)).tolist()
    assert found == ["val", "train", "train", "val", "train", "train", "val"]
    assert "quote no CPM of it" in caplog.text
