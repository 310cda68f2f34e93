"""Batches are drawn ahead, in order, no more and no fewer."""

import threading

import numpy as np
import pytest

from client.training.prefetch import prefetched


def test_the_same_numbers_as_without() -> None:
    plain, ahead = np.random.default_rng(1), np.random.default_rng(1)
    expected = [plain.random() for _ in range(5)]
    assert list(prefetched(ahead.random, 5)) == expected
    assert ahead.random() == plain.random()  # nothing was drawn beyond


def test_the_next_is_drawn_while_this_one_is_used() -> None:
    begun = [threading.Event() for _ in range(3)]
    calls = iter(begun)
    batches = prefetched(lambda: next(calls).set(), 3)
    next(batches)
    assert begun[1].wait(5)
    assert not begun[2].is_set()
    batches.close()


@pytest.mark.parametrize("count", [0, 1])
def test_short_rounds(count: int) -> None:
    assert list(prefetched(lambda: 7, count)) == [7] * count


def test_an_error_comes_where_the_batch_is_asked_for() -> None:
    answers = iter([1])
    batches = prefetched(lambda: next(answers), 3)
    assert next(batches) == 1
    with pytest.raises(RuntimeError):
        next(batches)


def test_no_thread_outlives_a_round_that_broke() -> None:
    def use() -> None:
        for _ in prefetched(lambda: 1, 4):
            raise ArithmeticError

    before = threading.active_count()
    with pytest.raises(ArithmeticError):
        use()
    assert threading.active_count() == before
