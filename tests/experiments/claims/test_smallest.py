"""Each claim's smallest run: every arm by its own command, then the table. One seed gives no verdict to look at."""

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from experiments.claims import run as running
from experiments.claims import table
from experiments.claims.arms import listed, runs_of
from experiments.claims.claim import load_all, load_scale
from infra.tracking import PROJECT
from tests import gloo

CLAIMS = load_all()
SMALL = [
    "pretrain.tokens=3000", "pretrain.batch_tokens=1000", "pretrain.tokenizer_documents=200",
    "pretrain.evaluate_documents=2", "pretrain.evaluate_every=2",
    "rl.steps=2", "rl.questions_per_step=2", "rl.group_size=2", "rl.minibatches=1", "rl.evaluate_every=1",
    "rl.questions.pool=4", "evaluate.curve_questions=2", "evaluate.curve_samples=1",
    "evaluate.questions=2", "evaluate.samples=2", "sampling.max_response_tokens=32",
    "cold_start.examples=12", "sft.epochs=1", "sft.evaluate_rows=4", "dpo.pairs_per_step=2",
    "reward_model.made_pairs=64", "reward_model.pairs_per_step=16",
    "rejection.questions=24", "rejection.samples=4", "rejection.general_questions=8", "dpo.held_out=0.3",
    "long2short.questions=48", "long2short.samples=4", "long2short.response_tokens=24",
    "parallel.nproc=1",
]  # fmt: skip
SAMPLED = {
    "long2short": ["sampling.max_response_tokens=128"],
    "rejection": ["sampling.max_response_tokens=128", "cold_start.examples=400", "sft.epochs=3"],
}
"What sets of right answers, in the right format, cannot do without."


def command(argv: list[str]) -> tuple[int, str, str]:
    """One of `r1`, or the decoding of C10, as a process of its own does it; -> status, what it printed and said."""
    from experiments.claims import decode
    from infra import cli
    from infra.files import write_json

    out, said = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(said):
        if argv[0] == "r1":
            return cli.main(argv[1:]) or 0, out.getvalue(), said.getvalue()
        decode.QUESTIONS, decode.ROUNDS, decode.TOKENS = 1, 1, 8
        write_json(Path(argv[3]), decode.measure(Path(argv[2]), int(argv[4].removeprefix("seed="))))
    return 0, "", ""


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("claims")
    return folder / "runs", folder / "results"


@pytest.mark.parametrize("name", CLAIMS)
def test_the_smallest_run_passes_through(name: str, folders: tuple[Path, Path], monkeypatch: Any) -> None:
    def call(argv: list[str], log: Path) -> str:
        status, out, said = gloo.run(command, argv, ranks=1)[0]
        log.write_text(said)
        if status:
            raise running.Failed(said)
        return out

    monkeypatch.setattr(running, "_call", call)
    monkeypatch.chdir(PROJECT)
    claim, scale = CLAIMS[name], load_scale("tiny")
    more = [item for arm in claim.arms.values() for item in SAMPLED.get(arm.command, ())]
    runs = runs_of(claim, "tiny", scale, "", [*SMALL, *dict.fromkeys(more)])
    assert running.run_all(listed(list(runs.values()), [0]), *folders) == {}
    row = table.entry(claim, runs, folders[1], "tiny", "")
    numbers = [value for rule in row["rules"] for value in rule["values"].values()]
    assert numbers and row["verdict"] in ("inconclusive", "reproduced", "not reproduced")
