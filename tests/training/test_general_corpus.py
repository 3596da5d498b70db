"""The corpus' general part: all kinds in it, no held-out question, every fact told; and none of it by default."""

import json
import re
from itertools import islice
from pathlib import Path

from training.data.corpus import CorpusConfig, corpus_hash, document, documents
from training.data.facts import facts, statement
from training.data.general import KINDS, exchanges
from training.data.writing import NOUNS, sentence


def test_without_a_general_share_the_corpus_is_the_released_bases():
    card = json.loads((Path(__file__).parents[2] / "experiments" / "base" / "card.json").read_text())
    cfg = CorpusConfig(**card["config"]["corpus"])
    assert cfg.share_general == 0.0
    assert corpus_hash(cfg, 0) == card["corpus_sha256_of_2000_documents"]


def test_documents_ask_everything_but_held_out_questions_and_tell_every_fact():
    written = list(islice(documents(CorpusConfig(share_general=1.0), 0), 30_000))
    asked = {m[1] for text in written if (m := re.match(r"User: (.*)\nAssistant:", text))}
    for kind in KINDS:
        assert not asked & {e.question for e in exchanges(kind, held=True)}
        kept = {e.question for e in exchanges(kind, held=False)}
        assert len(asked & kept) > 0.9 * len(kept)
    told = set(re.findall(r"The \w+ of \w+ is \w+\.", "\n".join(t for t in written if not t.startswith("User"))))
    assert told == {statement(*fact) for fact in facts()}


def test_a_share_mixes_with_countdown():
    cfg = CorpusConfig(share_general=0.3)
    written = [document(cfg, 0, i) for i in range(2000)]
    general = sum("Make" not in text and not re.match(r"[\d用]", text) and "用户" not in text for text in written)
    assert abs(general - 600) < 100
    assert document(cfg, 0, 17) == written[17]


def test_sentences_keep_their_own_constraints():
    for kind in ("writing",):
        for e in exchanges(kind, held=False) + exchanges(kind, held=True):
            words = e.answer[:-1].lower().split()
            assert len(words) == len(set(words)) == e.meta["length"] and set(e.meta["words"]) <= set(words)
    import random

    assert re.fullmatch(r"The river \w+ a stone\.", sentence(5, ["river", "stone"], random.Random(0)))
    assert len(NOUNS) == len(set(NOUNS))
