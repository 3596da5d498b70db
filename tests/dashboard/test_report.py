"""`r1 report`: one page that holds everything, runs nothing and asks no one."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dashboard import report_page
from experiments.config import compose
from infra.errors import ConfigError
from tests.dashboard.made import BEACON, write_run
from tests.dashboard.made_more import add_config, add_evaluations, add_experts

NO_TAGS = {"script", "iframe", "object", "embed", "img", "link", "form", "base", "foreignobject", "image", "use"}


class Reader(HTMLParser):
    """Tags with attributes, and the text, of a page."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def zero(runs: Path) -> Path:
    folder = write_run(runs / "zero", steps=40, samples=(40,))
    add_evaluations(folder)
    add_experts(folder)
    add_config(folder)
    return folder


def test_page_holds_charts_tables_and_answers_and_nothing_of_a_strangers_runs(
    zero: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "page.html"
    report_page.write(compose("report", ["run=zero", f"out={out}", "samples=8"]))
    assert str(out) in capsys.readouterr().out
    page = out.read_text()
    read = Reader(page)
    tags = {tag for tag, _ in read.tags}
    assert not tags & NO_TAGS
    attributes = [(name, value or "") for _, attrs in read.tags for name, value in attrs.items()]
    assert not any(name.startswith("on") for name, _ in attributes)
    assert not any("://" in value for name, value in attributes if not name.startswith("xmlns"))
    assert not re.search(r"url\((?!#)", page) and "@import" not in page
    ids = [attrs["id"] for _, attrs in read.tags if "id" in attrs]
    assert len(ids) == len(set(ids)) > 0  # each picture's clipping is its own
    policy = next(attrs["content"] for tag, attrs in read.tags if tag == "meta" and "http-equiv" in attrs)
    assert "default-src 'none'" in policy and "script" not in policy

    assert sum(tag == "svg" for tag, _ in read.tags) >= 8
    assert BEACON in read.text and "<script>document.title='owned'</script>" in read.text
    assert "\x1b" not in page and "\u202e" not in page and "\\u202e" in read.text
    assert "0.4 [0.350, 0.450] at step 40" in read.text
    assert "Uneven load by layer" in read.text and "model.hidden_size" in read.text
    assert "a self-check looked at one result and the final answer is another" in read.text
    assert "8 of the 8 answers of step 40 (held-out), drawn by chance with seed 0" in read.text


def test_a_folder_outside_of_the_store_can_be_named_and_a_wrong_name_is_refused(runs: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "elsewhere" / "mine", steps=3, samples=())
    with pytest.raises(ConfigError, match=r"report.run=nowhere: is neither"):
        report_page.find("nowhere")
    with pytest.raises(ConfigError, match="no run is given"):
        report_page.find("")
    assert [run.key for run in report_page.find(str(tmp_path / "elsewhere" / "mine"))] == ["mine"]


def test_a_run_of_nothing_is_a_page_too(runs: Path) -> None:
    folder = write_run(runs / "bare", steps=0, samples=())
    (folder / "metrics.jsonl").write_bytes(b"\xff\xfe half a li")
    (folder / "samples").mkdir()
    (folder / "samples" / "step_000001.parquet").write_bytes(b"PAR1")
    page = report_page.page(report_page.find("bare"))
    assert "Nothing was measured on held-out questions" in page and "can&#x27;t be read" in page
