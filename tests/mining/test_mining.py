"""Mining: what is found in an opinion and what is dropped, how questions are made of it, and that no test question's
words stand in them."""

import gzip
import json
import lzma
import os
import pickle
import random
import re
import subprocess
import sys
import textwrap
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import CASEHOLD, ROOT, opinions, rows, run_main, run_python, write_jsonl
from sklearn.feature_extraction.text import TfidfVectorizer

from lib.errors import InputError
from lib.mining import likeness
from lib.mining.corpus import load_corpus, word_counts
from lib.mining.distractors import Mined, questions, split_by_opinion
from lib.mining.holdings import candidate_form
from lib.mining.opinions import clean, count_words
from lib.mining.overlap import held_out_ngrams, ngrams_of, shares_ngram, word_ngrams
from lib.mining.parentheticals import THAT_VERBS, Holding, holdings_and_problems
from lib.mining.parentheticals import VERBS as HOLDING_VERBS
from lib.mining.propositions import propositions
from lib.mining.sources import read_opinions
from lib.questions.data import load_split

sys.path.insert(0, str(ROOT / "tools"))
import mine_holdings  # noqa: E402

CASELAW = CASEHOLD.parent / "caselaw"
needs_opinions = pytest.mark.skipif(
    not (CASELAW.is_dir() and CASEHOLD.is_dir()), reason="real opinions or CaseHOLD are not here (../shared)"
)
FILLER = (
    "The parties agree on the facts and part ways over what follows from them. We review such a question anew, giving "
    "no weight to the answer of the court below, and we read the contract as a whole. Neither side has shown that the "
    "clause was meant to reach beyond the term for which it was made, and the record holds nothing to the contrary. "
)
HELD = "holding that the carrier's duty ends with delivery"
CITED = "See Doe v. Roe, 12 F.3d 34, 36 (1st Cir. 1993)"


def found(text: str):
    return holdings_and_problems(clean(text, count_words(text)))


def test_the_holding_is_masked_and_written_as_casehold_writes_it():
    holdings, problems = found(f"{FILLER}{CITED} ({HELD}). We agree with that reading, and so affirm.")
    assert problems == []
    assert holdings[0].text == "holding that the carriers duty ends with delivery"
    assert holdings[0].passage == f"{FILLER}{CITED} (<HOLDING>). We agree with that reading, and so".split(" ", 1)[1]


@pytest.mark.parametrize(
    "cited",
    [
        "See Doe, 12 F.3d at 36",
        "See id. at 36",
        "See Doe v. Roe, 12 F.3d 34 (1st Cir.)",
        "See Doe v. Roe, 12 F.3d 34, 36 n.2 (1st Cir. 1993) (per curiam)",
        "See In re Doe, 404 Mass. 471, 473, 536 N.E.2d 325, 327 (1989)",
        "See Doe v. Roe, 544 F. 3d 263 (CA5 2009)",
    ],
)
def test_short_forms_and_parallel_citations_are_citations(cited):
    holdings, problems = found(
        f"{FILLER}In Poe v. Moe, 1 U.S. 2 (1800), that was left open. {cited} ({HELD}). And so on."
    )
    assert len(holdings) == 1 and problems == []


@pytest.mark.parametrize(
    "text, reason",
    [
        (f"{FILLER}As we said ({HELD}).", "no citation of a case"),
        (f"{FILLER}See 18 U.S.C. § 371 ({HELD}).", "no citation of a case"),
        (f"{FILLER}{CITED} (Poe, J., dissenting) ({HELD}).", "separate opinion"),
        (f"{FILLER}See supra, at 3 ({HELD}).", "refers to the opinion itself"),
        (f"{FILLER}Poe v. Moe, 1 U.S. 2 (1800). Id. at 3 ({HELD.replace('holding', 'noting')}).", "something else"),
        (f"{FILLER}{CITED} (holding the clause void).", "shorter than 6 words"),
        (f"{FILLER}{CITED} ({HELD} {'and delivery again ' * 30}here).", "longer than 72 words"),
        (f"{FILLER}{CITED} ({HELD} " + "and on it goes " * 90, "does not close"),
        (f"{FILLER}{CITED} (holding that the carrier's duty\n-12-\nends with delivery).", "a page ends in it"),
        (f"{FILLER}{CITED} (holding that under Poe, 1 U.S. 2, the duty ends there).", "holds a citation"),
        (f'{FILLER}{CITED} (holding that the "duty ends with delivery of the goods).', "lacks its partner"),
        (f"{FILLER}{CITED} (holding that the duty ends with delivery of the).", "missing in it"),
        (f"See Doe v. Roe, 12 F.3d 34, 36 (1st Cir. 1993) ({HELD}).", "characters of the page"),
        (f"{FILLER}\n-3-\n{CITED} ({HELD}).", "characters of the page"),
        (f"{FILLER}The court (as it had said. {CITED} ({HELD}).", "bracket before it"),
        (f"{FILLER}Of the goods 7 We need not say. {CITED} ({HELD}).", "footnote"),
        (f"{FILLER}Poe v. Moe, 1 U.S. 2 (1800). That is why, reject Roe, 12 F.3d 34 ({HELD}).", "part of a citation"),
        (f"{FILLER}The carrier's duty ends with delivery there. {CITED} ({HELD}).", "stands in the passage too"),
        (f"{FILLER}{'so it would create a F. 2d 608, 610. ' * 3}{CITED} ({HELD}).", "lines are lost"),
    ],
)
def test_what_is_broken_is_dropped_with_its_reason(text, reason):
    holdings, problems = found(text)
    assert holdings == [] and len(problems) == 1 and reason in problems[0]


def test_notes_on_quoting_are_no_part_of_a_holding():
    holdings, _ = found(
        f"{FILLER}{CITED} ({HELD} (internal quotation marks omitted) (citing Poe, 1 U.S. 2 (1800))). Yes."
    )
    assert [holding.text for holding in holdings] == [candidate_form(HELD)]


STATED = "A carrier's duty toward its passengers ends with the delivery of their baggage"


def test_a_proposition_is_the_sentence_that_a_citation_follows():
    [proposition] = propositions(f"{FILLER}{STATED}. {CITED}. The court below saw it so, and we agree with it.")
    assert (
        proposition.text == "holding that a carriers duty toward its passengers ends with the delivery of their baggage"
    )
    tail = f"<HOLDING> {CITED}. The court below saw it so, and we agree with"
    assert proposition.passage == f"{FILLER}{tail}".split(" ", 1)[1]


@pytest.mark.parametrize(
    "text",
    [
        f"{FILLER}{STATED}. The court below saw it so. {CITED}.",  # another sentence stands between
        f"{FILLER}{STATED}, 9 U.S. 8. {CITED}.",  # it holds a citation
        f"{FILLER}{STATED} and. {CITED}.",  # its end is lost
        f"{FILLER}{STATED}. {STATED}. {CITED}.",  # it stands in the passage too
        f"Too short. {STATED}. {CITED}.",
        f"{FILLER}{STATED}. See the record below, which nobody disputes.",  # nothing is cited
        f"{FILLER}However, a carrier's duty toward its passengers ends with their baggage. {CITED}.",  # it leans
        f"{FILLER}First, a carrier's duty toward its passengers ends with their baggage. {CITED}.",
        f"{FILLER}II {STATED}. {CITED}.",  # a heading stands before it
        f"{FILLER}So it was in Miller v. Johnson and its carrier have duties that end with the baggage. {CITED}.",
    ],
)
def test_what_is_no_proposition_or_a_broken_one_is_left_out(text):
    assert propositions(f"{text} The court below saw it so, and we agree with it.") == []


def test_cleaning_makes_running_text_of_printed_pages():
    words = Counter(
        {"transaction": 9, "trans": 1, "plaintiff": 9, "plain": 3, "tiff": 2, "cannot": 9, "can": 9, "not": 9}
    )
    printed = (
        "1 The trans-\n2 action was one-\n3 sided. The plain tiff can not\n4 con\xad sent &amp; did not.\n5 It ended\n"
        "-7-\nthere.\n  12\nSo"
    )
    assert clean(printed, words) == (
        "The transaction was one-sided. The plaintiff can not consent & did not. It ended \f there. \f So"
    )


def test_a_word_of_a_million_letters_takes_no_longer_than_other_text():
    word = "a" * 1_000_000
    assert count_words(f"{word}-\nb c") == {"c": 1}
    assert clean(f"{word} {word}", count_words(f"{word} {word}")) == f"{word} {word}"


def test_every_form_of_file_gives_the_same_opinions(tmp_path):
    texts = ["The first opinion.\nIts second line.", "The second, with § 7."]
    lines = "".join(json.dumps({"court": "x", "text": text}) + "\n" for text in texts).encode()
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "b.jsonl.xz").write_bytes(lzma.compress(lines))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines))
    for number, text in enumerate(texts):
        (tmp_path / "d").mkdir(exist_ok=True)
        (tmp_path / "d" / f"{number}.txt.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("a.jsonl", "b.jsonl.xz", "c.jsonl.gz", "d"):
        assert [opinion.text for opinion in read_opinions([tmp_path / name])] == texts, name
    assert [opinion.text for opinion in read_opinions([tmp_path])] == texts * 4


def test_files_of_one_name_are_told_apart(tmp_path):
    for folder in ("a", "b/c"):
        write_jsonl(tmp_path / folder / "opinions.jsonl", [{"text": folder}])
    given = [tmp_path / "a", tmp_path / "b"]
    assert [opinion.source for opinion in read_opinions(given)] == ["a/opinions.jsonl:1", "b/c/opinions.jsonl:1"]
    assert [opinion.source for opinion in read_opinions(given[1:])] == ["opinions.jsonl:1"]


def test_files_without_an_opinion_are_named(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(InputError, match=r"empty.jsonl: holds no opinion"):
        word_counts([tmp_path / "empty.jsonl"], 1)


def test_the_bulk_forms_of_archives_give_the_same_opinions(tmp_path):
    """With the columns that the archives name; of the Caselaw Access Project as its own files nest them, and flat as on
    the hub; of CourtListener with markup where there is no plain text."""
    texts = ["Held for the plaintiff. See Doe v. Roe.", "We dissent & would reverse."]
    case = {"id": 1, "name": "Doe v. Roe", "decision_date": "1993-01-01", "court": {"name": "Ill."}}
    body = {"head_matter": "Doe v. Roe", "opinions": [{"type": "majority", "author": None, "text": texts[0]}]}
    api = {"status": "ok", "data": {**body, "opinions": [{"type": "dissent", "text": texts[1]}]}}
    cap = [{**case, "casebody": body}, {**case, "casebody": api}]
    write_jsonl(tmp_path / "cap.jsonl", cap)
    hub = [{"id": str(number), "source": "cap", "license": "cc0", "text": text} for number, text in enumerate(texts)]
    pq.write_table(pa.Table.from_pylist(hub), tmp_path / "hub.parquet")
    marked_up = "<div><p>We <em>dissent</em> &amp; would reverse.</p></div>"
    listener = [
        {"id": 7, "type": "020lead", "cluster_id": 9, "plain_text": texts[0], "html_with_citations": None},
        {"id": 8, "type": "040dissent", "cluster_id": 9, "plain_text": "", "html_with_citations": marked_up},
    ]
    pq.write_table(pa.Table.from_pylist(listener), tmp_path / "listener.parquet")
    write_jsonl(tmp_path / "listener.jsonl", listener)
    for name in ("cap.jsonl", "hub.parquet", "listener.parquet", "listener.jsonl"):
        found = list(read_opinions([tmp_path / name]))
        assert [" ".join(opinion.text.split()) for opinion in found] == texts, name
        assert [opinion.source for opinion in found] == [f"{name}:1", f"{name}:2"]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.jsonl", b'{"casebody": {"opinions": "x"}}\n', r"a.jsonl:1: field 'casebody.opinions': is not a list"),
        ("a.jsonl", b'{"casebody": {"opinions": [{}]}}\n', r"a.jsonl:1: field 'casebody.opinions.text': is missing"),
        ("a.parquet", b"text", r"a.parquet: cannot be read"),
        ("a.jsonl", b'{"text": "x"}\n{"body": "y"}\n', r"a.jsonl:2: field 'text': is missing"),
        ("a.jsonl", b'{"text": 7}\n', r"a.jsonl:1: field 'text': 7 is not a string"),
        ("a.jsonl.xz", b"not xz at all", r"a.jsonl.xz: cannot be read"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n', mtime=0)[:-9], r"a.jsonl.gz: cannot be read"),
        ("a.txt", b"\xff", r"a.txt:1: byte 1 of the line is not UTF-8"),
        ("a.pdf", b"", r"a.pdf: opinions are read from"),
    ],
)
def test_a_bad_file_is_named_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(read_opinions([tmp_path / name]))


def test_shares_that_leave_nothing_are_a_bad_flag(capsys):
    with pytest.raises(SystemExit) as ended:
        mine_holdings.main(["none", "--validation-share", "0.7", "--test-share", "0.3", "--output", "none"])
    assert ended.value.code == 2 and "leave nothing to train on" in capsys.readouterr().err


def test_thirteen_shared_words_exclude_and_twelve_do_not(tmp_path):
    words = [f"w{number}" for number in range(40)]
    question = rows(1)[0] | {"context": f"{' '.join(words[:20])} (<HOLDING>).", "label": 0}
    question["endings"][0] = " ".join(words[20:])
    ngrams = held_out_ngrams([write_jsonl(tmp_path / "q.jsonl", [question])])
    assert shares_ngram(f"before, {', '.join(words[3:16])} after", ngrams)
    assert not shares_ngram(f"before {' '.join(words[3:15])} after", ngrams)
    assert shares_ngram(" ".join(words[14:27]), ngrams)  # half passage, half gold
    distractor = question["endings"][1] + " and then some more words, so that it has thirteen words or more"
    assert not shares_ngram(distractor, ngrams)


def test_ngrams_are_sent_to_processes_as_eight_bytes_each():
    texts = [opinion["text"] for opinion in opinions(20)]
    ngrams = ngrams_of(texts)
    assert len(ngrams) == len({ngram for text in texts for ngram in word_ngrams(text)}) > 5_000
    assert len(pickle.dumps(ngrams)) < 8 * len(ngrams) + 1_000
    assert all(shares_ngram(ngram, ngrams) for ngram in word_ngrams(texts[7]))


def test_a_corpus_is_held_once(tmp_path):
    text = " ".join(letter * 100 for letter in "abcdefgh" * 10)  # long words: what is measured is texts, not words
    size = 500 * len(text)
    source = write_jsonl(tmp_path / "opinions.jsonl", [{"text": f"{number} {text}"} for number in range(500)])
    tracemalloc.start()
    corpus = load_corpus([source], ngrams_of([]), 1)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(corpus.opinions) == 500 and size < held < 1.2 * size and peak < 1.5 * size


@pytest.fixture(scope="module")
def mined(tmp_path_factory) -> Path:
    """30 opinions; a 31st is left out for the words of a question."""
    folder = tmp_path_factory.mktemp("mined")
    source = write_jsonl(folder / "opinions.jsonl", opinions(31))
    question = rows(1)[0] | {"context": opinions(31)[30]["text"][:200]}
    excluded = write_jsonl(folder / "excluded.jsonl", [question])
    flags = ["--output", str(folder / "out"), "--exclude", str(excluded), "--workers", "1"]
    assert mine_holdings.main([str(source), *flags]) == 0
    return folder / "out"


def test_mined_questions_are_whole(mined):
    splits = {split: load_split(str(mined), split, strict=True) for split in ("train", "validation", "test")}
    golds = {q.endings[q.label]: q.fields["opinion"] for data in splits.values() for q in data.questions}
    assert len(golds) == 90
    seen = [{question.fields["opinion"] for question in data.questions} for data in splits.values()]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 30
    for split, data in splits.items():
        of_split = {question.endings[question.label] for question in data.questions}
        for question in data.questions:
            assert question.fields["context"].count("<HOLDING>") == 1
            others = set(question.endings) - {question.endings[question.label]}
            assert len(others) == 4 and others <= of_split, split
            assert question.fields["opinion"] not in {golds[other] for other in others}
    labels = Counter(question.label for question in splits["train"].questions)
    assert set(labels) == set(range(5))
    assert (mined / "report.md").read_text().count("### ") == 20


def test_mining_is_the_same_each_time_and_for_any_number_of_workers(mined, tmp_path):
    flags = [mined.parent / "opinions.jsonl", "--exclude", mined.parent / "excluded.jsonl"]
    two = [*flags, "--output", tmp_path / "two", "--workers", 2]
    assert mine_holdings.main(list(map(str, two))) == 0
    flags += ["--output", tmp_path / "seed", "--workers", "1", "--seed", "1"]
    assert mine_holdings.main(list(map(str, flags))) == 0
    for name in ("train.jsonl", "validation.jsonl", "test.jsonl", "report.md"):
        assert (tmp_path / "two" / name).read_bytes() == (mined / name).read_bytes()
        assert (tmp_path / "seed" / name).read_bytes() != (mined / name).read_bytes()


def test_propositions_join_the_training_split_alone(mined, tmp_path):
    source = tmp_path / "opinions.jsonl"
    rows_of = opinions(30)
    for number, row in enumerate(rows_of):
        own = " ".join("".join(random.Random(number).choices("klmnop", k=6)) for _ in range(60))
        row["text"] += f"{own} {own[::-1]}. {STATED} in case {chr(65 + number)}{own[:40]}. {CITED}. Yes, so.\n"
    write_jsonl(source, rows_of)
    output = tmp_path / "out"
    assert mine_holdings.main([str(source), "--propositions", "--output", str(output), "--workers", "1"]) == 0
    splits = {split: load_split(str(output), split, strict=True).questions for split in ("train", "validation", "test")}
    of = {split: {question.fields["opinion"] for question in questions} for split, questions in splits.items()}
    stated = [question for question in splits["train"] if question.id.startswith("proposition")]
    assert stated and not of["train"] & (of["validation"] | of["test"])
    assert not [
        question for split in ("validation", "test") for question in splits[split] if "proposition" in question.id
    ]
    assert f"further training questions, of propositions: {len(stated)}" in (output / "report.md").read_text()


def test_excluded_opinions_are_left_out_and_counted(mined, tmp_path, capsys):
    source = mined.parent / "opinions.jsonl"
    flags = ["--output", str(tmp_path / "out"), "--workers", "1", "--exclude", str(mined)]
    assert mine_holdings.main([str(source), *flags]) == 0
    held_out = {
        q.fields["opinion"] for split in ("validation", "test") for q in load_split(str(mined), split).questions
    }
    assert f"31 read, {len(held_out)} left out" in capsys.readouterr().out
    kept = {
        q.fields["opinion"]
        for split in ("train", "validation", "test")
        for q in load_split(str(tmp_path / "out"), split).questions
    }
    assert kept and not kept & held_out


def test_near_duplicates_never_meet(tmp_path):
    """Opinions in pairs, whose holdings are the same but for their last word."""
    made = opinions(12)
    for number, row in enumerate(made):
        generator = random.Random(number // 2)
        for part in range(3):
            said = " ".join("".join(generator.choices("klmnop", k=6)) for _ in range(8))
            row["text"] = re.sub(
                r"\(holding in [^)]*\)", f"(holding that {said} end{number % 2}{part})", row["text"], count=1
            )
    source = write_jsonl(tmp_path / "opinions.jsonl", made)
    shares = ["--test-share", "0", "--validation-share", "0"]
    mine_holdings.main([str(source), "--output", str(tmp_path / "out"), "--workers", "1", *shares])
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["report.md", "train.jsonl"]
    questions = load_split(str(tmp_path / "out"), "train").questions
    assert len(questions) == 36
    for question in questions:
        assert len({ending.rsplit(" ", 1)[0] for ending in question.endings}) == 5


def test_opinions_joined_by_shared_words_through_others_stay_together():
    """Opinion n shares 13 words with n + 5, so that five chains run through all; the last of each is met first."""
    shared = [" ".join("".join(random.Random(n).choices("klmnop", k=8)) for _ in range(13)) for n in range(45)]
    texts = [" between ".join(shared[at] for at in (n - 5, n) if at >= 0) for n in range(45)]
    made = [Mined(Holding(f"{text} (<HOLDING>)", f"holding {n}"), n, str(n)) for n, text in enumerate(texts)]
    for seed in range(5):
        splits = split_by_opinion(made[::-1], {"train": 0.5, "validation": 0.3, "test": 0.2}, seed)
        chains = {split: {item.opinion % 5 for item in items} for split, items in splits.items()}
        assert sum(map(len, chains.values())) == 5 and len(splits["train"]) == 18
        assert sum(map(len, splits.values())) == 45


def made_up_holdings(count: int) -> list[Mined]:
    """As long as real ones, with words as frequent as those of a language; three an opinion, some nearly alike."""
    rng = np.random.default_rng(1)
    words = np.array(["".join(letters) for letters in rng.choice(list("abcdefgh"), (int(20 * count**0.7), 6))])
    shares = np.cumsum(1 / np.arange(3, len(words) + 3))

    def text(length: int) -> str:
        return " ".join(words[np.searchsorted(shares, rng.random(length) * shares[-1])])

    held = [text(length) for length in np.clip(rng.gamma(4.5, 6.2, count).astype(int), 6, 72)]
    for number in range(7, count, 7):
        held[number] = " ".join([*held[number - 5].split()[: 3 + number % 20], "and"])
        held[number - 1] = " ".join(reversed(held[number - 4].split()))
    return [
        Mined(Holding(f"{text(120)} (<HOLDING>). {text(6)}", f"holding that {what}"), number // 3, f"o:{number // 3}")
        for number, what in enumerate(held)
    ]


def questions_by_all_cosines(mined: list[Mined], seed: int):
    """What `questions` says it does, with every cosine of every pair."""
    words = TfidfVectorizer(
        stop_words=[*HOLDING_VERBS, *THAT_VERBS, "that"], sublinear_tf=True, token_pattern=r"\w+"
    ).fit([item.holding.text for item in mined])
    golds = words.transform([item.holding.text for item in mined]).toarray()
    passages = words.transform([item.holding.passage.replace("<HOLDING>", "") for item in mined]).toarray()
    alike, similarity = golds @ golds.T, (golds @ golds.T + passages @ golds.T).round(12)
    uses = Counter()
    for index, item in enumerate(mined):
        lot = random.Random(f"{seed} {item.source} {item.holding.text}")
        num_longer, taken = lot.randint(0, 4), []
        for wanted, size in ((True, num_longer), (False, 4), (True, 4)):
            for other in np.argsort(-similarity[index], kind="stable"):
                longer = len(mined[other].holding.text) > len(item.holding.text)
                free = mined[other].opinion != item.opinion and uses[other] < 12 and longer == wanted
                if len(taken) < size and free and alike[other, [index, *taken]].max() < 0.5:
                    taken.append(int(other))
        if len(taken) == 4:
            uses.update(taken)
            order = [index, *taken]
            lot.shuffle(order)
            yield item.holding.passage, [mined[place].holding.text for place in order]


@pytest.mark.parametrize("block, depth, threads", [(2_000, 400, 1), (7, 400, 2), (40, 12, 2), (300, 1, 1)])
def test_distractors_are_those_that_all_cosines_choose(monkeypatch, block, depth, threads):
    monkeypatch.setattr(likeness, "BLOCK", block)
    monkeypatch.setattr(likeness, "DEPTH", depth)
    made = made_up_holdings(150)
    chosen = [(row["context"], row["endings"]) for row in questions("train", made, 3, threads)]
    assert chosen == list(questions_by_all_cosines(made, 3)) and len(chosen) > 100


def test_a_short_ranking_is_the_beginning_of_the_whole_one(monkeypatch):
    """Also where the holdings at its end are as alike as others that it leaves out."""
    monkeypatch.setattr(likeness, "DEPTH", 9)
    like = likeness.likeness([item.holding for item in made_up_holdings(150)], "", 1)
    rankings = list(like.rankings(""))
    for index, begun in enumerate(rankings):
        assert begun.tolist() == like.ranking(index)[: len(begun)].tolist()
    assert {len(begun) for begun in rankings} >= {7, 8}  # 8 where none at the end are equal


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere", "--output", "out"], "nowhere: no such file or folder"),
        (["plain.txt", "--output", "out"], "plain.txt: holds no usable holding"),
        (["plain.txt", "--output", "."], r"\.: exists already"),
        (["plain.txt", "--output", "out", "--exclude", "nowhere"], "nowhere: no such file or folder"),
        (["few.jsonl", "--output", "out"], "few.jsonl: 3 holdings are too few"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("plain.txt").write_text("No case is cited here.", encoding="utf-8")
    write_jsonl(Path("few.jsonl"), opinions(1))
    with pytest.raises(InputError, match=message):
        mine_holdings.main([*arguments, "--workers", "1"])
    assert {path.name for path in tmp_path.iterdir()} == {"plain.txt", "few.jsonl"}


def test_exit_codes(tmp_path):
    script = ROOT / "tools" / "mine_holdings.py"
    result = run_python(script, "nowhere", "--output", "out", cwd=tmp_path, check=False)
    assert result.returncode == 1 and result.stderr.startswith("error: nowhere: ")
    result = run_main(mine_holdings.main, ".", "--output", "out", "--test-share", "0.95")
    assert result.returncode == 2 and "leave nothing to train on" in result.stderr


def alphanumeric_runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z0-9]+", text.lower())
    return {tuple(words[start : start + 13]) for start in range(len(words) - 12)}


def assert_shares_nothing_with_casehold(folder: Path, splits) -> int:
    """Written without the code under test; returns the number of questions."""
    held_out = set()
    for split in ("validation", "test"):
        for line in (CASEHOLD / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            gold = row["endings"][row["label"]]
            held_out |= alphanumeric_runs(row["context"].replace("<HOLDING>", gold)) | alphanumeric_runs(gold)
    mined = [json.loads(line) for split in splits for line in (folder / f"{split}.jsonl").read_text().splitlines()]
    for row in mined:
        for text in (
            row["context"],
            row["context"].replace("<HOLDING>", row["endings"][row["label"]]),
            *row["endings"],
        ):
            assert not alphanumeric_runs(text) & held_out, row["id"]
    return len(mined)


@needs_opinions
def test_some_real_opinions(tmp_path):
    with lzma.open(CASELAW / "opinions.jsonl.xz") as file:
        (tmp_path / "some.jsonl").write_bytes(b"".join(line for _, line in zip(range(60), file, strict=False)))
    flags = ["--output", str(tmp_path / "out"), "--exclude", str(CASEHOLD), "--workers", "1"]
    mine_holdings.main([str(tmp_path / "some.jsonl"), *flags, "--validation-share", "0", "--test-share", "0"])
    assert assert_shares_nothing_with_casehold(tmp_path / "out", ["train"]) > 30


@pytest.mark.slow
@needs_opinions
def test_all_real_opinions_give_500_questions_that_share_nothing_with_casehold(tmp_path):
    mine_holdings.main([str(CASELAW), "--output", str(tmp_path / "out"), "--exclude", str(CASEHOLD)])
    assert assert_shares_nothing_with_casehold(tmp_path / "out", ["train", "validation", "test"]) >= 500


@pytest.mark.slow
def test_fifty_thousand_holdings_take_minutes_of_a_core_and_3_gb():
    """223 s were seen beside other work; every pair one by one would take hours."""
    script = """
        import resource, time
        from test_mining import made_up_holdings, questions, split_by_opinion
        made = made_up_holdings(50_000)
        before = time.process_time()
        splits = split_by_opinion(made, {"train": 0.8, "test": 0.2}, 0)
        number = sum(1 for _ in questions("train", made, 0, 2))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
        print(sum(map(len, splits.values())), number, time.process_time() - before, peak)
    """
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "mining")))
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=os.environ | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    split, number, seconds, gib = map(float, result.stdout.split())
    print(f"{number:.0f} questions of {split:.0f} holdings: {seconds:.0f} s of CPU, {gib:.2f} GiB")
    assert split == 50_000 and number > 47_500
    assert seconds < 400 and gib < 3


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
@needs_opinions
def test_a_cluster_that_loses_a_node_mines_the_same(three_nodes, tmp_path):
    flags = [str(CASELAW), "--exclude", str(CASEHOLD), "--propositions", "--output"]
    assert mine_holdings.main([*flags, str(tmp_path / "alone"), "--workers", "2"]) == 0
    began = time.monotonic()
    lost = three_nodes.lose_one_when(lambda: time.monotonic() > began + 20)
    assert mine_holdings.main([*flags, str(tmp_path / "cluster"), "--ray", three_nodes.address]) == 0
    assert not lost.is_alive()
    assert files(tmp_path / "cluster") == files(tmp_path / "alone")
