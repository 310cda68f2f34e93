"""One thread: the networks here are too small to share, and sums keep their order."""

import pytest


@pytest.fixture(autouse=True)
def always_one_thread(one_thread: None) -> None:
    pass
