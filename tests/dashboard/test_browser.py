"""A real browser on a real server: a live run moves, hostile text stays text, no other machine is asked."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit
from urllib.request import urlopen

import pytest

from tests.dashboard.made import metrics_line, write_run, write_samples

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no `chromium` on the path: apt-get install chromium"),
]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_run(tmp_path / "runs" / "reproduce" / "zero", status="RUNNING")
    return tmp_path / "runs"


@pytest.fixture
def server(store: Path) -> Iterator[str]:
    """The dashboard as `make dashboard` starts it; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = {"server.port": port, "server.address": "127.0.0.1", "server.headless": "true"}
    flags |= {"server.fileWatcherType": "none", "browser.gatherUsageStats": "false"}
    command = [sys.executable, "-m", "streamlit", "run", str(ROOT / "dashboard" / "app.py")]
    command += [f"--{name}={value}" for name, value in flags.items()]
    env = os.environ | {"R1_RUNS": str(store), "R1_MLFLOW_URI": f"sqlite:///{store}/mlflow.db", "PYTHONPATH": str(ROOT)}
    log = store.parent / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=out, cwd=store.parent)
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while True:
            try:
                with urlopen(f"{address}/_stcore/health", timeout=2):
                    break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(20)


def test_browser_shows_a_live_run_and_keeps_hostile_text_as_text(store: Path, server: str, tmp_path: Path) -> None:
    from playwright.sync_api import expect, sync_playwright

    asked: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"],
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("request", lambda request: asked.append(request.url))
        page.set_default_timeout(30_000)
        expect.set_options(timeout=30_000)

        page.goto(server)
        expect(page.get_by_role("heading", name="Runs", exact=True)).to_be_visible()
        expect(page.get_by_test_id("stDataFrame")).to_be_visible()
        expect(page.get_by_test_id("stSidebar").get_by_text("reproduce/zero")).to_be_visible()
        page.wait_for_url(f"**/?run={quote('reproduce/zero', safe='')}")
        page.screenshot(path=tmp_path / "runs.png")

        write_run(store / "second", samples=())
        taller = "document.querySelector('[data-testid=stDataFrame]').getBoundingClientRect().height > 90"
        page.wait_for_function(taller, timeout=10_000)  # by itself, no reload
        box = page.get_by_test_id("stDataFrame").bounding_box()
        page.mouse.click(box["x"] + 16, box["y"] + 2.5 * 35)  # the table is a canvas: its second line's tick box
        expect(page.get_by_test_id("stSidebar").get_by_text("second")).to_be_visible()
        page.wait_for_url("**run=second**")
        page.mouse.click(box["x"] + 16, box["y"] + 2.5 * 35)
        expect(page.get_by_test_id("stSidebar").get_by_text("second")).not_to_be_visible()

        page.get_by_role("link", name="Thinking").click()
        response = page.get_by_test_id("stMetric").first
        expect(response).to_contain_text("58.0")
        with (store / "reproduce" / "zero" / "metrics.jsonl").open("a") as file:
            file.writelines(metrics_line(step) for step in range(41, 46))
        expect(response).to_contain_text("63.0", timeout=10_000)  # by itself, no reload
        expect(page.locator("[data-testid=stVegaLiteChart]")).to_have_count(5)
        page.screenshot(path=tmp_path / "thinking.png")

        page.get_by_role("link", name="Curves").click()
        expect(page.get_by_role("heading", name="Held-out questions")).to_be_visible()
        page.screenshot(path=tmp_path / "curves.png")

        page.get_by_role("link", name="Samples").click()
        cards = page.locator(".r1-card")
        expect(cards).to_have_count(4)
        hostile = cards.nth(2)
        expect(hostile).to_contain_text("<script>document.title='owned'</script>")
        expect(hostile).to_contain_text("![pixel](http://beacon.example/seen.png)")
        expect(hostile).to_contain_text("\\x1b[31mred\\x1b[0m \\u202egnp.exe\\u202c &lt;b&gt; $$x$$ :red[no]")
        expect(hostile.locator("mark")).to_have_text(["wait", "等等"])
        assert page.locator(".r1-card :is(script, img, a, style, svg)").count() == 0
        assert page.evaluate("getComputedStyle(document.body).display") != "none"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert "owned" not in page.title()
        page.screenshot(path=tmp_path / "samples.png", full_page=True)

        write_samples(store / "reproduce" / "zero" / "samples" / "step_000045.parquet", 45)
        expect(page.get_by_role("slider")).to_have_attribute("max", "2", timeout=10_000)
        page.get_by_role("radio", name="right", exact=True).click()
        expect(page.get_by_text("1 of 8 answers fit, to 1 of 2 questions.")).to_be_visible()
        page.wait_for_url("**result=right**")

        link = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="dark")
        link.on("request", lambda request: asked.append(request.url))
        link.goto(page.url.replace("result=right", "result=cut&step=10&question=countdown%2Ftrain%2F8"))
        expect(link.locator(".r1-card").first).to_contain_text("step 10: <think>3*5=15, 15*8", timeout=30_000)
        expect(link.get_by_text("All rewards of this group are equal")).to_be_visible()
        link.screenshot(path=tmp_path / "link_dark.png")
        browser.close()

    elsewhere = {url for url in asked if urlsplit(url).hostname not in ("127.0.0.1", None)}
    assert not elsewhere and len(asked) > 20
    assert all((tmp_path / f"{name}.png").stat().st_size > 10_000 for name in ("runs", "curves", "thinking", "samples"))
