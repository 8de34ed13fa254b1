"""STORE/reviews.sqlite: what people decided about training pairs. An append-only log; undoing is an entry of its own.

Pairs are named by their ids, so that decisions outlive a rebuild. Several people may write at once: SQLite in WAL mode, a
connection per operation, every decision on disk before the call returns.
"""

import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from traklens.stores.errors import StoreError, UsageError
from traklens.stores.layout import REVIEWS

DECISIONS = ("wrong", "keep", "duplicate", "unsure")
SCHEMA = 1
PATIENCE_SECONDS = 15.0
TABLE = (
    """CREATE TABLE entries (
         number INTEGER PRIMARY KEY,
         act INTEGER NOT NULL,
         at REAL NOT NULL,
         reviewer TEXT NOT NULL,
         decision TEXT NOT NULL CHECK (decision IN ('wrong', 'keep', 'duplicate', 'unsure', 'undo')),
         id TEXT,
         caption TEXT,
         undone INTEGER
       )""",
    "CREATE UNIQUE INDEX undone_once ON entries (undone) WHERE undone IS NOT NULL",
    "CREATE TRIGGER never_changed BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'reviews are append-only'); END",
    "CREATE TRIGGER never_deleted BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'reviews are append-only'); END",
)
STANDING = "decision <> 'undo' AND act NOT IN (SELECT undone FROM entries WHERE undone IS NOT NULL)"


@dataclass(frozen=True)
class Review:
    """One decision. `caption` is the better caption that was accepted with it, if any; `at` is Unix time in seconds."""

    number: int
    id: str
    decision: str
    reviewer: str
    at: float
    caption: str | None = None


class Reviews:
    """The log of one store. Nothing is created before the first decision."""

    def __init__(self, store: Path) -> None:
        self.path = store / REVIEWS

    def decide(
        self,
        ids: Sequence[str],
        decision: str,
        *,
        reviewer: str = "",
        caption: str | None = None,
        seen: Mapping[str, int] | None = None,
    ) -> tuple[Review, ...]:
        """Record one act: the same decision for these pairs. On disk when this returns.

        `seen` says on which state it was made: for each pair the number of the decision that stood, 0 for none.
        Raises UsageError for an unknown decision, or when somebody else has decided on one of the pairs since;
        StoreError when the log cannot be written.
        """
        if decision not in DECISIONS:
            raise UsageError("decision", repr(decision), ", ".join(DECISIONS), "Choose one of them.")
        now = time.time()
        with self._writing() as connection:
            if seen is not None:
                _check_seen(_standing(connection), seen, reviewer)
            first = self._next(connection)
            found = [Review(first + i, str(id), decision, reviewer, now, caption) for i, id in enumerate(ids)]
            connection.executemany(
                "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
                [(r.number, first, r.at, r.reviewer, r.decision, r.id, r.caption) for r in found],
            )
        return tuple(found)

    def undo(self, reviewer: str = "") -> tuple[str, ...]:
        """Take back this reviewer's last act that still stands: the ids it was about, none when there is nothing left."""
        if not self.path.is_file():
            return ()
        with self._writing() as connection:
            query = f"SELECT max(act) FROM entries WHERE reviewer = ? AND {STANDING}"
            act = connection.execute(query, (reviewer,)).fetchone()[0]
            if act is None:
                return ()
            number = self._next(connection)
            values = (number, number, time.time(), reviewer, act)
            connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?, 'undo', NULL, NULL, ?)", values)
            rows = connection.execute("SELECT id FROM entries WHERE act = ? ORDER BY number", (act,))
            return tuple(id for (id,) in rows)

    def current(self) -> dict[str, Review]:
        """The decision that stands for each pair, the latest one whoever made it; in the order they were made."""
        if not self.path.is_file():
            return {}
        with self._reading() as connection:
            return _standing(connection)

    def count(self) -> int:
        """Entries in the log, undone ones included: it only grows, so an answer made at the same count still holds."""
        if not self.path.is_file():
            return 0
        with self._reading() as connection:
            return self._next(connection) - 1

    @staticmethod
    def _next(connection: sqlite3.Connection) -> int:
        return connection.execute("SELECT coalesce(max(number), 0) + 1 FROM entries").fetchone()[0]

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction that holds the write lock from its first statement."""
        with closing(self._connect()) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except sqlite3.Error as error:
                raise self._trouble(error) from error

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = self._connect()
        except StoreError:
            if os.access(self.path.parent, os.W_OK):
                raise
            connection = self._connect("?immutable=1")  # a read-only disk: nobody writes, and no lock can be taken
        with closing(connection):
            try:
                yield connection
            except sqlite3.Error as error:
                raise self._trouble(error) from error

    def _connect(self, mode: str = "") -> sqlite3.Connection:
        """Raises StoreError for a log that is damaged, newer or cannot be opened."""
        address = self.path.resolve().as_uri() + mode
        try:
            connection = sqlite3.connect(address, timeout=PATIENCE_SECONDS, isolation_level=None, uri=True)
            try:
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                if version == 0:
                    version = _create(connection)
                connection.execute("PRAGMA synchronous = FULL")
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            raise self._trouble(error) from error
        if version != SCHEMA:
            connection.close()
            raise StoreError(f"{self.path}", f"reviews of schema {version}", f"schema {SCHEMA}", "Update TrakLens.")
        return connection

    def _trouble(self, error: sqlite3.Error) -> StoreError:
        return StoreError(
            f"reviews {self.path}",
            str(error),
            "a log that can be read and written",
            "Check the disk and the rights on the folder; decisions made before are still in the file.",
        )


def seen_of(decisions: Mapping[str, Review], id: str) -> int:
    """The state of a pair as somebody saw it, for `Reviews.decide`."""
    return decisions[id].number if id in decisions else 0


def _standing(connection: sqlite3.Connection) -> dict[str, Review]:
    query = f"SELECT number, id, decision, reviewer, at, caption FROM entries WHERE {STANDING} ORDER BY number"
    latest = {review.id: review for review in (Review(*row) for row in connection.execute(query))}
    return dict(sorted(latest.items(), key=lambda item: item[1].number))


def _check_seen(standing: Mapping[str, Review], seen: Mapping[str, int], reviewer: str) -> None:
    """UsageError when a decision of somebody else stands that was not seen. One's own earlier one may be replaced."""
    for id, number in seen.items():
        found = standing.get(id)
        own = bool(reviewer) and found is not None and found.reviewer == reviewer
        if found is not None and found.number != number and not own:
            raise UsageError(
                f"pair {id}",
                f"{found.decision!r}, decided meanwhile by {found.reviewer or 'somebody without a name'}",
                "the state that was on screen",
                "Your decision was not recorded: look at the pair again, and decide if you still want to.",
            )


def _create(connection: sqlite3.Connection) -> int:
    """Make the table unless someone else just did; returns the schema version."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
        for statement in TABLE:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA}")
    connection.execute("COMMIT")
    return SCHEMA
