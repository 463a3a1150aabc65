"""What is confirmed is on the disk, what failed left no trace, and a file of another build is refused."""

from __future__ import annotations

import sqlite3
import threading

import pytest

from service.database import Database
from steering.errors import ModelError

PUT = "INSERT INTO policies (name, body, created, updated) VALUES (?, '{}', 0, 0)"


def names(database):
    with database.connect() as connection:
        return [row["name"] for row in connection.execute("SELECT name FROM policies ORDER BY name")]


def test_what_one_server_wrote_the_next_one_reads(tmp_path):
    with Database(tmp_path / "new" / "state").connect() as connection:
        connection.execute(PUT, ("kept",))
    assert names(Database(tmp_path / "new" / "state")) == ["kept"]


def test_nobody_else_on_the_machine_reads_it_even_in_a_folder_that_is_open(tmp_path):
    tmp_path.chmod(0o755)
    database = Database(tmp_path)
    with database.connect() as connection:
        connection.execute(PUT, ("kept",))
        assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}


def test_a_change_that_fails_half_way_leaves_nothing(tmp_path):
    database = Database(tmp_path)

    def fail():
        with database.connect() as connection:
            connection.execute(PUT, ("gone",))
            raise ValueError("half-way")

    with pytest.raises(ValueError, match="half-way"):
        fail()
    assert names(database) == []


def test_writers_wait_for_one_another_and_none_is_lost(tmp_path):
    database = Database(tmp_path)

    def write(writer):
        for step in range(10):
            with database.connect() as connection:
                connection.execute(PUT, (f"{writer}-{step}",))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names(database)) == 40


def test_a_file_of_a_newer_build_is_refused_and_left_alone(tmp_path):
    Database(tmp_path)
    connection = sqlite3.connect(tmp_path / "tiller.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ModelError, match=r"is of version 99, and this build knows .*; update Tiller"):
        Database(tmp_path)


def test_a_damaged_file_is_refused_with_its_folder(tmp_path):
    (tmp_path / "tiller.db").write_bytes(b"no database at all, but long enough to be looked at" * 40)
    with pytest.raises(ModelError, match=r"cannot be used: file is not a database; give another with --state DIR"):
        Database(tmp_path)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match="cannot be used"):
        Database(tmp_path / "file" / "state")
