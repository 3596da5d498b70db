"""The page Review: accept and reject, beside the sheet and nowhere else."""

from pathlib import Path

from agents import sheet
from tests.dashboard.made import BEACON, HOSTILE
from tests.dashboard.test_pages import html_of, open_page, shown


def made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    samples = [sheet.Sample("s0001", HOSTILE, "yes"), sheet.Sample("s0002", "=1+1", "no")]
    sheet.write(folder / sheet.NAME, [*samples, sheet.Sample("s0003", "third", "no")])
    return folder / sheet.NAME


def test_without_a_sheet_it_says_which_command_makes_one(runs: Path) -> None:
    app = open_page("review")
    assert not app.exception and "r1 datagen" in shown(app)


def test_samples_are_accepted_and_rejected_one_after_another(runs: Path) -> None:
    path = made(runs / "datagen")
    before, outside = path.read_bytes(), made(runs.parent / "outside")
    (runs / "link").symlink_to(outside.parent)
    app = open_page("review")
    assert not app.exception and list(app.selectbox(key="sheet").options) == ["datagen/review.csv"]
    html = html_of(app)
    assert "<script" not in html and "<img" not in html and "&lt;script&gt;" in html
    assert not any(BEACON in str(block.value) for block in [*app.markdown, *app.caption, *app.info])
    app.button(key="accept").click().run()
    assert app.selectbox(key="sample").value == "s0002"
    app.button(key="reject").click().run()
    assert sheet.decisions(path) == {"s0001": "accept", "s0002": "reject"}
    assert "1 accepted, 1 rejected, 1 open" in shown(app)
    app.selectbox(key="sample").set_value("s0001").run()
    app.button(key="open").click().run()
    assert sheet.decisions(path) == {"s0002": "reject"}
    assert path.read_bytes() == before and not sheet.decisions_path(outside).exists()
    assert {entry.name for entry in path.parent.iterdir()} == {"review.csv", "review.decisions.json"}
    sheet.decisions_path(path).write_text("{broken")
    app.run()
    assert not app.exception and "cannot be read" in app.warning[0].value.replace("\\", "")
