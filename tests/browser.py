"""Pages in a real browser, where one is installed: what they show, and what goes wrong in them."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FRAME = """<!doctype html><body style="margin:0">
<iframe id="page" src="page" style="width:{width}px;height:900px;border:0"></iframe>
<script>
document.getElementById("page").onload = async (event) => {{
  const page = event.target.contentDocument;
  const frame = () => new Promise((done) => page.defaultView.requestAnimationFrame(done));
  const drawn = async () => {{ for (let at = 0; at < 3; at += 1) await frame(); }};
  const ask = async (page, drawn) => {{ {ask} }};
  let told;
  try {{ told = await ask(page, drawn); }} catch (error) {{ told = {{ failed: String(error) }}; }}
  await fetch("told", {{ method: "POST", body: JSON.stringify(told) }});
}};
</script>"""


@dataclass(frozen=True)
class Looked:
    """What was seen of a page."""

    told: Any
    """What the questions answered."""
    complaints: list[str]
    """Errors of its scripts, and what its policy refused."""


async def look(page: str, ask: str, folder: Path, *, width: int) -> Looked:
    """Opens a page in a frame and asks questions of it.

    Args:
        page: The document.
        ask: The body of an asynchronous function of `page` (its document) and `drawn` (to await
            what it draws), in JavaScript, that returns what JSON can hold.
        folder: Where the browser's profile may be written.
        width: The frame's width in pixels, as a phone has 360.
    """
    program = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser is installed: none of {', '.join(_NAMES)}")
    told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    log = folder / "browser.log"
    with _served({"/page": page, "/frame": _FRAME.format(width=width, ask=ask)}, told) as address:
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                program,
                *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
                *("--enable-logging=stderr", "--no-first-run", "--window-size=1280,900"),
                f"--user-data-dir={folder / 'profile'}",
                f"{address}/frame",
                stdout=asyncio.subprocess.DEVNULL,
                stderr=errors,
            )
        try:
            answer = await asyncio.wait_for(told, 90.0)
        finally:
            process.terminate()
            await process.wait()
    lines = log.read_text(errors="replace").splitlines()
    return Looked(answer, [line for line in lines if "CONSOLE" in line and "favicon" not in line])


@contextmanager
def _served(pages: dict[str, str], told: asyncio.Future[Any]) -> Iterator[str]:
    """The URL of a server of pages that takes what is told to it."""
    loop = told.get_loop()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path in pages
            content = pages.get(self.path, "not here").encode()
            self.send_response(200 if found else 404)
            self.send_header("content-type", "text/html; charset=utf-8")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            answer = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(204)
            self.end_headers()
            loop.call_soon_threadsafe(lambda: told.done() or told.set_result(answer))

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
