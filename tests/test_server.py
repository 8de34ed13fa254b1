"""The server hands out pictures by row number only, to this machine only."""

import http.client
import socket
from urllib.parse import urlsplit

import pytest

from traklens.app.server import SETTINGS, free_port
from traklens.stores.store import open_store


def _get(address: str, path: str, host: str | None = None) -> tuple[int, dict[str, str], bytes]:
    """One request with the path exactly as given: status, headers, body."""
    place = urlsplit(address).netloc
    connection = http.client.HTTPConnection(place, timeout=20)
    connection.putrequest("GET", path, skip_host=True)
    connection.putheader("Host", host or place)
    connection.endheaders()
    found = connection.getresponse()
    return found.status, {k.lower(): v for k, v in found.getheaders()}, found.read()


def test_pictures_come_by_row_and_may_be_cached(address, tiny_store):
    store = open_store(tiny_store)
    for size, name in (("thumb", "small"), ("large", "large")):
        status, headers, body = _get(address, f"/app/static/{size}/3.webp?v=1")
        assert status == 200
        assert headers["content-type"] == "image/webp"
        assert "immutable" in headers["cache-control"]
        assert body == store.thumbnail(3, name)


@pytest.mark.parametrize(
    "path",
    ["thumb/80.webp", "thumb/99999999999999999999.webp", "thumb/-1.webp", "thumb/x.webp", "medium/3.webp",
     "thumb/../../manifest.json", "thumb/%2e%2e%2fmanifest.json", "../../../../etc/passwd"],
)  # fmt: skip
def test_nothing_but_rows_is_served(address, path):
    status, _, body = _get(address, f"/app/static/{path}")
    assert status in (400, 403, 404) or b"<title>Streamlit" in body
    assert b"traklens-store" not in body
    assert b"root:" not in body


def test_requests_for_another_host_are_refused(address):
    assert _get(address, "/", host="evil.example")[0] == 400
    assert _get(address, "/app/static/thumb/3.webp", host="evil.example")[0] == 400
    assert _get(address, "/", host="localhost:8600")[0] == 200


def test_the_settings_keep_the_page_private():
    assert SETTINGS["browser.gatherUsageStats"] is False
    assert SETTINGS["server.enableXsrfProtection"] is True
    assert SETTINGS["server.maxUploadSize"] <= 10
    assert SETTINGS["client.showErrorDetails"] == "none"


def test_a_taken_port_gives_the_next_one():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port("127.0.0.1", port) > port
