"""Serve the application on one store: `python -P -m traklens.app.server STORE [--host H] [--port P] …`.

Pictures go out through routes of their own, by row number, from the store's packed thumbnails. The settings that keep
the page private are made here, not in a configuration file of the user's.
"""

import argparse
import functools
import os
import re
import secrets
import socket
import sys
import threading
import time
import urllib.request
import webbrowser
from collections.abc import Sequence
from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from streamlit import net_util

from traklens.app.caches import STORE_VARIABLE, stamp
from traklens.app.gate import LOCAL, OPEN, Gate, name_of
from traklens.app.markup import BASE_VARIABLE
from traklens.stores.errors import StoreError
from traklens.stores.layout import THUMBNAILS
from traklens.stores.thumbnails import ThumbnailPack
from traklens.stores.verified import VerifiedFiles

TOKEN_VARIABLE = "TRAKLENS_TOKEN"
UPLOAD_MB = 10
PORTS_TRIED = 20
SETTINGS = {
    "server.headless": True,
    "server.showEmailPrompt": False,
    "server.fileWatcherType": "none",
    "server.enableXsrfProtection": True,
    "server.enableCORS": True,
    "server.maxUploadSize": UPLOAD_MB,
    "browser.gatherUsageStats": False,
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",
    "theme.light.primaryColor": "#2563c9",
    "theme.dark.primaryColor": "#6ea8fe",
}


def make_app(store: Path, host: str, *, base: str = "", allowed: Sequence[str] = (), token: str = "") -> st.App:
    """The ASGI application, below the path `base`. Who may speak to it: see `Gate`."""
    os.environ[STORE_VARIABLE], os.environ[BASE_VARIABLE] = str(store.resolve()), base
    return st.App(
        Path(__file__).with_name("main.py"),
        routes=[Route(f"{base}/app/static/{{size}}/{{row}}.webp", functools.partial(picture, store.resolve()))],
        middleware=[Middleware(Gate, host=host, allowed=allowed, token=token)],
    )


def base_path(wanted: str) -> str:
    """`/lab/traklens` however it was typed; empty for none. ValueError for what is no path."""
    parts = [part for part in wanted.split("/") if part]
    if not all(re.fullmatch(r"[\w.~-]+", part, re.ASCII) and part.strip(".") for part in parts):
        raise ValueError(f"--base-path {wanted!r}: expected a path such as /lab/traklens")
    return "".join(f"/{part}" for part in parts)


def ask_nobody_outside() -> None:
    """Streamlit looks up this machine's outside address to show it, and before it refuses a foreign page: never here."""
    net_util.get_external_ip = net_util.get_internal_ip = lambda: None


async def picture(store: Path, request: Request) -> Response:
    """One thumbnail of the store; 404 for anything that is not a row or a size it has."""
    size, row = request.path_params["size"], request.path_params["row"]
    if size not in ("thumb", "large") or not re.fullmatch(r"[0-9]{1,12}", row):
        return Response(status_code=404)
    try:
        content = _pack(store, "small" if size == "thumb" else "large", stamp(store)).read(int(row))
    except StoreError:
        return Response(status_code=404)
    headers = {"Cache-Control": "private, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
    return Response(content, media_type="image/webp", headers=headers)


@functools.lru_cache(maxsize=4)
def _pack(store: Path, size: str, stamp: int) -> ThumbnailPack:
    return ThumbnailPack(store / THUMBNAILS, size, VerifiedFiles(store))


def free_port(host: str, wanted: int) -> int:
    """The wanted port, or the next one up that nothing listens on. OSError when twenty in a row are taken."""
    for port in range(wanted, wanted + PORTS_TRIED):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise OSError(f"ports {wanted} to {wanted + PORTS_TRIED - 1} of {host} are all taken: choose one with --port")


def _open_browser(url: str, token: str) -> None:
    """Open the page once the server answers; only where there is a desktop to show it on."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return

    def wait_and_open() -> None:
        for _ in range(100):
            try:
                health = urllib.request.Request(f"{url}/_stcore/health", headers={"Authorization": f"Bearer {token}"})
                urllib.request.urlopen(health, timeout=1).close()
            except OSError:
                time.sleep(0.2)
            else:
                webbrowser.open(with_token(url, token))
                return

    threading.Thread(target=wait_and_open, daemon=True).start()


def with_token(url: str, token: str) -> str:
    """The link that lets a browser in."""
    return f"{url}/?token={token}" if token else url


def main() -> None:
    parser = argparse.ArgumentParser(prog="traklens app")
    parser.add_argument("store", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8600)
    parser.add_argument("--no-browser", action="store_true")
    parser.add_argument("--base-path", default="")
    parser.add_argument("--allow-host", action="append", default=[])
    parser.add_argument("--no-token", action="store_true")
    options = parser.parse_args()
    try:
        port, base = free_port(options.host, options.port), base_path(options.base_path)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    token = os.environ.pop(TOKEN_VARIABLE, "")  # not on the command line, where everybody on the machine can read it
    if not token and options.host not in LOCAL and not options.no_token:
        token = secrets.token_urlsafe(24)
    shown = "localhost" if options.host in ("127.0.0.1", *OPEN) else options.host
    url = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}{base}"
    if port != options.port:
        print(f"Port {options.port} is taken; using {port}.", flush=True)
    print(f"TrakLens shows {options.store} at {with_token(url, token)} (Ctrl-C stops it)", flush=True)
    if not options.no_browser:
        _open_browser(url, token)
    ask_nobody_outside()
    app = make_app(options.store, options.host, base=base, allowed=options.allow_host, token=token)
    names = [*options.allow_host, options.host]
    settings = {
        "server.address": options.host,
        "server.port": port,
        "server.baseUrlPath": base.strip("/"),
        "server.corsAllowedOrigins": [
            f"{scheme}://{name_of(name)}" for name in names for scheme in ("http", "https")
        ],
    }
    app.run(config={**SETTINGS, **settings})


if __name__ == "__main__":
    main()
