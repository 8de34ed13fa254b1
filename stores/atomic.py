"""Write a file whole or not at all: beside, then renamed into place; read JSON that may be damaged."""

import json
import os
from pathlib import Path
from typing import Any

from traklens.stores.errors import StoreError, TrakLensError


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content`; a reader sees the old file or the new one, never a part."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.writing")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def write_json(path: Path, value: Any) -> None:
    """JSON with sorted keys and a final newline: the same value gives the same bytes."""
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


def is_leftover(name: str) -> bool:
    """Whether a file of this name is one that its writer would have renamed, had it not been killed."""
    return name.endswith((".writing", ".partial"))


def read_json(
    path: Path, expected: str, remedy: str = "Build the store again.", error_kind: type[TrakLensError] = StoreError
) -> Any:
    """The content of a JSON file; `expected` says what it should hold.

    Raises `error_kind` when it is missing, no JSON, or nested too deeply to be ours.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise error_kind(f"{path}", f"unreadable ({error.strerror})", expected, remedy) from error
    except (ValueError, RecursionError) as error:
        raise error_kind(f"{path}", f"damaged JSON ({error})", expected, remedy) from error
