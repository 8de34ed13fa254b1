"""checksums.json: size and sha256 of every file of a finished store; of large ones also a crc32c for every block."""

import hashlib
from pathlib import Path

import google_crc32c

from traklens.stores.atomic import read_json, write_bytes, write_json
from traklens.stores.errors import StoreError
from traklens.stores.layout import (
    CHECKSUMS,
    EVALUATION,
    EXAMPLES,
    FACTS,
    FEATURES,
    HUNT,
    INFLUENCE,
    LOCK,
    MANIFEST,
    PLACING,
    PREDICTED,
    PROGRESS,
    RETRAINED,
    REVIEWS,
    SEAL,
)

BLOCK = 1 << 22  # bytes that are verified together when a part of a large file is read
IN_PARTS = (".faiss", ".bin")  # files of which parts are read
REQUIRED = (MANIFEST, EXAMPLES, f"{INFLUENCE}.faiss", f"{FEATURES}/zarr.json")
UNCHECKED = {CHECKSUMS, SEAL, LOCK, PLACING, PROGRESS, EVALUATION, FACTS, HUNT, PREDICTED}


def files_of(store: Path) -> list[str]:
    """Relative POSIX paths of everything that carries a checksum, sorted; hidden files are nobody's."""
    found = (path.relative_to(store) for path in store.rglob("*") if path.is_file())
    return sorted(name.as_posix() for name in found if _is_checked(name))


def _is_checked(name: Path) -> bool:
    hidden = any(part.startswith(".") for part in name.parts)
    peoples = name.parts[0] == RETRAINED or name.parts[0].startswith(REVIEWS)
    return not hidden and not peoples and name.as_posix() not in UNCHECKED


def digest(path: Path) -> str:
    """SHA-256 of a file in hex, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(store: Path) -> None:
    """The list, and its own sha256 beside it."""
    write_json(store / CHECKSUMS, {name: _facts(store / name) for name in files_of(store)})
    write_bytes(store / SEAL, f"{digest(store / CHECKSUMS)}\n".encode())


def renew_checksum(store: Path, beside: Path, name: str) -> None:
    """Write the store's list to `beside` with the facts of the file `name` there in place of the store's own."""
    write_json(beside / CHECKSUMS, read_checksums(store) | {name: _facts(beside / name)})
    write_bytes(beside / SEAL, f"{digest(beside / CHECKSUMS)}\n".encode())


def _facts(path: Path) -> dict:
    facts: dict = {"bytes": path.stat().st_size, "sha256": digest(path)}
    if path.suffix in IN_PARTS:
        with path.open("rb") as file:
            facts["crc32c"] = [google_crc32c.value(block) for block in iter(lambda: file.read(BLOCK), b"")]
    return facts


def read_checksums(store: Path) -> dict[str, dict]:
    """StoreError when the file is missing, damaged or not the one that was written."""
    path = store / CHECKSUMS
    found = read_json(path, "the list of files")
    fits = isinstance(found, dict) and all(
        isinstance(facts, dict) and isinstance(facts.get("bytes"), int) and isinstance(facts.get("sha256"), str)
        for facts in found.values()
    )
    if not fits or any(name not in found for name in REQUIRED):
        raise StoreError(f"{path}", "another list", "bytes and sha256 of every file", "Build the store again.")
    seal = store / SEAL  # stores of version 0.1 have none
    if seal.is_file() and seal.read_text(encoding="utf-8", errors="replace").strip() != digest(path):
        raise StoreError(
            f"{path}", "bytes that are not those that were written", "the list as written", "Build the store again."
        )
    return found


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
