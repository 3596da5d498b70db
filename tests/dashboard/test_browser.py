"""A real browser on a real server: a live run moves, filters filter, links show the same, hostile text stays text."""

import shutil
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from dashboard import bench
from tests.dashboard.made import metrics_line, write_run, write_samples

CHROMIUM = shutil.which("chromium")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no `chromium` on the path: apt-get install chromium"),
]


def test_browser_shows_a_live_run_and_keeps_hostile_text_as_text(tmp_path: Path) -> None:
    from playwright.sync_api import expect, sync_playwright

    store = tmp_path / "runs"
    live = write_run(store / "reproduce" / "zero", status="RUNNING", config={"rl": {"steps": 80}})
    asked: list[str] = []
    with sync_playwright() as playwright, bench.server(store) as (address, _):
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"],
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("request", lambda request: asked.append(request.url))
        page.set_default_timeout(30_000)
        expect.set_options(timeout=30_000)
        side_bar = page.get_by_test_id("stSidebar")

        page.goto(address)
        expect(page.get_by_role("heading", name="Runs", exact=True)).to_be_visible()
        expect(page.get_by_test_id("stDataFrame")).to_be_visible()
        expect(side_bar.get_by_text("reproduce/zero")).to_be_visible()
        page.wait_for_url(f"**/?run={quote('reproduce/zero', safe='')}")
        page.screenshot(path=tmp_path / "runs.png")

        write_run(store / "second", samples=(), task="gcd", config={"rl": {"steps": 40}})
        expect(page.get_by_text("2 of 2 runs fit; 1 running.")).to_be_visible()  # by itself, no reload
        box = page.get_by_test_id("stDataFrame").bounding_box()
        page.mouse.click(box["x"] + 16, box["y"] + 2.5 * 35)  # the table is a canvas: its second line's tick box
        expect(side_bar.get_by_text("second")).to_be_visible()
        expect(page.get_by_role("heading", name="Differences of configuration")).to_be_visible()
        page.wait_for_url("**run=second**")
        page.get_by_role("textbox", name="Search").fill("countdown")
        page.get_by_role("textbox", name="Search").press("Enter")
        expect(page.get_by_text("1 of 2 runs fit")).to_be_visible()
        expect(side_bar.get_by_text("second")).to_be_visible()  # hidden by the filter, chosen all the same
        filtered = browser.new_page()
        filtered.goto(page.url)
        expect(filtered.get_by_text("1 of 2 runs fit")).to_be_visible()
        filtered.close()

        page.goto(f"{address}/curves?run={quote('reproduce/zero', safe='')}&metric=rl%2Fkl")
        chart = page.locator("[data-testid=stVegaLiteChart] svg.marks").first
        expect(chart).to_be_visible()
        bench.drawn(page)
        before = chart.screenshot()
        with page.expect_download() as download:
            page.get_by_role("button", name="CSV").first.click()
        assert len(Path(download.value.path()).read_text().splitlines()) == 1 + 2 * 40  # both lines of the chart
        with (live / "metrics.jsonl").open("a") as file:
            file.writelines(metrics_line(step) for step in range(41, 46))
        for _ in range(40):  # by itself, no reload
            if chart.screenshot() != before:
                break
            page.wait_for_timeout(250)
        else:
            raise AssertionError("the curve did not move")
        page.screenshot(path=tmp_path / "curves.png")

        page.get_by_role("link", name="Thinking").click()
        response = page.get_by_test_id("stMetric").first
        expect(response).to_contain_text("63.0")
        expect(page.locator("[data-testid=stVegaLiteChart]")).to_have_count(8)
        page.screenshot(path=tmp_path / "thinking.png")

        page.get_by_role("link", name="Samples").click()
        cards = page.locator(".r1-card")
        expect(cards).to_have_count(4)
        hostile = cards.nth(2)
        expect(hostile).to_contain_text("<script>document.title='owned'</script>")
        expect(hostile).to_contain_text("![pixel](http://beacon.example/seen.png)")
        expect(hostile).to_contain_text("\\x1b[31mred\\x1b[0m \\u202egnp.exe\\u202c &lt;b&gt; $$x$$ :red[no]")
        expect(hostile.locator("mark")).to_have_text(["wait", "等等"])
        assert page.locator(".r1-card :is(script, img, style, svg, a:not([href^='?run=']))").count() == 0
        assert page.evaluate("getComputedStyle(document.body).display") != "none"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert "owned" not in page.title()
        page.screenshot(path=tmp_path / "samples.png", full_page=True)

        write_samples(live / "samples" / "step_000045.parquet", 45)
        expect(page.get_by_role("slider")).to_have_attribute("max", "2", timeout=10_000)
        page.get_by_role("radio", name="right", exact=True).click()
        expect(page.get_by_text("1 of 8 answers fit, to 1 of 2 questions")).to_be_visible()
        page.wait_for_url("**result=right**")

        link = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
        link.on("request", lambda request: asked.append(request.url))
        link.goto(page.url.replace("result=right", "result=cut&step=10&question=countdown%2Ftrain%2F8"))
        expect(link.locator(".r1-card").first).to_contain_text("step 10: <think>3*5=15, 15*8", timeout=30_000)
        expect(link.get_by_text("All rewards of this group are equal").first).to_be_visible()
        assert link.evaluate("document.documentElement.scrollWidth <= innerWidth")
        link.screenshot(path=tmp_path / "link_dark.png")
        browser.close()

    elsewhere = {url for url in asked if urlsplit(url).hostname not in ("127.0.0.1", None)}
    assert not elsewhere and len(asked) > 20
    assert all((tmp_path / f"{name}.png").stat().st_size > 10_000 for name in ("runs", "curves", "thinking", "samples"))
