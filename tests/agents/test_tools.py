"""What agents look things up with: SQL that only reads, and a search over passages."""

import sqlite3
import time

import pytest

from agents import sql
from agents.corpus import Passage, passages
from agents.questions import Sort, is_right, questions
from agents.retrieval import Index
from rl.sandbox.session import ToolError
from training.data import facts


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return sql.make_database(tmp_path_factory.mktemp("a b?c#d") / "world.db")


def test_a_select_is_answered_and_cut(database):
    country, relation, value = facts.facts()[0]
    found = sql.query(database, f"SELECT {relation} FROM countries WHERE name = '{country}'")
    assert (found.columns, found.rows, found.more) == ((relation,), [(value,)], False)
    many = sql.query(database, "select * from visits", max_rows=3)
    assert len(many.rows) == 3 and many.more and str(many).endswith("[more rows]")


WRITES = [
    "INSERT INTO visits VALUES ('x', 1, 1)",
    "UPDATE visits SET year = 1",
    "DELETE FROM visits",
    "REPLACE INTO visits VALUES ('x', 1, 1)",
    "DROP TABLE visits",
    "CREATE TABLE t (a)",
    "CREATE TEMP TABLE t (a)",
    "ALTER TABLE visits RENAME TO v",
    "WITH a AS (SELECT 1) DELETE FROM visits",
    "PRAGMA query_only = 0",
    "PRAGMA writable_schema = 1",
    "ATTACH DATABASE 'other.db' AS o",
    "VACUUM INTO 'copy.db'",
    "BEGIN",
    "REINDEX",
    "ANALYZE",
    "SELECT 1; DELETE FROM visits",
    "SELECT load_extension('x')",
    "SELECT writefile('x', 'y')",
    "SELECT readfile('/etc/passwd')",
    "SELECT zeroblob(900000000)",
    "SELECT printf('%900000000d', 1)",
    "EXPLAIN DELETE FROM visits",
    "",
    "SELECT 1\0",
    "not SQL at all",
]


@pytest.mark.parametrize("text", WRITES)
def test_all_but_reading_is_refused_and_the_file_is_as_it_was(database, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = database.read_bytes()
    with pytest.raises(ToolError):
        sql.query(database, text)
    assert database.read_bytes() == before and not any(tmp_path.iterdir())


def test_the_authorizer_alone_would_do(database, monkeypatch):
    """With a file that may be written and a connection that is not told otherwise."""
    real = sqlite3.connect

    def writable(name: str, **given):
        return real(name.replace("mode=ro", "mode=rw"), **given)

    monkeypatch.setattr(sql.sqlite3, "connect", writable)
    before = database.read_bytes()
    for text in WRITES[:9]:
        with pytest.raises(ToolError, match="only reading is allowed"):
            sql.query(database, text)
    assert database.read_bytes() == before


def test_an_endless_query_is_ended(database):
    start = time.monotonic()
    for text in (
        "SELECT count(*) FROM visits a, visits b, visits c, visits d",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
    ):
        with pytest.raises(ToolError):
            sql.query(database, text, seconds=0.2)
    assert time.monotonic() - start < 20


def test_a_database_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(ToolError, match="unable to open"):
        sql.query(tmp_path / "none.db", "SELECT 1")
    assert not any(tmp_path.iterdir())


def test_the_best_passage_is_found_by_its_rare_words():
    index = Index([Passage("a", "the cat and the dog"), Passage("b", "the the the"), Passage("c", "a dog, a dog")])
    assert [p.source for p in index.search("dog")] == ["c", "a"]
    assert [p.source for p in index.search("The CAT!")][0] == "a" and index.search("zebra") == []
    assert Index([]).search("x") == []


def test_every_lookup_is_told_by_the_passage_that_is_found_for_it(database):
    found = passages()
    assert len(found) >= facts.COUNTRIES
    index = Index(found)
    for question in questions(8, seed=3):
        if question.sort is Sort.lookup:
            best = index.search(question.text)
            assert any(question.answer in passage.text for passage in best), question
        if question.sort is Sort.table and "all years" in question.text:
            country = question.text.split(" did ")[1].split(" have ")[0]
            said = sql.query(database, f"SELECT sum(visitors) FROM visits WHERE country = '{country}'")
            assert str(said.rows[0][0]) == question.answer
        elif question.sort is Sort.table:
            year = question.text[-5:-1]
            best = f"SELECT country FROM visits WHERE year = {year} ORDER BY visitors DESC LIMIT 1"
            assert sql.query(database, best).rows == [(question.answer,)]
    assert questions(2, 0) == questions(2, 0) != questions(2, 1)


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("1,234.0", "1234", True),
        ("**Bamiro**.", "bamiro", True),
        ("12", "1", False),
        ("it is Bamiro", "Bamiro", False),
        ("nan", "nan ", True),
        ("", "5", False),
        ("9" * 400, "5", False),
    ],
)
def test_scores_are_strict(answer, expected, right):
    assert is_right(answer, expected) is right
