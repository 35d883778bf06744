"""How long a browser takes to open a report of many trials: from navigation to the end of the page's script, ms.

Run as `python benchmarks/report_page.py [--trials 1000] [--rounds 5]`. Needs a Chromium. A report of 12 trials opens
by turns with the large one, so that the browser's own part is seen beside it.
"""

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the sweep comes from the tests

from orchestrator.folder import SweepFolder
from orchestrator.report import write_report
from tests.orchestrator.sweeps import small_plan, small_sweep

SMALL = 12
PROBE = '<script>document.title = "took " + Math.round(performance.now())</script></body>'


def page(folder: Path, num_trials: int) -> Path:
    """A report of so many trials that says how long it took to open; the probe needs a page without its policy."""
    folder.mkdir()
    plan = small_plan(folder, trials=SMALL)
    teacher, *trials = small_sweep(plan, SMALL)
    many = [replace(trials[number % SMALL], trial=f"t{number:04d}") for number in range(num_trials)]
    html, _ = write_report(SweepFolder(folder, "small"), plan.to_json(), [teacher, *many])
    text = re.sub(r"<meta http-equiv[^>]*>", "", html.read_text(encoding="utf-8")).replace("</body>", PROBE)
    html.write_text(text, encoding="utf-8")
    return html


def took_ms(browser: str, html: Path) -> int:
    """Opens a page in a fresh browser."""
    with tempfile.TemporaryDirectory() as profile:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={profile}", "--dump-dom"]
        command = [browser, *flags, html.as_uri()]
        drawn = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r"<title>took (\d+)</title>", drawn)
    assert found is not None, "the page's script did not run to its end"
    return int(found[1])


def main() -> None:
    """Opens both pages by turns and prints one line for each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        print("report page: not measured, there is no Chromium here")
        return
    with tempfile.TemporaryDirectory() as folder:
        pages = {number: page(Path(folder) / str(number), number) for number in (SMALL, options.trials)}
        times: dict[int, list[int]] = {number: [] for number in pages}
        for _ in range(options.rounds):
            for number, html in pages.items():
                times[number].append(took_ms(browser, html))
        for number, found in times.items():
            size_kb = pages[number].stat().st_size / 1e3
            spread = f"min {min(found)}, max {max(found)}"
            print(f"report of {number} trials ({size_kb:.0f} kB): {statistics.median(found):.0f} ms ({spread})")


if __name__ == "__main__":
    main()
