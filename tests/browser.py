"""A headless Chromium and its debugging protocol, as far as tests of a page need it: no package beside the browser."""

import base64
import http.client
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--remote-debugging-port=0",
    "--hide-scrollbars",
]
PATIENCE = 90.0  # seconds for any one answer


def find_chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One page. events: what the browser sends by itself, {"method": ..., "params": ...}."""

    def __init__(self, folder: Path):
        command = [find_chromium(), *FLAGS, f"--user-data-dir={folder}", "about:blank"]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "HOME": str(folder)},
        )
        self.events: list[dict[str, Any]] = []
        self.number = 0
        try:
            self._connect(folder / "DevToolsActivePort")
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def _connect(self, port_file: Path) -> None:
        """Find the page's address and open a WebSocket to it (RFC 6455)."""
        end = time.monotonic() + PATIENCE
        while not (port_file.is_file() and port_file.read_text().count("\n")):
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{self.process.args[0]} did not start: exit code {self.process.poll()}")
            time.sleep(0.1)
        port = int(port_file.read_text().splitlines()[0])
        asking = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        asking.request("GET", "/json/list")
        pages = json.loads(asking.getresponse().read())
        path = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page").split(str(port), 1)[1]
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self.stream = self.socket.makefile("rb")
        if b" 101 " not in self.stream.readline():
            raise RuntimeError("the browser refused the WebSocket")
        while self.stream.readline().strip():
            pass

    def _send(self, message: bytes) -> None:
        length = struct.pack("!BH", 0xFE, len(message)) if len(message) < 65536 else struct.pack("!BQ", 0xFF, len(message))
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(message))
        self.socket.sendall(b"\x81" + length + mask + masked)

    def _receive(self) -> dict[str, Any]:
        message = b""
        while True:
            first, second = self.stream.read(2)
            length = second & 0x7F
            if length > 125:
                length = int.from_bytes(self.stream.read(2 if length == 126 else 8), "big")
            part = self.stream.read(length)
            if first & 0x0F in (0, 1):  # text, or its continuation
                message += part
                if first & 0x80:
                    return json.loads(message)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command of the protocol."""
        self.number += 1
        self._send(json.dumps({"id": self.number, "method": method, "params": params}).encode())
        while True:
            message = self._receive()
            if message.get("id") == self.number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self.events.append(message)

    def open(self, path: Path) -> None:
        """Go to this file, and wait until it is loaded."""
        self.open_url(path.resolve().as_uri())

    def open_url(self, url: str) -> None:
        """Go to this address, and wait until the page is loaded."""
        self.events.clear()
        self.call("Page.navigate", url=url)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript in the page; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """The value of an expression of JavaScript, as soon as it is true. Raises RuntimeError where it does not become so."""
        end = time.monotonic() + PATIENCE
        while not (value := self.evaluate(expression)):
            if time.monotonic() > end:
                raise RuntimeError(f"never true: {expression}")
            time.sleep(0.1)
        return value

    def type(self, text: str) -> None:
        """Put a text into the field that has the focus, instead of what is selected."""
        self.call("Input.insertText", text=text)

    def download_to(self, folder: Path) -> None:
        """Let downloads go into this folder."""
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def press(self, key: str) -> None:
        """A key, down and up: Tab, Enter, Escape, ArrowLeft, ArrowRight, ArrowDown."""
        code = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39, "ArrowDown": 40}[key]
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def width(self, pixels: int) -> None:
        """Look through a screen of this width."""
        self.call("Emulation.setDeviceMetricsOverride", width=pixels, height=800, deviceScaleFactor=1, mobile=pixels < 600)

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
