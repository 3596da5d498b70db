"""The README says what is: its commands compose, its targets and files exist."""

import re
from pathlib import Path

import pytest

from experiments import report
from experiments.config import compose
from infra.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()
CODE = [line.strip().partition("#")[0].strip() for line in TEXT.splitlines() if line.startswith("    ")]
R1 = [line.partition("bin/r1 ")[2] for line in CODE if "bin/r1 " in line]


def test_there_is_something_to_check():
    assert len(R1) >= 5 and sum(line.startswith("make ") for line in CODE) >= 6


@pytest.mark.parametrize("line", R1)
def test_r1_commands_compose(line):
    words = re.findall(r'(?:[^\s"]|"[^"]*")+', line)
    assert words[0] in COMMANDS
    if words[0] not in ("doctor", "sync"):
        verbs = COMMANDS[words[0]].verbs
        # A cluster's folders are not here, and neither are models from elsewhere.
        elsewhere = ("checkpoint=/", "model=hf:")
        here = [w.replace('"', "'") for w in words[1:] if w not in verbs and not any(e in w for e in elsewhere)]
        compose(words[0], here, ready=False)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for line in CODE:
        if line.startswith("make "):
            assert re.search(rf"^[\w ]*\b{line.split()[1]}\b[\w ]*:", makefile, re.M), line


def test_every_command_is_in_the_table():
    assert set(re.findall(r"^\| `r1 (\w+)` \|", TEXT, re.M)) == set(COMMANDS)


def test_results_are_those_of_the_committed_runs():
    assert report.START in TEXT and report.written(TEXT) == TEXT


def test_files_named_are_there():
    tracked = re.findall(r"`((?:modeling|training|rl|experiments|infra|dashboard|tests)/[\w./]*)", TEXT)
    linked = re.findall(r"\]\(([\w./]+)\)", TEXT)
    assert tracked and linked
    for name in {*tracked, *linked}:
        assert (ROOT / name).exists(), name
