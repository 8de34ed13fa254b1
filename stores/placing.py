"""Put a finished build in place: entry by entry, rolling forward, around what people have written.

The store's folder itself is never moved. Once a build is whole, `placing.json` in STORE.building says so; from then on
every step may be cut and is taken up again: the old manifest goes first, so that nobody reads half of each; then each
entry of the new store takes the place of the old one; the new manifest comes last. Decisions (`reviews.sqlite` with its
companions) and `retrained/` stay where they are throughout.
"""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from traklens.stores.atomic import is_leftover, read_json, write_json
from traklens.stores.layout import LOCK, MANIFEST, PLACING, PROGRESS, RETRAINED, REVIEWS, building_path, replaced_path

OLD = "old"  # within STORE.building: what the entries of the new store take the place of
NOT_OF_THE_STORE = {PLACING, PROGRESS, LOCK, OLD}


def is_peoples(name: str) -> bool:
    """Whether an entry of a store was written by people or by retraining for them: it outlives a rebuild."""
    return name == RETRAINED or name.startswith(REVIEWS)


def commit(building: Path) -> None:
    """Say that the build is whole: from here on it is put in place, whatever happens."""
    names = sorted(e.name for e in building.iterdir() if e.name not in NOT_OF_THE_STORE and not is_peoples(e.name))
    write_json(building / PLACING, names)


def commit_part(store: Path) -> None:
    """Say that the files in STORE.building take the place of the store's own, which keeps all others."""
    write_json(
        building_path(store) / PLACING, sorted(e.name for e in (*store.iterdir(), *building_path(store).iterdir()))
    )


def is_committed(store: Path) -> bool:
    """Whether a whole build of this store waits to be put in place, or was cut while it was."""
    return (building_path(store) / PLACING).is_file()


def is_half_placed(store: Path) -> bool:
    """Whether reading the store must wait until `put_in_place` has gone on: entries or decisions are still elsewhere."""
    waiting = is_committed(store) and (building_path(store) / MANIFEST).is_file()
    return waiting or any(_holds_peoples(place) for place in (replaced_path(store), building_path(store)))


def put_in_place(store: Path) -> None:
    """Move a committed build to `store`, or go on where that was cut; nothing when there is none."""
    building = building_path(store)
    rescue(store)
    if is_committed(store):
        store.mkdir(exist_ok=True)
        if (building / MANIFEST).is_file():
            _replace(store, building, read_json(building / PLACING, "the names of what was built"))
        remove(building)
    if building.is_dir() and not any(building.iterdir()):
        building.rmdir()
    if replaced_path(store).is_dir() and (store / MANIFEST).is_file():
        remove(replaced_path(store))  # what version 0.1 had moved aside; decisions were fetched from it above


def _replace(store: Path, building: Path, names: list[str]) -> None:
    aside = building / OLD
    aside.mkdir(exist_ok=True)
    if (store / MANIFEST).is_file():
        (store / MANIFEST).replace(aside / MANIFEST)
    for old in list(store.iterdir()):
        if not is_peoples(old.name) and (old.name not in names or (building / old.name).exists()):
            old.rename(aside / old.name)
    for name in names:
        if name != MANIFEST and (building / name).exists():
            (building / name).rename(store / name)
    (building / MANIFEST).rename(store / MANIFEST)


def remove(path: Path) -> None:
    """A file or a folder with all it holds; a build's own marker goes last."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    for entry in path.iterdir():
        if entry.name != PLACING:
            remove(entry)
    (path / PLACING).unlink(missing_ok=True)
    path.rmdir()


def clean(folder: Path) -> None:
    """Remove the unfinished files that a killed process left anywhere in a folder."""
    for path in list(folder.rglob("*")) if folder.is_dir() else []:
        if is_leftover(path.name) and path.is_file():
            path.unlink(missing_ok=True)


# Version 0.1 moved decisions with the folder; cut in the middle, it left them in STORE.replaced or STORE.building.


def rescue(store: Path) -> None:
    """Bring back decisions and retrained models that an interrupted swap of version 0.1 left elsewhere."""
    for place in (replaced_path(store), building_path(store)):
        if not _holds_peoples(place):
            continue
        store.mkdir(exist_ok=True)
        if (place / REVIEWS).is_file():
            _bring_decisions(place / REVIEWS, store / REVIEWS)
        for companion in place.glob(f"{REVIEWS}-*"):  # of a log that is here no more
            companion.rename(store / companion.name) if not (store / companion.name).exists() else companion.unlink()
        for old in sorted((place / RETRAINED).rglob("*")):
            new = store / old.relative_to(place)
            if old.is_file() and not new.exists():
                new.parent.mkdir(parents=True, exist_ok=True)
                old.rename(new)
        shutil.rmtree(place / RETRAINED, ignore_errors=True)


def _holds_peoples(folder: Path) -> bool:
    return folder.is_dir() and any(is_peoples(entry.name) for entry in folder.iterdir())


def _bring_decisions(old: Path, new: Path) -> None:
    """Copy a log of decisions to its store, then remove it: entries that the store's log has are not copied twice."""
    with closing(sqlite3.connect(old)) as source:
        if not new.is_file():
            beside = new.with_name(f".{new.name}.writing")
            beside.unlink(missing_ok=True)
            with closing(sqlite3.connect(beside)) as copy:
                source.backup(copy)
            beside.rename(new)
        else:
            _merge(source, new)
    for companion in ("", "-wal", "-shm"):
        old.with_name(old.name + companion).unlink(missing_ok=True)


def _merge(source: sqlite3.Connection, new: Path) -> None:
    rows = source.execute("SELECT act, at, reviewer, decision, id, caption, undone FROM entries ORDER BY number")
    with closing(sqlite3.connect(new, isolation_level=None)) as log:
        log.execute("BEGIN IMMEDIATE")
        known = set(log.execute("SELECT at, reviewer, decision, id FROM entries"))
        number = log.execute("SELECT coalesce(max(number), 0) FROM entries").fetchone()[0]
        shift = number  # acts are numbered by their first entry: all of them move on together
        for act, at, reviewer, decision, id, caption, undone in rows.fetchall():
            number += 1
            if (at, reviewer, decision, id) not in known:
                values = (number, act + shift, at, reviewer, decision, id, caption, undone and undone + shift)
                log.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
        log.execute("COMMIT")
