"""The stream of documents: what it gives, and that a resume goes on at the very document."""

import json
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import CheckpointError, ConfigError
from training.data.corpus import CorpusConfig, documents
from training.data.stream import CHUNK, DocumentStream

EOS = 1
SEED = 3


def encode(texts: list[str]) -> list[list[int]]:
    """A token for each character: nothing of a text is lost."""
    return [[ord(c) for c in text] for text in texts]


def stream(seed: int = SEED, *, max_document_tokens: int = 10_000, **kwargs) -> DocumentStream:
    return DocumentStream(encode, CorpusConfig(), seed, eos_id=EOS, max_document_tokens=max_document_tokens, **kwargs)


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    texts = islice(documents(CorpusConfig(), SEED), 12 * CHUNK)
    return [[*ids, EOS] for ids in encode(list(texts))]


def test_stream_gives_the_documents_of_the_corpus_in_order_with_their_end(expected):
    reading = stream()
    assert [reading.next_document() for _ in range(3 * CHUNK + 5)] == expected[: 3 * CHUNK + 5]


@settings(max_examples=60, deadline=None)
@given(before=st.integers(0, 3 * CHUNK), elsewhere=st.integers(0, CHUNK))
def test_resume_at_any_position_gives_what_would_have_come(expected, before, elsewhere):
    first = stream()
    for _ in range(before):
        first.next_document()
    state = json.loads(json.dumps(first.state_dict()))
    resumed = stream()
    for _ in range(elsewhere):  # what it has encoded ahead belongs to another place
        resumed.next_document()
    resumed.load_state_dict(state)
    assert resumed.next_document() == first.next_document() == expected[before]
    assert resumed.next_batch(3000) == first.next_batch(3000)
    assert resumed.state_dict() == first.state_dict()
    assert stream(start=before).next_document() == expected[before]


@pytest.mark.parametrize("labels", [1, 500, 15_000])
def test_batch_ends_with_the_document_that_makes_it_full(expected, labels):
    reading, at = stream(), 0
    for _ in range(3):
        batch = reading.next_batch(labels)
        assert batch == expected[at : at + len(batch)]
        counts = [len(ids) - 1 for ids in batch]
        assert sum(counts) >= labels > sum(counts[:-1])
        at += len(batch)
    assert reading.state_dict()["position"] == at


def test_batch_of_exactly_as_many_labels_takes_no_document_more(expected):
    labels = len(expected[0]) - 1 + len(expected[1]) - 1
    assert stream().next_batch(labels) == expected[:2]


def test_batches_do_not_depend_on_how_they_were_cut_before(expected):
    """Position counts documents, so a run may change its batch size at a resume and still see each once."""
    reading = stream()
    read = reading.next_batch(700) + reading.next_batch(5000) + reading.next_batch(1)
    assert read == expected[: len(read)]


@settings(max_examples=30, deadline=None)
@given(tokens=st.integers(1, 900), before=st.integers(0, 9))
def test_rows_are_the_corpus_end_to_end_and_a_resume_goes_on_inside_a_document(expected, tokens, before):
    whole = [token for ids in expected for token in ids]
    first = stream()
    read = [token for row in first.next_rows(before, tokens) for token in row]
    resumed = stream()
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    rows = resumed.next_rows(3, tokens)
    assert rows == first.next_rows(3, tokens) and [len(row) for row in rows] == [tokens + 1] * 3
    read += [token for row in rows for token in row]
    assert read == whole[: len(read)]


def test_another_seed_is_refused_by_a_resume():
    with pytest.raises(CheckpointError, match="seed 3.*with 4.*run.seed=3"):
        stream(4).load_state_dict(stream(3).state_dict())


def test_document_too_long_for_the_model_is_an_error_that_skips_nothing(expected):
    limit = len(expected[0])
    long = next(i for i, ids in enumerate(expected) if len(ids) > limit)
    reading = stream(max_document_tokens=limit)
    assert [reading.next_document() for _ in range(long)] == expected[:long]
    for _ in range(2):
        with pytest.raises(ConfigError, match=f"document {long} has {len(expected[long])} tokens"):
            reading.next_document()
    reading.max_document_tokens = 10_000
    assert reading.next_document() == expected[long]
