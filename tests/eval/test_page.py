"""The page in a real browser: it renders, every image is there, tables sort, the console stays silent."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from eval.run import evaluate
from eval.strict import parse_strict
from eval.suite import Suite

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")
SUITE = parse_strict(
    Suite,
    {
        "name": "small",
        "perplexity": {"length": 64, "contexts": 3},
        "needle": {"lengths": [200], "depths": [0.0, 0.5], "samples": 1, "controls": 1, "digits": 3},
        "footprint": {"lengths": [40, 64], "predict_to": 128},
    },
)
PROBE = """
<script>
addEventListener("load", () => {
  const table = document.querySelector("table.sortable");
  const column = () => [...table.tBodies[0].rows].map(row => row.cells[1].dataset.value);
  const found = {before: column(), broken: [...document.images].filter(it => !it.naturalWidth).length,
    images: document.images.length, overflow: document.documentElement.scrollWidth > innerWidth};
  const button = table.tHead.querySelectorAll("button")[1];
  button.click(); found.ascending = column();
  button.click(); found.descending = column();
  const probe = document.createElement("pre");
  probe.id = "probe"; probe.textContent = JSON.stringify(found);
  document.body.append(probe);
});
</script>
"""


@pytest.fixture(scope="module")
def page(dense: Path, sliding: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("page") / "out"
    evaluate([("source", dense), ("windowed", sliding)], SUITE, output, gate="ppl<=9*baseline")
    probed = output / "probed.html"
    probed.write_text((output / "report.html").read_text().replace("</body>", PROBE + "</body>"))
    return probed


@pytest.mark.parametrize("width", [390, 1400])
def test_the_page_in_a_browser(page: Path, width: int, tmp_path: Path) -> None:
    assert BROWSER is not None
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0",
            f"--user-data-dir={tmp_path}", f"--window-size={width},900", "--virtual-time-budget=5000",
            "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, done.stderr
    probe = re.search(r'<pre id="probe">([^<]*)</pre>', done.stdout)
    assert probe is not None, done.stdout[-2000:]
    found = json.loads(probe.group(1))
    assert found["images"] >= 4 and found["broken"] == 0
    assert not found["overflow"], "wider than the screen"
    numbers = [float(value) for value in found["before"] if value]
    assert [float(value) for value in found["ascending"] if value] == sorted(numbers)
    assert [float(value) for value in found["descending"] if value] == sorted(numbers, reverse=True)
