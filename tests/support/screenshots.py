"""Take the screenshots in docs/images: `python -m tests.support.screenshots`.

Run this after a change of the report or the web pages. It runs the digits study, which takes about
two minutes, or uses the results in the folder that is given: `… screenshots FOLDER`, where FOLDER
has `sweeper.db` and `results`.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.browser import ARGUMENTS, CHROMIUM
from tests.support.processes import ROOT

IMAGES = ROOT / "docs" / "images"
SWEEPER = [sys.executable, "-m", "sweeper"]


def take(folder: Path) -> None:
    """Write report.png and service.png from the digits study in a folder."""
    from playwright.sync_api import sync_playwright

    command = [*SWEEPER, "serve", "--no-browser", "--port", "0"]
    with (
        subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as service,
        sync_playwright() as playwright,
    ):
        try:
            assert service.stdout is not None
            address = re.search(r"http://\S+/", service.stdout.readline())
            assert address is not None
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            report = folder / "results" / "digits" / "report.html"
            for name, url, size in (
                ("report", report.as_uri(), (1000, 1240)),
                ("service", f"{address[0]}studies/digits", (960, 885)),
            ):
                width, height = size
                page = browser.new_page(viewport={"width": width, "height": height})
                page.goto(url, wait_until="domcontentloaded")
                page.wait_for_timeout(5_000)  # figures are drawn when they come into view
                page.screenshot(path=IMAGES / f"{name}.png")
        finally:
            service.terminate()


def main() -> None:
    """Run the digits study if no folder is given, and take the screenshots."""
    if len(sys.argv) > 1:
        take(Path(sys.argv[1]).resolve())
        return
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*SWEEPER, "launch", "digits"], cwd=folder, check=True)
        take(Path(folder))


if __name__ == "__main__":
    main()
