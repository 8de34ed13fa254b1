"""Serve the application on one store: `python -m app.server STORE [--host H] [--port P] [--no-browser]`.

Pictures go out through routes of their own, by row number, from the store's packed thumbnails. The settings that keep
the page private are made here, not in a configuration file of the user's.
"""

import argparse
import functools
import os
import socket
import sys
import threading
import time
import urllib.request
import webbrowser
from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.caches import STORE_VARIABLE, stamp
from stores.errors import StoreError
from stores.layout import THUMBNAILS
from stores.thumbnails import ThumbnailPack

LOCAL = ("127.0.0.1", "localhost")
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


def make_app(store: Path, host: str) -> st.App:
    """The ASGI application. Requests naming another host are refused, unless `host` opens it to the network."""
    os.environ[STORE_VARIABLE] = str(store.resolve())
    hosts = ["*"] if host in ("0.0.0.0", "::") else [*LOCAL, host]
    return st.App(
        Path(__file__).with_name("main.py"),
        routes=[Route("/app/static/{size:str}/{row:int}.webp", functools.partial(picture, store.resolve()))],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
    )


async def picture(store: Path, request: Request) -> Response:
    """One thumbnail of the store; 404 for anything that is not a row or a size it has."""
    size, row = request.path_params["size"], request.path_params["row"]
    if size not in ("thumb", "large"):
        return Response(status_code=404)
    try:
        content = _pack(store, "small" if size == "thumb" else "large", stamp(store)).read(row)
    except StoreError:
        return Response(status_code=404)
    headers = {"Cache-Control": "private, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
    return Response(content, media_type="image/webp", headers=headers)


@functools.lru_cache(maxsize=4)
def _pack(store: Path, size: str, stamp: int) -> ThumbnailPack:
    return ThumbnailPack(store / THUMBNAILS, size)


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


def _open_browser(url: str) -> None:
    """Open the page once the server answers; only where there is a desktop to show it on."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return

    def wait_and_open() -> None:
        for _ in range(100):
            try:
                urllib.request.urlopen(f"{url}/_stcore/health", timeout=1).close()
            except OSError:
                time.sleep(0.2)
            else:
                webbrowser.open(url)
                return

    threading.Thread(target=wait_and_open, daemon=True).start()


def main() -> None:
    parser = argparse.ArgumentParser(prog="traklens app")
    parser.add_argument("store", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8600)
    parser.add_argument("--no-browser", action="store_true")
    options = parser.parse_args()
    try:
        port = free_port(options.host, options.port)
    except OSError as error:
        sys.exit(f"error: {error}")
    shown = "localhost" if options.host in ("127.0.0.1", "0.0.0.0", "::") else options.host
    url = f"http://{shown}:{port}"
    if port != options.port:
        print(f"Port {options.port} is taken; using {port}.", flush=True)
    print(f"TrakLens shows {options.store} at {url} (Ctrl-C stops it)", flush=True)
    if not options.no_browser:
        _open_browser(url)
    app = make_app(options.store, options.host)
    app.run(config={**SETTINGS, "server.address": options.host, "server.port": port})


if __name__ == "__main__":
    main()
