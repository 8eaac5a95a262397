"""A real browser without a window, by the DevTools protocol over a pair of pipes."""

import contextlib
import json
import os
import shutil
import subprocess

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"),
    *("--no-first-run", "--disable-background-networking", "--window-size=1440,900"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nothing from outside
)


def find():
    """The path of a browser, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """The page of a browser; `events` are those since the last `open`."""

    def __init__(self, write, read):
        self._write, self._read = write, read
        self._number = 0
        self._session = {}
        self.events = []

    def call(self, method, **parameters):
        """The result of a method of the protocol; what comes before it is kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._write.write(json.dumps(message | self._session).encode() + b"\0")
        self._write.flush()
        while (answer := self._receive()).get("id") != self._number:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def attach(self):
        """Opens an empty page, and has its events told."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def open(self, url):
        """Opens an address and waits until all of it is there."""
        self.events = []
        self.call("Page.navigate", url=url)
        while not self._met("Page.loadEventFired"):
            self.events.append(self._receive())

    def value(self, script):
        """What a script evaluates to; a promise is waited for."""
        options = {"returnByValue": True, "awaitPromise": True}
        found = self.call("Runtime.evaluate", expression=script, **options)
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    def problems(self):
        """Requests that failed, and errors of scripts and of the console."""
        shown = []
        for event in self.events:
            method, about = event.get("method"), event.get("params", {})
            if method in ("Network.loadingFailed", "Runtime.exceptionThrown"):
                shown.append(str(about))
            elif method == "Network.responseReceived":
                if about["response"]["status"] >= 400:
                    shown.append(about["response"]["url"])
            elif method == "Log.entryAdded" and about["entry"]["level"] == "error":
                shown.append(about["entry"]["text"])
            elif method == "Runtime.consoleAPICalled" and about["type"] == "error":
                shown.append(str(about["args"]))
        return shown

    def _met(self, method):
        return any(event.get("method") == method for event in self.events)

    def _receive(self):
        content = bytearray()
        while (letter := self._read.read(1)) != b"\0":
            if not letter:
                raise RuntimeError("the browser has ended")
            content += letter
        return json.loads(content)


@contextlib.contextmanager
def started(command, folder):
    """A page of a browser that keeps its files in a folder."""
    to_browser, from_here = os.pipe()
    to_here, from_browser = os.pipe()

    def place():  # the browser reads from 3 and writes to 4
        ends = os.dup(to_browser), os.dup(from_browser)
        for number, end in zip((3, 4), ends, strict=True):
            os.dup2(end, number)

    with subprocess.Popen(
        [command, *_OPTIONS, f"--user-data-dir={folder}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        close_fds=False,
        preexec_fn=place,
    ) as process:
        os.close(to_browser)
        os.close(from_browser)
        with open(from_here, "wb") as write, open(to_here, "rb") as read:
            page = Page(write, read)
            page.attach()
            try:
                yield page
            finally:
                process.kill()
