"""The table of a loaded centre: what each line is of."""

import os
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks.centre_load import Watch, count_rows
from server.admin.centre import Centre, create_centre


@pytest.fixture
def centre(tmp_path: Path) -> Centre:
    made = Centre(folder=(tmp_path / "centre").resolve(), hosts=("localhost",))
    create_centre(made, ca_days=30, now=datetime.now(UTC))
    with closing(sqlite3.connect(made.database)) as link, link:
        link.execute("CREATE TABLE objects (name TEXT)")
        link.execute("CREATE TABLE empty (name TEXT)")
        link.executemany("INSERT INTO objects VALUES (?)", [("a",), ("b",)])
    return made


def test_a_line_is_of_the_time_since_the_line_before(centre: Centre, tmp_path: Path) -> None:
    (tmp_path / "requests").write_text("100\n")
    (tmp_path / "rounds").write_text("9.0 20 20\n")
    watch = Watch(os.getpid(), centre, tmp_path)
    (tmp_path / "requests").write_text("160\n")
    with (tmp_path / "rounds").open("a") as file:
        file.write("1.0 20 20\n2.0 18 20\n3.0 20 20\n")
    time.sleep(0.5)
    first = watch.sample()
    assert (first.rounds, first.round_s, first.unanswered) == (4, 2.0, 2)
    assert 20 < first.site_requests_per_s <= 120
    assert first.database_rows == 2 and first.database_mib > 0
    assert 0 < first.superlink_rss_mib <= first.superlink_peak_mib
    second = watch.sample()
    assert second.rounds == 4 and second.round_s != second.round_s
    assert second.site_requests_per_s == 0


def test_rows_are_counted_by_table(centre: Centre) -> None:
    assert count_rows(centre.database) == {"objects": 2}
