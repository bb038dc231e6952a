"""The C++ tokenizer gives the ids of the `tokenizers` library, or refuses."""

import functools
import json
import lzma
import random
import re
import subprocess
import sys
import unicodedata

import pytest
from conftest import CASEHOLD, ROOT, rows
from tokenizer_forms import ADDED_TOKENS, FORMS, large_tokenizer, real_tokenizer, train
from tokenizers import Tokenizer, normalizers

import export
from export import ask_scorer

SHARED = ROOT.parent / "shared"
SPECIAL = (*(token.content for token in ADDED_TOKENS), "<s>", "<bos>", "<|begin_of_text|>", "<unused1>", "<0x0A>")
CODE_POINTS = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
# Without the planes that are empty or private, whose code points are all alike.
USED_CODE_POINTS = [one for one in CODE_POINTS if one < "\U00032400" or "\U000e0000" <= one < "\U000e0200"]
MARKS = [character for character in CODE_POINTS if unicodedata.combining(character)]


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
    def check(texts, tokenizer_file):
        reference = Tokenizer.from_file(str(tokenizer_file))
        assert texts
        answers = tokenize_lines(tokenizer_file, texts).stdout.splitlines()
        assert len(answers) == len(texts)
        for begin in range(0, len(texts), 5000):
            batch = texts[begin : begin + 5000]
            expected = reference.encode_batch_fast(batch, add_special_tokens=False)
            for text, answer, encoding in zip(batch, answers[begin:], expected, strict=False):
                assert [*map(int, answer.split())] == encoding.ids, repr(text)

    return check


@pytest.fixture(scope="module")
def small_tokenizer(tmp_path_factory):
    """The name of a form to the tokenizer.json of a small tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizers")
    texts = [text for row in rows(64) for text in (row["context"], *row["endings"])] + generated_texts(500, seed=1)

    def file_of(name):
        path = folder / f"{name}.json"
        if not path.exists():
            train(FORMS[name], texts, path)
        return path

    return file_of


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
        lambda: rng.choice(("McDonald", "HTTPServer", "ǅ", "ʰA", "中B", "A\u0301", "\u0301AB", "ßS", "a/b/", "/\n/")),
        lambda: rng.choice(("▁", "▁▁", ">▁", "٣٤", "१२३४", "\U00011de1", "1234567", "①②")) * rng.randrange(1, 3),
        lambda: rng.choice("'’") + rng.choice(("s", "S", "ſ", "t", "re", "rE", "VE", "ll", "lL", "l", "d", "m", "r")),
        lambda: rng.choice(("§ 12(b)(6)", "F.3d", "...", "--", "1,234.50", "½²Ⅷ", "#!", "_", "“", "”.")),
        lambda: rng.choice(("", " ")) + rng.choice(("holding", "that", "the", "Court", "naïve", "DÉJÀ", "a", "ﬁ", "ß")),
    )
    return rng.choice(pieces)()


@functools.cache
def generated_texts(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return ["".join(pick_text(rng) for _ in range(rng.randrange(1, 16))) for _ in range(count)]


def casehold_texts(split: str) -> list[str]:
    if not CASEHOLD.is_dir():
        pytest.skip("real CaseHOLD rows are not here (../shared/casehold, or CASEHOLD_DIR)")
    with open(CASEHOLD / f"{split}.jsonl", encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines]
    return [text for row in found for text in (row["context"], *row["endings"], *map(" {}".format, row["endings"]))]


def mmlu_texts(split: str) -> list[str]:
    if not (SHARED / "mmlu_law").is_dir():
        pytest.skip("MMLU's questions on law are not here (../shared/mmlu_law)")
    lines = (SHARED / "mmlu_law" / f"{split}.jsonl").read_text("utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    return [text for row in found for text in (row["question"], *row["choices"], *map(" {}".format, row["choices"]))]


def opinion_texts() -> list[str]:
    """2,000 passages of opinions, and the first whole opinions that are not ASCII alone."""
    if not (SHARED / "caselaw").is_dir():
        pytest.skip("opinions are not here (../shared/caselaw)")
    with lzma.open(SHARED / "caselaw" / "opinions.jsonl.xz", "rt", encoding="utf-8") as lines:
        opinions = [json.loads(line)["text"] for line in lines]
    rng = random.Random(0)
    passages = []
    for opinion in rng.choices(opinions, k=2000):
        begin = rng.randrange(len(opinion))
        passages.append(opinion[begin : begin + 4000])
    return passages + [opinion for opinion in opinions if not opinion.isascii()][:50]


def joined(characters: list[str]) -> list[str]:
    """All of Unicode in order: neighbours of one script meet, as do the ends of every range."""
    return ["".join(characters[begin : begin + 512]) for begin in range(0, len(characters), 512)]


def test_tables_are_those_of_the_library(tmp_path):
    made = tmp_path / "tables.inc"
    subprocess.run([sys.executable, ROOT / "tools" / "make_unicode_tables.py", "--output", made], check=True)
    # The first line names the library's version, which may be another where its tables are the same.
    assert made.read_text().split("\n")[1:] == (ROOT / "cpp_scorer" / "unicode_tables.inc").read_text().split("\n")[1:]


def test_demo_tokenizer(assert_same_ids, tokenizer, tmp_path):
    tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert_same_ids(generated_texts(3000, seed=0) + joined(CODE_POINTS), tmp_path / "tokenizer.json")


@pytest.mark.parametrize("name", FORMS)
def test_small_tokenizer_of_each_form(assert_same_ids, small_tokenizer, name):
    texts = [text for row in rows(16, start=64) for text in (row["context"], *map(" {}".format, row["endings"]))]
    assert_same_ids(texts + generated_texts(1000, seed=2), small_tokenizer(name))


def test_score_says_whether_it_reads_a_tokenizer(scorer, small_tokenizer, tmp_path, monkeypatch):
    def score(file, *flags, text=""):
        return subprocess.run([scorer, *flags, "--tokenizer", file], input=text, capture_output=True, text=True)

    known = small_tokenizer("gemma3")
    assert score(known, "--tokenize").returncode == 0
    answer = score(known, "--tokenize", text='{"text": " the lease"}\n')
    expected = Tokenizer.from_file(str(known)).encode(" the lease", add_special_tokens=False)
    assert json.loads(answer.stdout) == {"ids": expected.ids}
    other = tmp_path / "tokenizer.json"
    other.write_text(known.read_text("utf-8").replace('"Replace"', '"Lowercase"'), "utf-8")
    refused = score(other, "--tokenize")
    assert refused.returncode == 1 and refused.stdout == "" and refused.stderr.count("\n") == 1
    assert refused.stderr.startswith(f"error: {other}: field 'pre_tokenizer': ") and "Lowercase" in refused.stderr
    for flags in ([], ["--tokenize", "--model", "model.onnx"]):
        assert score(known, *flags).returncode == 2
    # export.py asks the same, and goes on either way.
    assert ask_scorer(known) == "tokenizer: of a form that ./cpp_scorer/score takes"
    said = ask_scorer(other)
    assert re.match(r"note: .*score will not take this model \(tokenizer.json: field 'pre_tok.*Lowercase", said)
    monkeypatch.setattr(export, "SCORER", tmp_path / "score")
    assert ask_scorer(known).startswith("note: ./cpp_scorer/score does not run (`make scorer`)")


@pytest.mark.parametrize("name", ["llama3", "gemma3"])
def test_words_of_the_vocabulary_before_merges(assert_same_ids, small_tokenizer, name, tmp_path):
    """ignore_merges, with the later half of the merges taken out: words they make are whole only because of it."""
    described = json.loads(small_tokenizer(name).read_text(encoding="utf-8"))
    described["model"]["ignore_merges"] = True
    described["model"]["merges"] = described["model"]["merges"][: len(described["model"]["merges"]) // 2]
    (tmp_path / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    tokens = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    words = [tokens.decode([number], skip_special_tokens=False) for number in range(tokens.get_vocab_size())]
    assert_same_ids([word for word in words if word] + generated_texts(500, seed=3), tmp_path / "tokenizer.json")


def test_added_tokens_beside_each_other_and_beyond_a_gap(assert_same_ids, small_tokenizer, tmp_path):
    """White space that one takes is not the next one's; those of the vocabulary do not number the others."""
    described = json.loads(small_tokenizer("gpt2").read_text(encoding="utf-8"))
    vocab, plain = described["model"]["vocab"], dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    vocab["<gap>"] = len(vocab) + 50
    kinds = {"<gap>": {}, "<new>": {}, "<right>": {"rstrip": True}, "<left>": {"lstrip": True}, "\n": {"lstrip": True}}
    ids = {content: len(vocab) + number for number, content in enumerate(list(kinds)[1:])} | {"<gap>": vocab["<gap>"]}
    described["added_tokens"] = [
        {"id": ids[content], "content": content, "special": True, **plain, **strips}
        for content, strips in kinds.items()
    ]
    (tmp_path / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    texts = ["a<new>b<gap>", "x<right>\ny", "x<right>  <left> y", "<left>\n<right>\nz", "<right> \t<new> a"]
    assert_same_ids(texts, tmp_path / "tokenizer.json")


def test_real_questions(assert_same_ids):
    assert_same_ids(casehold_texts("validation") + mmlu_texts("validation"), real_tokenizer("qwen2"))


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_every_real_text(assert_same_ids, name, tmp_path):
    """All of CaseHOLD, MMLU's law and passages of opinions, and 200,000 generated texts, with a real vocabulary."""
    tokenizer_file = large_tokenizer(name, tmp_path)
    questions = [text for split in ("train", "validation", "test") for text in casehold_texts(split)]
    assert_same_ids(questions + mmlu_texts("validation") + mmlu_texts("test") + opinion_texts(), tokenizer_file)
    assert_same_ids(generated_texts(200_000, seed=4), tokenizer_file)


@pytest.mark.slow
@pytest.mark.parametrize(
    "context",
    ["{}", "a{}", "{}a", "'{}", " {}", "{} ", "{}\n", "\n{}", "{}!", "1{}1", "e\u0301{}\u0323", "{}{}", "\u1100{}"],
)
def test_every_code_point(assert_same_ids, small_tokenizer, context):
    characters = CODE_POINTS if context == "{}" else USED_CODE_POINTS
    assert_same_ids([context.replace("{}", character) for character in characters], small_tokenizer("qwen2"))


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_characters_among_others(assert_same_ids, small_tokenizer, name):
    """Beside tokens that take white space too."""
    contexts = ("a{}A", "A{}a", "'{}", "A{}B", " {} ", "1{}1", "{}\n", "a'{}", "<|im_end|>{}", "{}<|im_start|>")
    texts = [text for context in contexts for text in joined([context.replace("{}", c) for c in USED_CODE_POINTS])]
    assert_same_ids(texts, small_tokenizer(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_speed(tokenize_lines, name, tmp_path):
    """At least 10 MB/s on one core, on real questions."""
    result = tokenize_lines(large_tokenizer(name, tmp_path), casehold_texts("train"))
    rate, unit = result.stderr.decode().split()
    assert unit == "MB/s" and float(rate) >= 10
