"""`make bench-dashboard`: a hundred long runs, a real browser: how long a reader waits -> runs/bench/dashboard.json.

first_paint_s: from opening the address, on a server that no one has asked yet, to the table of all runs.
view_change_s: the longest of the changes in `views`, from the click until all that the window shows (1280 x 900) is
new: charts, tables, answers. whole_pages: the same until the last chart below it is drawn, too.
live_delay_s: from a line in a live run's metrics.jsonl to the page that shows it, the longest of three.
rss_mib: the most memory that the server held in all of this.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.request import urlopen

import psutil

from dashboard.bench_data import SIZES, Size, add_line, make

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path("runs/bench")
RUNS = ("sweep_00/zero", "sweep_01/zero", "sweep_02/zero", "sweep_03/zero")
"Compared in the views: two configurations of two seeds."


@dataclass(slots=True)
class Measured:
    """What a reader waits for, and what it costs."""

    first_paint_s: float
    view_change_s: float
    live_delay_s: float
    rss_mib: float
    views: dict[str, float]
    "Each change of view, in seconds."
    whole_pages: dict[str, float]
    "The same to the end of the page."
    size: dict[str, int]
    cores: int


@contextmanager
def server(store: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The dashboard as `make dashboard` starts it, on a free port: its address and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {"R1_RUNS": str(store), "R1_MLFLOW_URI": f"sqlite:///{store}/mlflow.db", "PYTHONPATH": str(ROOT)}
    with (store / "server.log").open("wb") as log:
        command = [sys.executable, "-m", "dashboard", "--port", str(port)]
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=ROOT)
    try:
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while True:
            try:
                with urlopen(f"{address}/_stcore/health", timeout=2):
                    break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"bench-dashboard: the server does not start; see {store / 'server.log'}")
                time.sleep(0.2)
        yield address, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def most_memory(process: psutil.Process) -> Iterator[list[float]]:
    """A list with one number, the most MiB that the process held so far."""
    most, stop = [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.1) and process.is_running():
            most[0] = max(most[0], process.memory_info().rss / 2**20)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        stop.set()
        thread.join()


def measure(store: Path, size: Size) -> Measured:
    """Open, change views and wait for a live run, in headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, server(store) as (address, process), most_memory(process) as most:
        options = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=options)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(60_000)

        start = time.perf_counter()
        page.goto(address)
        page.get_by_text(f"{size.runs} of {size.runs} runs fit").wait_for()
        page.get_by_test_id("stDataFrame").locator("canvas").first.wait_for()
        first_paint = time.perf_counter() - start

        chosen = "&".join(f"run={key.replace('/', '%2F')}" for key in RUNS)
        page.goto(f"{address}/?{chosen}")
        page.get_by_text(f"{size.runs} of {size.runs} runs fit").wait_for()
        views, whole_pages = {}, {}

        def change(name: str, click: Callable[[], None], there: Callable[[], None], *, charts: bool = True) -> None:
            drawn(page)
            if charts:  # all of them are to be replaced
                page.evaluate(f"document.querySelectorAll('{PICTURES}').forEach(c => c.dataset.old = '1')")
            page.evaluate(WAIT_FOR_CLICK)
            click()
            there()
            named = page.evaluate("performance.now() - window.clickedAt")
            drawn(page)
            done, seen = page.evaluate("[performance.now() - window.clickedAt, window.seenAt - window.clickedAt]")
            views[name] = round(max(seen, named) / 1000, 3)
            whole_pages[name] = round(done / 1000, 3)

        def link(name: str) -> Callable[[], None]:
            return page.get_by_role("link", name=name).click

        def option(name: str) -> Callable[[], None]:
            return page.get_by_role("radio", name=name, exact=True).click

        heading = page.get_by_role("heading", name="Learning curves").wait_for
        new_charts = page.locator("[data-testid=stVegaLiteChart] :is(canvas, svg):not([data-old])").first.wait_for
        change("to curves", link("Curves"), lambda: (heading(), new_charts()))
        change("part: policy", option("Policy"), new_charts)
        change("x axis: tokens", option("tokens"), new_charts)
        change("band over seeds", option("band over seeds"), new_charts)
        thinking = page.get_by_role("heading", name="Thinking length").wait_for
        change("to thinking", link("Thinking"), lambda: (thinking(), new_charts()))
        change("to samples", link("Samples"), page.locator(".r1-card").first.wait_for)
        change("to runs", link("Runs"), page.get_by_text(f"{size.runs} of {size.runs} runs fit").wait_for)
        search = page.get_by_role("textbox", name="Search")
        change(
            "search",
            lambda: (search.fill("sweep_09"), search.press("Enter")),
            page.get_by_text(f"1 of {size.runs} runs fit").wait_for,
            charts=False,
        )

        page.goto(f"{address}/?run=live%2Fzero&q=live")
        page.get_by_text(f"1 of {size.runs} runs fit").wait_for()
        page.goto(f"{address}/thinking?run=live%2Fzero")
        shown = page.get_by_test_id("stMetric").first
        shown.wait_for()
        delays = []
        for number in (1000.0, 2000.0, 3000.0):
            time.sleep(1.3)
            start = time.perf_counter()
            for _ in range(5):  # the mean of the last five is what the page shows
                add_line(store / "live" / "zero", {"rl/response_tokens": number})
            shown.get_by_text(f"{number:.1f}").wait_for()
            delays.append(time.perf_counter() - start)
        browser.close()
    return Measured(
        first_paint_s=round(first_paint, 2),
        view_change_s=max(views.values()),
        live_delay_s=round(max(delays), 2),
        rss_mib=round(most[0]),
        views=views,
        whole_pages=whole_pages,
        size=asdict(size),
        cores=os.cpu_count() or 1,
    )


PICTURES = "[data-testid=stVegaLiteChart] canvas, [data-testid=stVegaLiteChart] svg"
WAIT_FOR_CLICK = f"""() => {{
    window.clickedAt = undefined;
    window.seenAt = 0;
    const seen = new WeakSet(document.querySelectorAll('{PICTURES}'));
    const watch = () => {{ // a look a frame: what a frame shows is painted with it
        for (const picture of document.querySelectorAll('{PICTURES}'))
            if (!seen.has(picture) && picture.getBoundingClientRect().top < innerHeight) {{
                seen.add(picture);
                window.seenAt = performance.now();
            }}
        window.watching = requestAnimationFrame(watch);
    }};
    const at = () => {{ window.clickedAt ??= performance.now(); }};
    for (const kind of ['click', 'keydown']) addEventListener(kind, at, {{capture: true, once: true}});
    cancelAnimationFrame(window.watching);
    watch();
}}"""
"""The clock starts with the click; what the driver does before it (scroll, wait until nothing moves) is not waited for.
seenAt: when the last new picture came into the window."""


def drawn(page) -> None:
    """Wait until the page's script has ended, and all of its charts are drawn and painted."""
    page.wait_for_function(
        f"""() => {{
            const app = document.querySelector('[data-testid=stApp]');
            const charts = [...document.querySelectorAll('[data-testid=stVegaLiteChart]')];
            return app && app.dataset.testScriptState !== 'running'
                && ![...document.querySelectorAll('{PICTURES}')].some(c => c.dataset.old)
                && charts.every(c => c.querySelector('canvas, svg'));
        }}"""
    )
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def main(words: list[str]) -> None:
    name = next((word.partition("=")[2] for word in words if word.startswith("size=")), "full")
    if name not in SIZES:
        sys.exit(f"bench-dashboard: size={name}: is no size; choose one of {', '.join(SIZES)}")
    store = FOLDER / f"dashboard_{name}"
    start = time.perf_counter()
    make(store, SIZES[name])
    print(f"data: {store}, {time.perf_counter() - start:.0f} s", flush=True)
    found = measure(store.resolve(), SIZES[name])
    path = FOLDER / ("dashboard.json" if name == "full" else f"dashboard_{name}.json")
    path.write_text(json.dumps(asdict(found), indent=1) + "\n")
    print(json.dumps(asdict(found), indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
