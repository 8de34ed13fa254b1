"""checksums.json: size and sha256 of every file of a finished store."""

import hashlib
import json
from pathlib import Path

from stores.atomic import write_json
from stores.errors import StoreError
from stores.layout import CHECKSUMS, EVALUATION, HUNT, LOCK, PREDICTED, PROGRESS, RETRAINED, REVIEWS

UNCHECKED = {CHECKSUMS, LOCK, PROGRESS, EVALUATION, HUNT, PREDICTED, REVIEWS, f"{REVIEWS}-wal", f"{REVIEWS}-shm"}


def files_of(store: Path) -> list[str]:
    """Relative POSIX paths of everything that carries a checksum, sorted."""
    found = (path.relative_to(store).as_posix() for path in store.rglob("*") if path.is_file())
    return sorted(name for name in found if name not in UNCHECKED and not name.startswith(f"{RETRAINED}/"))


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(store: Path) -> None:
    facts = {
        name: {"bytes": (store / name).stat().st_size, "sha256": digest(store / name)} for name in files_of(store)
    }
    write_json(store / CHECKSUMS, facts)


def read_checksums(store: Path) -> dict[str, dict]:
    """StoreError when the file is missing or damaged."""
    path = store / CHECKSUMS
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}", f"unreadable ({error})", "the list of files", "Build the store again.") from error


def check_sizes(store: Path, expected: dict[str, dict]) -> None:
    """StoreError naming the first file that is missing or of another size: quick, nothing is read."""
    for name, facts in expected.items():
        try:
            found = (store / name).stat().st_size
        except OSError:
            raise StoreError(
                f"{store / name}", "no file", f"{facts['bytes']} bytes", "Build the store again."
            ) from None
        if found != facts["bytes"]:
            raise StoreError(
                f"{store / name}",
                f"{found} bytes",
                f"{facts['bytes']} bytes",
                "The file is damaged: build the store again.",
            )


def verify_files(store: Path) -> list[str]:
    """Read everything: one line per file that is missing, changed or not part of the store; empty when all is well."""
    expected = read_checksums(store)
    problems = [f"{name}: not part of the store" for name in files_of(store) if name not in expected]
    for name, facts in expected.items():
        if not (store / name).is_file():
            problems.append(f"{name}: missing")
        elif digest(store / name) != facts["sha256"]:
            problems.append(f"{name}: its bytes are not those that were written")
    return problems
