"""The built wheel is whole: installed into an empty folder it answers, compiles its kernels' sources and shows its page."""

import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from tests.conftest import own_port

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("app", "engine", "stores", "cuda", "traklens", "pyproject.toml", "README.md", "LICENSE")
USED = """
import sys
from importlib import resources
from pathlib import Path
import traklens, traklens.app, traklens.engine, traklens.stores
from traklens.engine.models.checkpoints import model_spec
import traklens.engine.projection.gpu as gpu
site = Path(sys.argv[1])
for package in (traklens, traklens.app, traklens.engine, traklens.stores):
    assert Path(package.__file__).is_relative_to(site), package.__file__
assert gpu.SOURCES.is_relative_to(site) and (gpu.SOURCES / "projection.cu").is_file(), gpu.SOURCES
assert {"device.cuh", "philox.cuh"} <= {f.name for f in gpu.SOURCES.iterdir()}
assert model_spec("tiny").config["embed_dim"]
assert (resources.files("traklens.app") / "style.css").is_file()
from traklens.engine.projection.definition import sjlt_matrix
from traklens.stores.specs import ProjectionSpec
assert sjlt_matrix(ProjectionSpec("sjlt", 64, 4, 0), (("weight", 613),), 0).shape == (613, 64)
import app, cuda, engine, stores
assert app.OTHER and cuda.OTHER and engine.OTHER and stores.OTHER
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel, built from the sources alone and unpacked as an installer would."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "source").mkdir()
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "source" / name, symlinks=True)
        else:
            shutil.copy(ROOT / name, folder / "source" / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index"]
    build = [*pip, "wheel", "-q", *offline, "--no-build-isolation", "-w", folder, folder / "source"]
    subprocess.run(build, check=True, timeout=300)
    wheel = next(folder.glob("*.whl"))
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
    assert {name.split("/")[0] for name in names} == {
        "traklens",
        next(n for n in names if ".dist-info/" in n).split("/")[0],
    }
    subprocess.run([*pip, "install", "-q", *offline, "--target", folder / "site", wheel], check=True, timeout=300)
    return folder / "site"


def test_the_installed_wheel_answers_and_shows_its_page(installed, tiny_store, tmp_path):
    def run(*arguments, **options) -> subprocess.CompletedProcess:
        environment = os.environ | {"PYTHONPATH": str(installed)}
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            **options,
        )

    for name in ("app", "engine", "stores"):
        (tmp_path / f"{name}.py").write_text("OTHER = True\n")  # somebody else's modules of these names
    (tmp_path / "cuda").mkdir()
    (tmp_path / "cuda/__init__.py").write_text("OTHER = True\n")
    used = run("-c", USED, installed)
    assert used.returncode == 0, used.stderr
    for command in ("info", "query"):
        more = ["--id", _first_id(tiny_store)] if command == "query" else []
        done = run("-m", "traklens", command, tiny_store, *more, "--json")
        assert done.returncode == 0, done.stderr
    port = own_port(8790)
    server = subprocess.Popen(
        [sys.executable, "-P", "-m", "traklens.app.server", str(tiny_store), "--port", str(port), "--no-browser"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
    )
    try:
        _answers(server, port)
    finally:
        server.terminate()
        server.wait(timeout=30)


def _first_id(store: Path) -> str:
    from traklens.stores.store import open_store

    return str(open_store(store).examples.id[0])


def _answers(server: subprocess.Popen, port: int) -> None:
    """The page, and through its socket what the script draws: style and pictures are found."""
    from streamlit.proto.BackMsg_pb2 import BackMsg
    from websockets.sync.client import connect
    from websockets.typing import Subprotocol

    ask = BackMsg()
    ask.rerun_script.query_string = ""
    for _ in range(150):
        assert server.poll() is None, "the server ended"
        try:
            with connect(
                f"ws://127.0.0.1:{port}/_stcore/stream",
                subprotocols=[Subprotocol("streamlit")],
                max_size=None,
                proxy=None,
            ) as line:
                line.send(ask.SerializeToString())
                seen = b""
                while b"/app/static/thumb/" not in seen or b".tl-target" not in seen:
                    message = line.recv(timeout=60)
                    seen += message if isinstance(message, bytes) else message.encode()
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the server never answered")
