from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lunaops.errors import InputError
from lunaops.sampling import EpochSampler, TableSampler, draw_epoch

LABELS = np.array([1] * 3 + [0] * 20)


def drawn(epoch: int, samples: int = 8, balance: float = 1.0, seed: int = 5) -> list[int]:
    return draw_epoch(LABELS, epoch=epoch, samples=samples, balance=balance, seed=seed).tolist()


@given(
    epochs=st.integers(1, 12),
    samples=st.integers(2, 60),
    balance=st.sampled_from([0.5, 1.0, 3.0]),
    seed=st.integers(0, 9),
)
def test_every_sample_of_a_class_is_used_equally_often_give_or_take_one(
    epochs: int, samples: int, balance: float, seed: int
) -> None:
    used = Counter(index for epoch in range(epochs) for index in drawn(epoch, samples, balance, seed))
    for of_class in (range(3), range(3, 23)):
        counts = [used[index] for index in of_class]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(("balance", "positives"), [(1.0, 4), (3.0, 2), (7.0, 1)])
def test_an_epoch_has_so_many_negatives_for_one_positive(balance: float, positives: int) -> None:
    assert LABELS[drawn(0, 8, balance)].sum() == positives


def test_without_balance_an_epoch_is_one_pass_over_the_candidates_as_they_come() -> None:
    assert sorted(drawn(0, len(LABELS), 0)) == list(range(len(LABELS)))


def test_epochs_differ_and_an_epoch_is_the_same_whatever_came_before() -> None:
    assert drawn(0) != drawn(1)
    assert drawn(1) == drawn(1)
    assert drawn(1, seed=6) != drawn(1)


def test_classes_are_mixed_within_an_epoch() -> None:
    order = LABELS[draw_epoch(LABELS, epoch=0, samples=200, balance=1.0, seed=0)]
    assert 60 < order[:100].sum() * 2 < 140


@pytest.mark.parametrize(("labels", "missing"), [([0, 0], "positive"), ([1, 1], "negative")])
def test_a_class_that_cannot_be_drawn_is_named(labels: list[int], missing: str) -> None:
    with pytest.raises(InputError, match=f"the train split has no {missing} candidate"):
        draw_epoch(np.array(labels), epoch=0, samples=4, balance=1.0, seed=0)


def test_sampler_covers_the_epoch_with_a_smaller_last_batch_and_turns_with_it() -> None:
    sampler = EpochSampler(LABELS, samples=10, batch_size=4, balance=1.0, seed=5)
    first = list(sampler)
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert len(sampler) == 3
    sampler.epoch = 1
    assert list(chain(*first)) == drawn(0, 10)
    assert list(chain(*sampler)) == drawn(1, 10)


def test_zero_samples_are_as_many_as_there_are() -> None:
    assert len(EpochSampler(LABELS, samples=0, batch_size=1, balance=0.0, seed=0)) == len(LABELS)


def shares(**changes: int) -> list[list[list[int]]]:
    options = {"samples": 10, "batch_size": 4, "balance": 0.0, "seed": 1} | changes
    return [list(EpochSampler(np.zeros(10, np.int64), **options, rank=rank, world_size=3)) for rank in range(3)]


def test_processes_share_each_batch_and_together_have_what_one_has() -> None:
    alone = list(EpochSampler(np.zeros(10, np.int64), samples=10, batch_size=4, balance=0.0, seed=1))
    assert [len(batch) for batch in alone] == [4, 4, 2]
    for number, batch in enumerate(alone):
        assert [share[number] for share in shares()] == [batch[0::3], batch[1::3], batch[2::3]]


def test_a_share_of_a_short_last_batch_may_be_empty() -> None:
    assert [len(share[-1]) for share in shares()] == [1, 1, 0]
    assert [list(TableSampler(5, batch_size=4, rank=rank, world_size=2)) for rank in (0, 1)] == [
        [[0, 2], [4]],
        [[1, 3], []],
    ]


def test_an_epoch_can_be_entered_in_its_middle() -> None:
    sampler = EpochSampler(np.zeros(10, np.int64), samples=10, batch_size=4, balance=0.0, seed=1)
    whole = list(sampler)
    sampler.first_step = 2
    assert list(sampler) == whole[2:]
