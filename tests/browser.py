"""A headless Chromium, driven through chromedriver's HTTP interface (W3C WebDriver)."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("chromium", "chromedriver")


def missing() -> str:
    """Why there is no browser here; empty if there is one."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"not installed: {', '.join(absent)} (Debian: apt-get install chromium chromium-driver)" if absent else ""


class Browser:
    def __init__(self, address: str) -> None:
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options = {"binary": shutil.which("chromium"), "args": arguments}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self._address = f"{address}/session"
        session = self._send("", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        self._address += f"/{session}"

    def _send(self, path, content=None, method="POST"):
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(
            self._address + path, body, {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def devtools(self, command, **parameters):
        return self._send("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def open(self, page: Path | str, width: int, scheme: str = "light") -> None:
        phone = width < 600
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.devtools("Emulation.setEmulatedMedia", features=features)
        self._send("/url", {"url": page if isinstance(page, str) else page.resolve().as_uri()})

    def assert_fits(self, page: Path, width: int, scheme: str) -> None:
        """Open a page, which must fit into a window of that width and have the colours that are preferred."""
        self.open(page, width, scheme)
        assert self.evaluate("return window.innerWidth") == width
        assert self.overflow() <= 0
        assert self.is_light() == (scheme == "light")

    def evaluate(self, script: str):
        return self._send("/execute/sync", {"script": script, "args": []})

    def overflow(self) -> int:
        """Pixels by which the page is wider than its window."""
        return self.evaluate("return document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def is_light(self) -> bool:
        """Whether the page's ground is brighter than its text."""
        colours = self.evaluate("const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]")
        ground, text = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
        return ground > text

    def console(self) -> list[str]:
        """Warnings and errors since the last call."""
        return [entry["message"] for entry in self._send("/se/log", {"type": "browser"}) if entry["level"] != "INFO"]

    def screenshot(self) -> bytes:
        shot = self.devtools("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def close(self) -> None:
        self._send("", method="DELETE")


@contextmanager
def browser() -> Iterator[Browser]:
    with subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True) as driver:
        try:
            found = next(filter(None, (re.search(r"on port (\d+)\.", line) for line in driver.stdout)))
            opened = Browser(f"http://127.0.0.1:{found[1]}")
            try:
                yield opened
            finally:
                opened.close()
        finally:
            driver.terminate()
