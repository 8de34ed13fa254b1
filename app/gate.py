"""Who may speak to the server: requests for its own names, from its own pages, with the token where there is one."""

import hashlib
import hmac
import sys
from collections.abc import Sequence
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LOCAL = ("127.0.0.1", "localhost", "::1")
OPEN = ("0.0.0.0", "::")
COOKIE = "traklens"


def name_of(netloc: str) -> str:
    """The host name in a Host header or an address: without port and brackets, in lower case."""
    try:
        return (urlsplit(netloc if "://" in netloc else f"//{netloc}").hostname or "").rstrip(".").lower()
    except ValueError:
        return ""


class Gate:
    """ASGI middleware in front of everything, WebSockets, pictures and uploads included."""

    def __init__(self, app: ASGIApp, host: str, allowed: Sequence[str] = (), token: str = "") -> None:
        self.app = app
        self.open = host in OPEN
        self.names = {*LOCAL, name_of(f"[{host}]" if ":" in host else host), *(name_of(name) for name in allowed)}
        self.token = token
        # What a browser keeps is not the token itself; another token, and so another server, has another cookie.
        self.proof = hashlib.sha256(f"traklens {token}".encode()).hexdigest()
        self.cookie = f"{COOKIE}-{self.proof[:8]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _refuse(scope, receive, send, *refusal)
        elif not self.token or self._is_known(headers):
            await self.app(scope, receive, send)
        elif self._brings_token(scope):
            await self._admit(scope, receive, send)
        else:
            words = "This page needs its token: open the link that `traklens app` printed, which ends in ?token=…"
            await _refuse(scope, receive, send, 403, words)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        host = name_of(headers.get("host", ""))
        if not host or not (self.open or host in self.names):
            return 400, _said(f"Invalid host header: {host or 'none'}", host)
        origin = headers.get("origin")
        if origin is None or scope["type"] != "websocket" or name_of(origin) in {host, *self.names}:
            return None
        return 403, _said(f"A page of another site ({name_of(origin) or origin}) asked", name_of(origin))

    def _is_known(self, headers: dict[str, str]) -> bool:
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and _same(bearer.strip(), self.token):
            return True
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return False
        return self.cookie in cookies and _same(cookies[self.cookie].value, self.proof)

    def _brings_token(self, scope: Scope) -> bool:
        return scope["type"] == "http" and any(
            name == "token" and _same(value, self.token) for name, value in _query(scope)
        )

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Keep a cookie and go on without the token in the address."""
        rest = urlencode([(name, value) for name, value in _query(scope) if name != "token"])
        place = scope["raw_path"].decode("latin-1") if scope.get("raw_path") else scope["path"]
        response = RedirectResponse("/" + place.lstrip("/") + (f"?{rest}" if rest else ""), 303)
        response.set_cookie(self.cookie, self.proof, httponly=True, samesite="lax", secure=scope["scheme"] == "https")
        response.headers["Referrer-Policy"] = "no-referrer"
        await response(scope, receive, send)


def _query(scope: Scope) -> list[tuple[str, str]]:
    return parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), wanted.encode())


def _said(words: str, name: str) -> str:
    """Say in the log too what was refused, and how to allow it."""
    message = f"{words}; if that is how you reach this server, start it with --allow-host {name}"
    print(f"refused: {message!r}", file=sys.stderr, flush=True)
    return message


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, words: str) -> None:
    """An answer without the application; a WebSocket is refused before it opens, as HTTP."""
    if scope["type"] == "http" or "websocket.http.response" in scope.get("extensions", {}):
        await PlainTextResponse(words, status)(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1008})
