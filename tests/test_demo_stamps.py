"""The demo on real pictures: a Debian package becomes an imagefolder, without dpkg and without trust in the file."""

import io
import tarfile

import pytest
from PIL import Image

from traklens.engine.data import load_dataset
from traklens.engine.data.demo_stamps import fetch, write_stamps
from traklens.stores.errors import DataError


def _png(colour: tuple[int, int, int, int], size: tuple[int, int] = (300, 200)) -> bytes:
    out = io.BytesIO()
    Image.new("RGBA", size, colour).save(out, "PNG")
    return out.getvalue()


def _package(path, files: dict[str, bytes]) -> None:
    """A Debian package as dpkg-deb would write it: ar with debian-binary, control and data."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": data.getvalue()}
    parts = [b"!<arch>\n"]
    for name, content in members.items():
        parts.append(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content)
        parts.append(b"\n" * (len(content) % 2))
    path.write_bytes(b"".join(parts))


def test_captioned_pictures_of_a_package_become_an_imagefolder(tmp_path):
    stamps = "./usr/share/tuxpaint/stamps"
    _package(
        tmp_path / "stamps.deb",
        {
            f"{stamps}/animals/frog.png": _png((0, 200, 0, 255)),
            f"{stamps}/animals/frog.txt": b"A frog.\nfr.utf8=Une grenouille.\n",
            f"{stamps}/signs/stop.png": _png((255, 0, 0, 0), (40, 80)),
            f"{stamps}/signs/stop.txt": b"A stop sign.\n",
            f"{stamps}/signs/nothing.png": _png((1, 2, 3, 255)),
            "./usr/share/doc/readme.png": _png((1, 2, 3, 255)),
            "./usr/share/doc/readme.txt": b"Not a stamp.",
        },
    )
    folder = write_stamps(tmp_path / "data", tmp_path / "stamps.deb")
    found = load_dataset(folder)
    assert [(e.fields["caption"], e.attributes["category"]) for e in found.examples] == [
        ("A frog.", "animals"),
        ("A stop sign.", "signs"),
    ]
    assert not found.problems.problems
    with (
        Image.open(folder / found.examples[0].fields["image"]) as frog,
        Image.open(folder / found.examples[1].fields["image"]) as stop,
    ):
        assert max(frog.size) == 96
        assert stop.getpixel((5, 5)) == (255, 255, 255)  # transparent: on white
    assert write_stamps(folder, tmp_path / "gone.deb") == folder  # finished before: left as it is


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip", b"!<arch>\n" + b"x" * 90])
def test_a_file_that_is_no_package_is_named(tmp_path, content):
    (tmp_path / "odd.deb").write_bytes(content)
    with pytest.raises(DataError, match="not a Debian package"):
        write_stamps(tmp_path / "data", tmp_path / "odd.deb")
    assert not (tmp_path / "data").exists()


def test_a_package_without_stamps_is_refused(tmp_path):
    _package(tmp_path / "other.deb", {"./usr/share/doc/x.txt": b"x"})
    with pytest.raises(DataError, match="no captioned picture"):
        write_stamps(tmp_path / "data", tmp_path / "other.deb")


def test_without_apt_the_way_out_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="--stamps-package"):
        fetch(tmp_path)
