"""The C++ tokenizer gives the ids of the `tokenizers` library, or refuses."""

import json
import lzma
import random
import subprocess
import sys
import unicodedata

import pytest
from conftest import CASEHOLD, QWEN2_TOKENIZER, ROOT
from tokenizers import Tokenizer, normalizers

SHARED = QWEN2_TOKENIZER.parent
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CODE_POINTS = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
MARKS = [character for character in CODE_POINTS if unicodedata.combining(character)]

pytestmark = pytest.mark.skipif(
    not QWEN2_TOKENIZER.is_dir(), reason="the Qwen2 tokenizer is not here (../shared/qwen2_tokenizer)"
)


@pytest.fixture(scope="module")
def tokenize_lines(scorer):
    """The program that encodes texts in C++, built with the scorer: (file, texts) to the lines it answers with."""

    def run(tokenizer_file, texts, check=True) -> subprocess.CompletedProcess:
        encoded = (text if isinstance(text, bytes) else text.encode() for text in texts)
        result = subprocess.run(
            [ROOT / "cpp_scorer" / "build" / "tests" / "tokenize_lines", tokenizer_file],
            input=b"".join(b"%d\n%b" % (len(text), text) for text in encoded),
            capture_output=True,
        )
        assert result.returncode == 0 or not check, result.stderr
        return result

    return run


@pytest.fixture(scope="module")
def assert_same_ids(tokenize_lines):
    def check(texts, tokenizer_file=QWEN2_TOKENIZER / "tokenizer.json"):
        reference = Tokenizer.from_file(str(tokenizer_file))
        assert texts
        answers = tokenize_lines(tokenizer_file, texts).stdout.splitlines()
        assert len(answers) == len(texts)
        expected = reference.encode_batch_fast(texts, add_special_tokens=False)
        for text, answer, encoding in zip(texts, answers, expected, strict=True):
            assert [*map(int, answer.split())] == encoding.ids, repr(text)

    return check


def pick_text(rng: random.Random) -> str:
    """A piece of text of one of the kinds at which tokenizers differ."""
    pieces = (
        lambda: rng.choice(CODE_POINTS),
        lambda: rng.choice(CODE_POINTS[: rng.choice((0x250, 0x3000, 0xD800))]),
        lambda: rng.choice("eoαगא가") + "".join(rng.choices(MARKS, k=rng.randrange(1, 5))),
        lambda: rng.choice("aEiOu") + "".join(chr(0x300 + rng.randrange(0x46)) for _ in range(rng.randrange(1, 4))),
        lambda: normalizers.NFD().normalize_str(chr(rng.choice((0xC0, 0x1E00, 0x1F00)) + rng.randrange(256))),
        lambda: rng.choice("👩🧑❤️🏽🇩🇪") + "\u200d" * rng.randrange(2) + rng.choice("👩🔬\ufe0f🏿🇫\U000e0067"),
        lambda: chr(0xAC00 + rng.randrange(11172)),
        lambda: chr(0x1100 + rng.randrange(256)) + chr(0x1161 + rng.randrange(21)) + chr(0x11A6 + rng.randrange(30)),
        lambda: chr(rng.randrange(33)) * rng.randrange(1, 4),
        lambda: rng.choice(("\r\n", "\n", "\r", "\n\n", " \n", "\t\r\n ", "\x85", "\u2028")) * rng.randrange(1, 3),
        lambda: rng.choice(" \u00a0\u2003\u3000\u200b\ufeff") * rng.randrange(1, 9),
        lambda: rng.choice(SPECIAL)[: rng.choice((99, 99, 99, 12, 3))],
        lambda: rng.choice("'’") + rng.choice(("s", "S", "ſ", "t", "re", "rE", "VE", "ll", "lL", "l", "d", "m", "r")),
        lambda: rng.choice(("§ 12(b)(6)", "F.3d", "...", "--", "1,234.50", "½²Ⅷ", "#!", "_", "“", "”.")),
        lambda: rng.choice(("", " ")) + rng.choice(("holding", "that", "the", "Court", "naïve", "DÉJÀ", "a", "ﬁ", "ß")),
    )
    return rng.choice(pieces)()


def generated_texts(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return ["".join(pick_text(rng) for _ in range(rng.randrange(1, 16))) for _ in range(count)]


def casehold_texts(split: str) -> list[str]:
    if not CASEHOLD.is_dir():
        pytest.skip("real CaseHOLD rows are not here (../shared/casehold, or CASEHOLD_DIR)")
    with open(CASEHOLD / f"{split}.jsonl", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [
        text for row in rows for text in (row["context"], *row["endings"], *(f" {text}" for text in row["endings"]))
    ]


def test_tables_are_those_of_the_library(tmp_path):
    made = tmp_path / "tables.inc"
    subprocess.run([sys.executable, ROOT / "tools" / "make_unicode_tables.py", "--output", made], check=True)
    # The first line names the library's version, which may be another where its tables are the same.
    assert made.read_text().split("\n")[1:] == (ROOT / "cpp_scorer" / "unicode_tables.inc").read_text().split("\n")[1:]


def test_real_questions(assert_same_ids):
    assert_same_ids(casehold_texts("validation"))


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_every_real_question(assert_same_ids, split):
    assert_same_ids(casehold_texts(split))


@pytest.mark.slow
def test_speed(tokenize_lines):
    """At least 5 MB/s on one core, on real questions; 14 to 15 were measured."""
    texts = casehold_texts("train")
    result = tokenize_lines(QWEN2_TOKENIZER / "tokenizer.json", texts)
    rate, unit = result.stderr.decode().split()
    assert unit == "MB/s" and float(rate) >= 5


def test_words_of_the_vocabulary_before_merges(assert_same_ids, tmp_path):
    """ignore_merges, with the later half of the merges taken out: words they make are whole only because of it."""
    described = json.loads((QWEN2_TOKENIZER / "tokenizer.json").read_text(encoding="utf-8"))
    described["model"]["ignore_merges"] = True
    described["model"]["merges"] = described["model"]["merges"][: len(described["model"]["merges"]) // 2]
    (tmp_path / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    tokens = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    texts = [tokens.decode([number], skip_special_tokens=False) for number in range(0, tokens.get_vocab_size(), 16)]
    assert_same_ids(texts + casehold_texts("validation")[:600], tmp_path / "tokenizer.json")


def test_mmlu_law(assert_same_ids):
    rows = [json.loads(line) for line in (SHARED / "mmlu_law" / "validation.jsonl").read_text("utf-8").splitlines()]
    assert_same_ids([text for row in rows for text in (row["question"], *row["choices"])])


@pytest.mark.slow
def test_passages_of_opinions(assert_same_ids):
    with lzma.open(SHARED / "caselaw" / "opinions.jsonl.xz", "rt", encoding="utf-8") as lines:
        opinions = [json.loads(line)["text"] for line in lines]
    rng = random.Random(0)
    passages = []
    for opinion in rng.choices(opinions, k=2000):
        begin = rng.randrange(len(opinion))
        passages.append(opinion[begin : begin + 4000])
    assert_same_ids(passages + [opinion for opinion in opinions if not opinion.isascii()][:200])


@pytest.mark.parametrize("count", [6000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_generated_texts(assert_same_ids, count):
    assert_same_ids(generated_texts(count, seed=count))


@pytest.mark.slow
@pytest.mark.parametrize(
    "context",
    ["{}", "a{}", "{}a", "'{}", " {}", "{} ", "{}\n", "\n{}", "{}!", "1{}1", "e\u0301{}\u0323", "{}{}", "\u1100{}"],
)
def test_every_code_point(assert_same_ids, context):
    assert_same_ids([context.replace("{}", character) for character in CODE_POINTS])


def test_code_points_joined(assert_same_ids):
    """All of Unicode in order: neighbours of one script meet, as do the ends of every range."""
    assert_same_ids(["".join(CODE_POINTS[begin : begin + 512]) for begin in range(0, len(CODE_POINTS), 512)])
