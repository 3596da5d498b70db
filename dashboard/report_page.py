"""`r1 report`: runs as one HTML page that needs nothing else: charts as SVG, tables, samples; no script, no network.

Whatever a model or a stranger wrote is escaped, and the page's own policy forbids scripts, frames and all requests, so
that a slip in the escaping would show and not run.
"""

import hashlib
import os
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Protocol

import pandas as pd
from streamlit import logger

from infra.errors import ConfigError, R1Error
from infra.files import write_text
from infra.report_config import ReportConfig

logger.set_log_level("ERROR")  # or it would warn that no server runs

from dashboard import answer_cards, charts, experts, export, figures, more_charts, rates, store  # noqa: E402
from dashboard.answer_filter import Filter  # noqa: E402
from dashboard.config_diff import flat  # noqa: E402
from dashboard.points import held_out  # noqa: E402
from dashboard.shown import STYLE, code_of  # noqa: E402
from rl.aha import MEANING, RULES  # noqa: E402

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
LAYERS = 4
"Layers whose experts are drawn, the first ones."
_CSS = """<style>
body {font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 1180px; margin: 2rem auto;
  padding: 0 1rem}
h1 {font-size: 1.6rem} h2 {font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd}
table {border-collapse: collapse; font-size: .85rem; margin: .8rem 0; display: block; overflow-x: auto}
td, th {border: 1px solid #ddd; padding: .25rem .6rem; text-align: left; overflow-wrap: break-word; max-width: 34rem;
  vertical-align: top}
.charts {display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); gap: 1rem}
.charts svg {max-width: 100%; height: auto} p.note {color: #555; font-size: .85rem}
@media print {.r1-text {max-height: none} details {display: none}}
</style>"""


class HasReport(Protocol):
    """What is read of all settings, whose own module would bring torch."""

    report: ReportConfig


def write(cfg: HasReport) -> None:
    """`r1 report`. Raises ConfigError for a run that is not there, R1Error for a file that cannot be written."""
    runs = find(cfg.report.run)
    out = Path(cfg.report.out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, page(runs, samples=cfg.report.samples))
    except OSError as error:
        raise R1Error(f"report.out={out}: {error.strerror}; choose another file") from None
    print(f"{out}  {out.stat().st_size / 1024:,.0f} KiB, of {', '.join(run.key for run in runs)}")


def find(named: str) -> list[store.Run]:
    """The runs named: a folder each, or a name in the store. Raises ConfigError."""
    if not named:
        raise ConfigError("report.run", "''", "no run is given", "set run=reproduce/zero, or a run's folder")
    runs = []
    for name in filter(None, map(str.strip, named.split(","))):
        folder, known = Path(name), store.known().runs
        if name in known:
            runs.append(known[name])
        elif any((folder / file).is_file() for file in ("run.json", "metrics.jsonl")):
            os.environ["R1_RUNS"] = str(folder.resolve().parent)  # the store that it is read from
            runs.append(store.known().runs[folder.resolve().name])
        else:
            some = ", ".join(list(known)[:5]) or "none"
            problem = f"is neither a run's folder nor a run of {store.root()}"
            raise ConfigError("report.run", name, problem, f"give a folder with a run.json (known: {some})")
    return runs


def page(runs: Sequence[store.Run], *, samples: int = 8) -> str:
    """The whole page. The first run is the one whose answers are shown."""
    read = store.metrics_of(runs)
    frames = {key: found.frame for key, found in read.items()}
    names = sorted({name for found in read.values() for name in found.names})
    title = f"Report: {', '.join(run.key for run in runs)}"
    parts = [
        f"<h1>{text(title)}</h1>",
        facts(runs, frames),
        *(f'<p class="note">{text(found.problem)}</p>' for found in read.values() if found.problem),
        "<h2>Held-out questions</h2>",
        held_out_table(frames, names),
        *drawn(frames, names),
        *expert_maps(runs[0]),
        *aha(runs[0]),
        *answers(runs[0], samples),
        *configs(runs),
        f'<p class="note">Made by <code>r1 report</code> on {datetime.now():%Y-%m-%d %H:%M}. “-” is what was not '
        "measured.</p>",
    ]
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title>{_CSS}{STYLE}</head>"
    )
    return f"{head}<body>{''.join(parts)}</body></html>\n"


def text(value: object) -> str:
    """Anything as text of the page; "-" for nothing, codes for what does not print."""
    if value is None or value == "" or (isinstance(value, float) and pd.isna(value)):
        return "-"
    return escape("".join(c if c.isprintable() else code_of(c) for c in str(value)[:2000]))


def table(rows: Iterable[Sequence[object]], head: Sequence[str]) -> str:
    """Rows of anything, all escaped."""
    top = "".join(f"<th>{text(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def facts(runs: Sequence[store.Run], frames: dict[str, pd.DataFrame]) -> str:
    """A line a run."""
    rows = []
    for run in runs:
        frame = frames[run.key]
        started = datetime.fromtimestamp(run.started).strftime("%Y-%m-%d %H:%M") if run.started else None
        steps = f"{frame['step'].iloc[-1]:,.0f}" if len(frame) else None
        rows.append((run.key, run.status, run.stage, run.scale, run.task, run.seed, steps, run.commit, started))
    return table(rows, ("run", "status", "stage", "scale", "task", "seed", "steps", "commit", "started"))


def held_out_table(frames: dict[str, pd.DataFrame], names: list[str]) -> str:
    """First and last of what was measured on held-out questions, with intervals."""
    metrics = [m for m, _ in held_out(names, r"pass_at_\d+|majority_at_\d+")]
    metrics += [n for n in names if n.startswith("eval/") and n.count("/") == 1 and not n.endswith(("_low", "_high"))]
    rows = []
    for key, frame in frames.items():
        for metric in metrics:
            if metric in frame and (values := frame.dropna(subset=[metric])) is not None and len(values):
                rows.append((key, metric, *(measured(values.iloc[i], metric) for i in (0, -1))))
    if not rows:
        return '<p class="note">Nothing was measured on held-out questions.</p>'
    return table(rows, ("run", "metric", "first", "last"))


def measured(row: pd.Series, metric: str) -> str:
    """0.412 [0.35, 0.47] at step 40."""
    low, high = row.get(f"{metric}_low"), row.get(f"{metric}_high")
    interval = (
        f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None and not pd.isna([low, high]).any() else ""
    )
    return f"{row[metric]:.4g}{interval} at step {row['step']:,.0f}"


def drawn(frames: dict[str, pd.DataFrame], names: list[str]) -> Iterator[str]:
    """The charts of the page Curves, each once."""
    seen: set[str] = set()
    for part, wanted in figures.by_part(names).items():
        own = [figure for figure in wanted if figure.title not in seen]
        seen |= {figure.title for figure in own}
        made = [
            charts.intervals(frames, figure)
            if figure.title == figures.PASS_AT_1
            else charts.curves(frames, figure, window=5)
            for figure in own
        ]
        if any(chart is not None for chart in made):
            yield f"<h2>{text(part)}</h2>{svgs(made)}"


def svgs(made: Iterable[charts.Chart | None]) -> str:
    """Charts side by side; the pictures' own texts are escaped by Vega."""
    pictures = [own_ids(export.made(chart, "SVG").decode(), chart.title) for chart in made if chart is not None]
    return f'<div class="charts">{"".join(f"<div>{picture}</div>" for picture in pictures)}</div>'


def own_ids(svg: str, title: str) -> str:
    """The picture with ids that no other one on the page has: each calls its first clipping clip0."""
    own = hashlib.sha256(title.encode()).hexdigest()[:10]
    return re.sub(r'(\bid="|url\(#)(?=[\w-]+["\)])', rf"\g<1>i{own}-", svg)


def expert_maps(run: store.Run) -> Iterator[str]:
    """Load of the experts by layer, where it was kept."""
    layers, _ = experts.read(run)
    if layers:
        made = [more_charts.violation_map(experts.violations(layers)[["step", "layer", "maxvio"]])]
        made += [more_charts.load_map(experts.cells(layers[name]), name) for name in list(layers)[:LAYERS]]
        more = f", the first {LAYERS} of {len(layers)} layers" if len(layers) > LAYERS else ""
        yield f"<h2>Experts of {text(run.key)}{more}</h2>{svgs(made)}"


def aha(run: store.Run) -> Iterator[str]:
    """The rules of rl/aha.py against the start's own rates, on held-out questions."""
    files = store.sample_files(run, "held-out") or store.sample_files(run, "training")
    judged = {}
    for step in answer_cards.spread(list(files), 40):
        try:
            judged[step] = rates.judged(files[step])
        except store.Unreadable:
            yield f'<p class="note">{text(files[step].name)} can\'t be read and is left out.</p>'
    judged = {step: frame for step, frame in judged.items() if len(frame)}
    if not judged:
        return
    start, last = judged.get(0), max(judged)
    rows, base = [], {}
    for rule in RULES:
        now, was = rates.rate(judged[last], rule), rates.rate(start, rule) if start is not None else None
        if was:
            base[rule] = (was.share, was.low, was.high)
        so = rates.compared(now, was) if was and now else None
        share = f"{now.right_share:.1%}" if now.right_share is not None else None
        rows.append((rule, MEANING[rule], rates.told(was), rates.told(now), so, share))
    head = ("rule", "met when", "start (step 0)", f"step {last}", "so", "of these ended right")
    through = rates.through_training(judged)
    yield "<h2>Aha moments, counted by fixed rules</h2>" + table(rows, head)
    if len(judged) > 1:
        yield svgs(more_charts.rate_against_base(through, base, rule) for rule in RULES)


def answers(run: store.Run, count: int) -> Iterator[str]:
    """Answers drawn by chance from the last held-out step, or the last training step."""
    kind = next((kind for kind in ("held-out", "training") if store.sample_files(run, kind)), None)
    if kind is None or count == 0:
        return
    step, path = list(store.sample_files(run, kind).items())[-1]
    try:
        found = store.samples(path)
    except store.Unreadable as error:
        yield f'<p class="note">{text(error)}</p>'
        return
    picked = random.Random(0).sample(range(len(found)), min(count, len(found)))
    yield f"<h2>Answers of {text(run.key)}</h2>"
    yield (
        f'<p class="note">{len(picked)} of the {len(found):,} answers of step {step} ({text(kind)}), drawn by chance '
        "with seed 0. Marked: self-check words.</p>"
    )
    parts = answer_cards.parts_of(found)
    cards = [
        answer_cards.answer_card(answer, parts, Filter(), head=[str(answer["prompt"] or "-")[-300:]])
        for answer in found.iloc[picked].to_dict("records")
    ]
    yield f'<div class="r1-group">{"".join(cards)}</div>'


def configs(runs: Sequence[store.Run]) -> Iterator[str]:
    """Every setting of every run; folded away, and left out of print."""
    for run in runs:
        if run.config:
            rows = sorted(flat(run.config).items())
            yield f"<h2>Settings of {text(run.key)}</h2><details><summary>{len(rows)} settings</summary>"
            yield table(rows, ("key", "value")) + "</details>"
