"""A headless Chromium, driven by the commands of WebDriver over HTTP."""

import base64
import contextlib
import json
import re
import shutil
import subprocess
import tempfile
from http.client import HTTPConnection

from serve_fakes import until

DRIVER, BROWSER = shutil.which("chromedriver"), shutil.which("chromium")
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # WebDriver's name of an element's number
ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")


class Browser:
    def __init__(self, port, folder):
        self._port = port
        options = {"binary": BROWSER, "args": [*ARGUMENTS, f"--user-data-dir={folder}"]}
        logs = {"goog:loggingPrefs": {"browser": "ALL"}}
        wanted = {"alwaysMatch": {"goog:chromeOptions": options, **logs}}
        self._at = f"/session/{self._call('POST', '/session', capabilities=wanted)['sessionId']}"

    def _call(self, method, path, **body):
        connection = HTTPConnection("127.0.0.1", self._port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, json.dumps(body) if method == "POST" else None)
            value = json.loads(connection.getresponse().read())["value"]
        assert not (isinstance(value, dict) and "error" in value), value
        return value

    def open(self, address, width=1100, height=900):
        self._call("POST", f"{self._at}/window/rect", width=width, height=height)
        self._call("POST", f"{self._at}/url", url=address)

    def run(self, script, *arguments):
        return self._call("POST", f"{self._at}/execute/sync", script=script, args=list(arguments))

    def element(self, selector):
        found = self._call("POST", f"{self._at}/element", using="css selector", value=selector)
        return found[ELEMENT]

    def click(self, selector):
        self._call("POST", f"{self._at}/element/{self.element(selector)}/click")

    def choose_file(self, selector, path):
        self._call("POST", f"{self._at}/element/{self.element(selector)}/value", text=str(path))

    def text(self, selector):
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)"
        return "\n".join(self.run(script, selector))

    def wait_for(self, words, selector):
        until(lambda: words in self.text(selector))

    def dark(self, on):
        feature = [{"name": "prefers-color-scheme", "value": "dark" if on else "light"}]
        self._call(
            "POST",
            f"{self._at}/goog/cdp/execute",
            cmd="Emulation.setEmulatedMedia",
            params={"features": feature},
        )

    def complaints(self):
        """What the browser's console has that is worse than a note."""
        found = self._call("POST", f"{self._at}/se/log", type="browser")
        return [entry["message"] for entry in found if entry["level"] in ("WARNING", "SEVERE")]

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self._call("GET", f"{self._at}/screenshot")))

    def quit(self):
        self._call("DELETE", self._at)


@contextlib.contextmanager
def browser():
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, text=True)
        with process:
            try:
                found = Browser(_port(process), folder)
                yield found
                found.quit()
            finally:
                process.terminate()


def _port(process):
    for line in process.stdout:
        if started := re.search(r"started successfully on port (\d+)", line):
            return int(started[1])
    raise AssertionError("chromedriver ended before it had a port")
