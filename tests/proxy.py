"""A reverse proxy as small as can be: passes bytes on, WebSockets too, and puts its own name for the application."""

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def proxying(port: int, host: str) -> Iterator[int]:
    """Pass connections on to `port`, with `host` as Host header: the port where the proxy listens."""
    ready, ends, found = threading.Event(), [], []

    async def passed(reader, writer, change) -> None:
        try:
            while chunk := await reader.read(1 << 16):
                writer.write(change(chunk))
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def client(reader, writer) -> None:
        try:
            there, to = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return
        name = f"\r\nHost: {host}\r\n".encode()
        asked = passed(reader, to, lambda chunk: re.sub(rb"\r\nHost: [^\r]*\r\n", name, chunk, flags=re.IGNORECASE))
        await asyncio.gather(asked, passed(there, writer, lambda chunk: chunk))

    async def serve() -> None:
        server = await asyncio.start_server(client, "127.0.0.1", 0)
        end = asyncio.Event()
        loop = asyncio.get_running_loop()
        ends.append(lambda: loop.call_soon_threadsafe(end.set))
        found.append(server.sockets[0].getsockname()[1])
        ready.set()
        await end.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(10)
    yield found[0]
    ends[0]()
    thread.join(5)
