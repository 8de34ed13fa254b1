"""A second demo, on real pictures: Debian's captioned package `tuxpaint-stamps-default` (GPL-2+) as an imagefolder.

Photographs and drawings of animals, plants, vehicles, food, signs, each with one sentence written by people. The package
is fetched with apt-get, or given as a file; it is unpacked here, without dpkg, and nothing of it is installed.
"""

import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from PIL import Image

from traklens.stores.errors import DataError

PACKAGE = "tuxpaint-stamps-default"
SIDE = 96
ROOT = PurePosixPath("usr/share/tuxpaint/stamps")
HELP = f"Without apt, fetch the file {PACKAGE}_…_all.deb from any Debian mirror and pass it with --stamps-package."


def fetch(folder: Path) -> Path:
    """Download the package (160 MB) with apt-get. DataError where that is not possible."""
    if shutil.which("apt-get") is None:
        raise DataError(
            "the demo on real pictures", "no apt-get on this system", f"the Debian package {PACKAGE}", HELP
        )
    found = subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, capture_output=True, text=True, check=False)
    files = sorted(folder.glob("*.deb"))
    if found.returncode != 0 or not files:
        reason = " ".join(found.stderr.split())[-300:] or "apt-get ended without a file"
        raise DataError(f"package {PACKAGE}", reason, "a download", f"Try `apt-get update` first. {HELP}")
    return files[0]


def write_stamps(
    directory: Path, package: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> Path:
    """The stamps as an imagefolder in `directory` (file_name, text, category); a finished one is left as it is.

    package: a .deb file, fetched if None. Pictures are put on white and made to fit 96 pixels. Raises DataError for a
    file that is no Debian package, or one without captioned pictures.
    """
    if (directory / "metadata.jsonl").is_file():
        return directory
    beside = directory.with_name(f"{directory.name}.unpacking")
    shutil.rmtree(beside, ignore_errors=True)
    (beside / "images").mkdir(parents=True)
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for picture, caption, category in _stamps(package or fetch(Path(folder))):
            name = f"images/{len(lines):04d}.jpg"
            picture.save(beside / name, quality=92)
            lines.append(json.dumps({"file_name": name, "text": caption, "category": category}, ensure_ascii=False))
            if progress is not None:
                progress(len(lines), 0)
    if not lines:
        raise DataError(f"{package}", "no captioned picture", f"the Debian package {PACKAGE}", HELP)
    (beside / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    beside.rename(directory)
    return directory


def _stamps(package: Path) -> Iterator[tuple[Image.Image, str, str]]:
    """Picture, first line of its text, and folder, in the order of their names. One pass: xz cannot be read at random."""
    pictures: dict[PurePosixPath, Image.Image] = {}
    captions: dict[PurePosixPath, str] = {}
    with tarfile.open(fileobj=_data_of(package), mode="r|*") as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            file = archive.extractfile(member) if member.isfile() and ROOT in path.parents else None
            if file is None:
                continue
            if path.suffix == ".png":
                pictures[path.with_suffix("")] = _fitted(Image.open(io.BytesIO(file.read())))
            elif path.suffix == ".txt":
                captions[path.with_suffix("")] = file.read().decode("utf-8", "replace").split("\n")[0].strip()
    for path in sorted(pictures):
        if captions.get(path):
            yield pictures[path], captions[path], path.relative_to(ROOT).parent.as_posix()


def _fitted(picture: Image.Image) -> Image.Image:
    """On white, at most SIDE pixels."""
    picture = picture.convert("RGBA")
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    ground = Image.new("RGB", picture.size, "white")
    ground.paste(picture, mask=picture.getchannel("A"))
    return ground


def _data_of(package: Path) -> io.BytesIO:
    """The data archive of a Debian package: the ar member `data.tar.*` (ar(5): 60-byte headers, even offsets)."""
    try:
        content = package.read_bytes()
    except OSError as error:
        raise DataError(f"{package}", str(error.strerror), "a readable Debian package", HELP) from error
    at = 8
    while content[:8] == b"!<arch>\n" and at + 60 <= len(content):
        name, size = content[at : at + 16].decode("ascii", "replace").strip(), content[at + 48 : at + 58]
        if not size.strip().isdigit():
            break
        start = at + 60
        if name.startswith("data.tar"):
            return io.BytesIO(content[start : start + int(size)])
        at = start + int(size) + int(size) % 2
    raise DataError(f"{package}", "not a Debian package", f"the file of {PACKAGE}", HELP)
