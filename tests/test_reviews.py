"""The log of decisions: append-only, several writers, undo, kill -9, rebuilds."""

import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from traklens.stores.errors import StoreError, UsageError
from traklens.stores.layout import REVIEWS
from traklens.stores.reviews import DECISIONS, Reviews


def _decisions(reviews: Reviews) -> dict[str, str]:
    return {id: review.decision for id, review in reviews.current().items()}


def test_the_latest_decision_stands_whoever_made_it(tmp_path):
    reviews = Reviews(tmp_path)
    reviews.decide(["a"], "wrong", reviewer="ann", caption="a better one")
    reviews.decide(["b"], "keep", reviewer="bob")
    reviews.decide(["a"], "unsure", reviewer="bob")
    assert _decisions(reviews) == {"b": "keep", "a": "unsure"}
    assert reviews.current()["a"].reviewer == "bob"
    assert reviews.current()["a"].caption is None


def test_undo_takes_back_ones_own_last_act_and_the_decision_before_it_stands_again(tmp_path):
    reviews = Reviews(tmp_path)
    reviews.decide(["a"], "wrong", reviewer="ann", caption="a better one")
    reviews.decide(["a", "b", "c"], "keep", reviewer="ann")
    reviews.decide(["d"], "duplicate", reviewer="bob")
    assert reviews.undo("ann") == ("a", "b", "c")
    assert _decisions(reviews) == {"a": "wrong", "d": "duplicate"}
    assert reviews.current()["a"].caption == "a better one"
    assert reviews.undo("ann") == ("a",)
    assert reviews.undo("ann") == ()
    assert _decisions(reviews) == {"d": "duplicate"}
    reviews.decide(["a"], "unsure", reviewer="ann")
    assert reviews.undo("ann") == ("a",)
    assert _decisions(reviews) == {"d": "duplicate"}


def test_the_log_is_append_only_and_its_count_only_grows(tmp_path):
    reviews = Reviews(tmp_path)
    counts = [reviews.count()]
    for act in (lambda: reviews.decide(["a", "b"], "wrong"), lambda: reviews.undo(), lambda: reviews.undo()):
        act()
        counts.append(reviews.count())
    assert counts == [0, 2, 3, 3]
    with sqlite3.connect(tmp_path / REVIEWS) as connection:
        for statement in ("DELETE FROM entries", "UPDATE entries SET decision = 'keep'"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                connection.execute(statement)
    connection.close()


def test_reading_creates_nothing(tmp_path):
    reviews = Reviews(tmp_path)
    assert reviews.current() == {}
    assert reviews.undo() == ()
    assert list(tmp_path.iterdir()) == []


def test_several_reviewers_at_once_lose_nothing(tmp_path):
    def review(who: int) -> None:
        own = Reviews(tmp_path)
        for i in range(25):
            own.decide([f"{who}-{i}"], DECISIONS[i % 4], reviewer=str(who))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(review, range(4)))
    found = Reviews(tmp_path).current()
    assert len(found) == 100
    assert sorted(review.number for review in found.values()) == list(range(1, 101))


@pytest.mark.parametrize("round_", range(3))
def test_a_decision_that_was_acknowledged_survives_kill_9(tmp_path, round_):
    code = (
        "import sys; from pathlib import Path; from traklens.stores.reviews import Reviews\n"
        "reviews, i = Reviews(Path(sys.argv[1])), 0\n"
        "while True:\n"
        "    reviews.decide([f'pair-{i}'], 'wrong'); print(i, flush=True); i += 1\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(5 + 7 * round_):
        last = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    found = Reviews(tmp_path).current()
    assert [f"pair-{i}" for i in range(last + 1)] == list(found)[: last + 1]


def test_bad_input_and_damaged_logs_are_named(tmp_path):
    reviews = Reviews(tmp_path)
    with pytest.raises(UsageError, match="'maybe'"):
        reviews.decide(["a"], "maybe")
    (tmp_path / REVIEWS).write_bytes(b"no database at all, just some text" * 40)
    for attempt in (reviews.current, lambda: reviews.decide(["a"], "wrong")):
        with pytest.raises(StoreError, match="not a database"):
            attempt()
    (tmp_path / REVIEWS).unlink()
    reviews.decide(["a"], "wrong")
    with sqlite3.connect(tmp_path / REVIEWS) as connection:
        connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(StoreError, match="schema 9"):
        reviews.current()


def test_a_folder_that_cannot_be_written_gives_a_message_and_can_still_be_read(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    reviews = Reviews(tmp_path)
    reviews.decide(["a"], "wrong")
    tmp_path.chmod(0o555)
    try:
        assert _decisions(reviews) == {"a": "wrong"}
        (tmp_path / REVIEWS).chmod(0o444)
        with pytest.raises(StoreError, match="reviews"):
            reviews.decide(["b"], "wrong")
    finally:
        tmp_path.chmod(0o755)
