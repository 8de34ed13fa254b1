"""`traklens app` as a server: its own files only, its own visitors only, nothing outside, and it ends when it is ended."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import own_port, settle
from tests.proxy import proxying

TOKEN = "a-token-of-this-test"
STRANGERS = (
    "app.py",
    "engine.py",
    "stores.py",
    "queue.py",
    "random.py",
    "typing.py",
    "streamlit.py",
    "sitecustomize.py",
)
# Notes every look-up of, and connection to, another machine, and refuses it.
WATCH = """
import os, sys
def watch(event, arguments):
    if event not in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        return
    where = arguments[1] if event == "socket.connect" else arguments[0]
    host = where[0] if isinstance(where, tuple) else where
    host = host.decode() if isinstance(host, bytes) else host
    local = host in (None, "", "localhost", "0.0.0.0", "::", "::1") or str(host).startswith(("127.", "/"))
    if not local:
        with open(os.environ["NOTES"], "a") as notes:
            notes.write(f"{event} {host}\\n")
        raise OSError("outside")
sys.addaudithook(watch)
"""


@contextmanager
def app(store: Path, *options: str, cwd: Path | None = None, host: str = "127.0.0.1", **environment: str):
    """`traklens app` as a process: the process and its port, once it answers."""
    port = own_port(8760)
    command = [
        str(Path(sys.executable).with_name("traklens")),
        "app",
        str(store),
        "--port",
        str(port),
        "--no-browser",
    ]
    process = subprocess.Popen([*command, *options], cwd=cwd, env=os.environ | environment, start_new_session=True)
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end and not _listens(host, port):
            assert process.poll() is None, "the server ended"
            time.sleep(0.1)
        yield process, port
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


def get(port: int, path: str, server: str = "127.0.0.1", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(server, port, timeout=120)
    connection.putrequest("GET", path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    found = connection.getresponse()
    return found.status, {k.lower(): v for k, v in found.getheaders()}, found.read()


def handshake(port: int, path: str = "/_stcore/stream", **headers: str) -> int:
    """Status of a WebSocket handshake."""
    wanted = {
        "Host": f"127.0.0.1:{port}",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": "streamlit",
    } | headers
    with socket.create_connection(("127.0.0.1", port), timeout=120) as line:
        text = "".join(f"{name}: {value}\r\n" for name, value in wanted.items())
        line.sendall(f"GET {path} HTTP/1.1\r\n{text}\r\n".encode())
        return int(line.recv(4096).split(b" ")[1])


def test_no_file_of_the_folder_one_stands_in_is_run_and_the_end_of_the_command_is_the_end_of_the_server(
    tiny_store, tmp_path
):
    for name in STRANGERS:
        (tmp_path / name).write_text(
            f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r} + '\\n')\nraise SystemExit(3)\n"
        )
    (tmp_path / ".streamlit").mkdir()
    (tmp_path / ".streamlit/config.toml").write_text(
        '[server]\nbaseUrlPath = "elsewhere"\nenableXsrfProtection = false\n'
    )
    with app(tiny_store, cwd=tmp_path) as (process, port):
        assert get(port, "/")[0] == get(port, "/app/static/thumb/3.webp")[0] == 200
        assert not (tmp_path / "ran").exists()
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)
        assert not _listens("127.0.0.1", port)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL, signal.SIGHUP])
def test_the_server_does_not_outlive_its_command(tiny_store, end):
    inherited = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests run under nohup
    try:
        with app(tiny_store) as (process, port):
            handshake(port)  # a visitor
            process.send_signal(end)
            process.wait(timeout=120)
            assert not _listens("127.0.0.1", port)
    finally:
        signal.signal(signal.SIGHUP, inherited)


def test_nothing_outside_is_asked_whoever_knocks(tiny_store, tmp_path):
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch/sitecustomize.py").write_text(WATCH)
    notes = tmp_path / "notes"
    with app(
        tiny_store,
        "--host",
        "0.0.0.0",
        "--allow-host",
        "lens.example.org",
        "--no-token",
        PYTHONPATH=str(tmp_path / "watch"),
        NOTES=str(notes),
    ) as (
        _,
        port,
    ):
        assert get(port, "/")[0] == 200
        assert [handshake(port, Origin=f"http://{n}.example") for n in "abcdefgh"] == [403] * 8
        assert handshake(port, Host="127.0.0.1", Origin="https://lens.example.org") == 101
    assert not notes.exists(), notes.read_text()


def test_with_a_token_nobody_else_is_let_in(tiny_store):
    paths = (
        "/",
        "/hunt",
        "/app/static/thumb/3.webp",
        "/_stcore/health",
        "/_stcore/host-config",
        "/_stcore/upload_file/x/y",
    )
    with app(tiny_store, TRAKLENS_TOKEN=TOKEN) as (_, port):
        for path in paths:
            for wrong in (
                {},
                {"Authorization": "Bearer no"},
                {"Cookie": "traklens=1"},
                {"Cookie": f"traklens={TOKEN}"},
            ):
                assert get(port, path, **wrong)[0] == 403, path
        assert get(port, "/?token=wrong")[0] == handshake(port) == 403
        status, headers, body = get(port, f"/hunt?id=3&token={TOKEN}")
        cookie = headers["set-cookie"]
        assert (status, headers["location"]) == (303, "/hunt?id=3")
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        assert TOKEN not in cookie
        kept = {"Cookie": cookie.split(";")[0]}
        for path in paths[:4]:
            assert get(port, path, **kept)[0] == get(port, path, Authorization=f"Bearer {TOKEN}")[0] == 200, path
        assert handshake(port, **kept) == 101
        assert TOKEN.encode() not in get(port, "/", **kept)[2] + body


def test_another_host_than_this_machine_has_a_token_unless_one_says_no(tiny_store):
    with app(tiny_store, "--host", "0.0.0.0") as (_, port):
        assert get(port, "/")[0] == 403
    with app(tiny_store, "--host", "0.0.0.0", "--no-token") as (_, port):
        assert get(port, "/")[0] == 200


def test_the_local_address_of_ipv6_is_served(tiny_store):
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 on this machine")
    with app(tiny_store, "--host", "::1", host="::1") as (_, port):
        assert get(port, "/", server="::1")[0] == 200


def test_options_that_contradict_or_make_no_sense_are_one_message(tiny_store):
    command = [str(Path(sys.executable).with_name("traklens")), "app", str(tiny_store)]
    for options in (["--token", "long-enough", "--no-token"], ["--token", "short"], ["--token-file", "nowhere"],
                    ["--base-path", "/a b/<c>"], ["--port", "99999"]):  # fmt: skip
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60)
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        assert options[0] in done.stderr, done.stderr


@pytest.mark.browser
def test_below_a_path_and_another_name_the_whole_application_works(tiny_store, visit, browser):
    name = "inside.example.net"
    with (
        app(tiny_store, "--base-path", "lab/traklens/", "--allow-host", name) as (_, port),
        proxying(port, name) as there,
    ):
        url = f"http://localhost:{there}/lab/traklens"
        page = visit(f"{url}/")
        loaded = "Array.from(document.images).filter(i => i.src.includes('/app/static/')).map(i => [i.src, i.naturalWidth])"
        page.wait_for_function(f"{loaded}.length > 4 && {loaded}.every(x => x[1] > 0)")
        assert all(src.startswith(f"{url}/app/static/") for src, _ in page.evaluate(loaded))
        id = json.loads(json.dumps(page.url)).split("id=")[-1]
        page = visit(f"{url}/hunt", ready=("[data-testid='stButton']",))
        page.keyboard.press("?")
        page.get_by_text("Everywhere").wait_for()
        page.keyboard.press("Escape")
        with page.expect_download() as got:
            page.get_by_role("button", name="Download").first.click()
        assert Path(got.value.path()).stat().st_size > 0
        settle(page)
        assert get(port, "/app/static/thumb/3.webp")[0] == 404
        assert id
