"""The report, opened from disk in a real headless Chromium: what it shows, how it is searched, and hostile text."""

import json
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from conftest import CASEHOLD, needs_browser, needs_casehold, rows, write_jsonl

import eval_mc
from lib.errors import InputError
from lib.evaluation import page_data
from lib.evaluation.metrics import log_probabilities, margins
from lib.evaluation.page_data import pieces
from lib.evaluation.report import Evaluation, write_report
from lib.evaluation.scores import Scored
from lib.evaluation.summary import summarise
from lib.questions.data import STRIP, load_split
from lib.questions.prompt import encode_questions
from lib.questions.prompt_config import PromptConfig

HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 2'> & \"quotes\" 'and' `more`",
    "{{ 7 * 7 }} {% raw %} ${7 * 7} <!-- \u2028\u2029",
    "\u05d4\u05e9\u05d5\u05e4\u05d8 \u05e4\u05e1\u05e7 (<HOLDING>) \u202e\u0645\u0631\u062d\u0628\u0627",
    "caf\u00e9 \U0001f468\u200d\U0001f469\u200d\U0001f467 \ufffd \x01 e\u0301",
)


def invented(encoded) -> Scored:
    """Log-probs of every token drawn from a fixed seed: what the page shows does not depend on how they came about."""
    rng = np.random.default_rng(5)
    tokens = [[(-rng.exponential(2.5, len(ids))).tolist() for ids in item.ending_ids] for item in encoded]
    return Scored(encoded, [[sum(ending) for ending in row] for row in tokens], token_logprobs=tokens)


def make_report(folder, data, tokenizer, title="a model") -> list[dict]:
    scored = invented(encode_questions(data.questions, tokenizer, PromptConfig(data.default_template)))
    records = scored.predictions("mean")
    write_report(folder, Evaluation(title, data, scored, records, summarise(data, scored, records), [], tokenizer))
    return records


@pytest.fixture(scope="module")
def casehold_report(tmp_path_factory, qwen2):
    """The report of all real test questions; its records, and the questions."""
    folder = tmp_path_factory.mktemp("casehold") / "report"
    data = load_split(str(CASEHOLD), "test")
    return folder, make_report(folder, data, qwen2), data.questions


@pytest.fixture
def open_report(browser):
    """Open a report; anything it asks of a network, and any error of its script, fails the test."""
    contexts, complaints = [], []

    def open_folder(folder, **options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: complaints.append(request.url) if request.url.startswith("http") else None)
        page.goto((folder / "report.html").as_uri())
        return page

    yield open_folder
    for context in contexts:
        context.close()
    assert complaints == []


def shown(page) -> str:
    """The line above the list, once the page has caught up with the typing."""
    page.wait_for_timeout(200)
    return page.locator("#count").inner_text()


def right(records) -> int:
    return sum(record["prediction"] == record["label"] for record in records)


def ids_in_view(page) -> list[str]:
    rows = page.locator(".row").evaluate_all(
        "rows => rows.map(row => [row.offsetTop, row.querySelector('.name').textContent]).sort((a, b) => a[0] - b[0])"
    )
    return [name for _, name in rows]


@needs_casehold
@needs_browser
def test_search_filter_and_sort_find_the_questions_that_python_finds(casehold_report, open_report):
    folder, records, questions = casehold_report
    page = open_report(folder)
    assert shown(page) == f"793 of 793 questions, {right(records)} right"
    assert page.locator(".row").count() < 60  # only what is in view

    def expect(keep) -> None:
        kept = [record for record, question in zip(records, questions, strict=True) if keep(record, question)]
        assert 0 < len(kept) < 793
        assert shown(page) == f"{len(kept)} of 793 questions, {right(kept)} right"
        assert ids_in_view(page)[: len(kept)] == [record["id"] for record in kept][: len(ids_in_view(page))]

    def holds(question, *words):
        text = "\n".join([question.id, *question.fields.values(), *question.endings]).lower()
        return all(word in text for word in words)

    page.fill("#search", "Fourth  AMENDMENT")
    expect(lambda record, question: holds(question, "fourth", "amendment"))
    page.select_option("#outcome", "wrong")
    expect(lambda record, question: holds(question, "fourth", "amendment") and record["prediction"] != record["label"])
    page.fill("#search", "")
    page.select_option("#label", "3")
    expect(lambda record, question: record["label"] == 3 and record["prediction"] != 3)
    page.select_option("#outcome", "all")
    page.select_option("#label", "")
    gaps = dict(zip((record["id"] for record in records), margins(records), strict=True))
    page.fill("#margin-low", "0.2")
    page.fill("#margin-high", "0.4")
    expect(lambda record, question: 0.2 <= gaps[record["id"]] <= 0.4)

    page.fill("#margin-low", "")
    page.fill("#margin-high", "")
    confidence = np.exp(log_probabilities(records)).max(axis=1)
    by_confidence = [records[index]["id"] for index in np.argsort(confidence)]
    page.select_option("#sort", "unsure")
    shown(page)
    assert ids_in_view(page)[:3] == by_confidence[:3]
    page.select_option("#sort", "sure")
    shown(page)
    assert ids_in_view(page)[:3] == by_confidence[:-4:-1]


@needs_casehold
@needs_browser
def test_an_opened_question_shows_all_there_is_of_it(casehold_report, open_report):
    folder, records, questions = casehold_report
    number = next(n for n, record in enumerate(records) if record["label"] != record["prediction"])
    record, question = records[number], questions[number]
    page = open_report(folder)
    page.fill("#search", question.id)
    shown(page)
    page.locator(".row").first.click()
    detail = page.locator("#detail")
    assert detail.locator("h3").first.inner_text() == question.id
    assert detail.locator(".outcome").inner_text() == "wrong"
    assert detail.locator(".passage").text_content() == question.fields["context"]
    assert detail.locator("mark").all_text_contents() == ["<HOLDING>"] * question.fields["context"].count("<HOLDING>")
    probabilities = np.exp(log_probabilities([record]))[0]
    candidates = detail.locator("li")
    assert candidates.count() == 5
    for index in range(5):
        item = candidates.nth(index)
        assert item.locator(".text").text_content() == question.endings[index].strip(STRIP)
        badges = [name for name, field in (("gold", "label"), ("choice", "prediction")) if record[field] == index]
        assert item.locator(".badge").all_text_contents() == badges
        logprob, tokens = record["logprobs"][index], record["tokens"][index]
        numbers = item.locator(".numbers").inner_text()
        for part in (f"log-prob {logprob:.2f}", f"mean {logprob / tokens:.3f}", f"{100 * probabilities[index]:.1f} %"):
            assert part in numbers
        bar = item.locator(".fill").evaluate("fill => fill.clientWidth / fill.parentElement.clientWidth")
        assert bar == pytest.approx(probabilities[index], abs=0.01)
        if index != record["prediction"]:  # the choice's tokens are open already
            item.locator("button").click()
        spans = item.locator(".token")
        texts, values = spans.all_text_contents(), spans.evaluate_all("all => all.map(one => +one.dataset.logprob)")
        assert "".join(texts[:-1]).strip() == question.endings[index].strip(STRIP) and texts[-1] == "end"
        assert len(values) == tokens and sum(values) == pytest.approx(logprob, abs=0.001 * tokens)
        alpha = "one => Number((getComputedStyle(one).backgroundColor.match(/[\\d.]+(?=\\)$)/) || [1])[0])"
        colours = [spans.nth(place).evaluate(alpha) for place in (int(np.argmin(values)), int(np.argmax(values)))]
        assert colours[0] > colours[1]  # the least probable token stands out


@needs_casehold
@needs_browser
def test_it_is_usable_by_keyboard_alone(casehold_report, open_report):
    folder, records, _ = casehold_report
    page = open_report(folder)

    def opened() -> str:
        return page.locator("#detail h3").first.inner_text()

    page.keyboard.press("/")
    page.keyboard.type("jurisdiction")
    shown(page)
    page.keyboard.press("ArrowDown")
    first = ids_in_view(page)
    page.keyboard.press("Home")
    assert opened() == first[0]
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert opened() == first[2]
    active = page.locator("#list").get_attribute("aria-activedescendant")
    assert page.locator(f"#{active}").get_attribute("aria-selected") == "true"
    page.keyboard.press("End")
    page.wait_for_timeout(100)
    assert opened() == ids_in_view(page)[-1] != first[-1]
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "detail"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the first candidate's tokens
    assert page.evaluate("document.activeElement.className").startswith("candidate")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "list"


@needs_casehold
@needs_browser
def test_it_fits_a_phone(casehold_report, open_report):
    page = open_report(casehold_report[0], viewport={"width": 360, "height": 700}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 360
    page.locator(".row").nth(2).tap()
    box = page.locator("#detail").bounding_box()
    assert box["width"] <= 360 and -5 <= box["y"] < 100  # brought into view
    page.locator(".back").tap()
    assert page.evaluate("document.activeElement.id") == "list"


@needs_browser
def test_hostile_text_shows_as_text(tmp_path, tokenizer, open_report):
    row = {"id": HOSTILE[0], "context": HOSTILE[3], "note": HOSTILE[1], "endings": list(HOSTILE), "label": 1}
    data = load_split(str(write_jsonl(tmp_path / "rows.jsonl", [row, row | {"id": "second"}])), "test")
    make_report(tmp_path / "report", data, tokenizer, title=HOSTILE[1])
    page = open_report(tmp_path / "report")
    page.locator(".row").first.click()
    while page.locator(".candidate[aria-expanded=false]").count():
        page.locator(".candidate[aria-expanded=false]").first.click()
    assert page.evaluate("window.hacked") is None and page.locator("img[src=x]").count() == 0
    assert page.locator("h1").text_content() == f"{HOSTILE[1]}" and page.title().startswith("<img src=x")
    assert page.locator("#detail h3").first.text_content() == HOSTILE[0]
    assert page.locator("#detail .passage").all_text_contents() == [HOSTILE[1], HOSTILE[3]]
    assert page.locator("#detail mark").all_text_contents() == ["<HOLDING>"]
    assert page.locator("#detail .text").all_text_contents() == list(HOSTILE)
    directions = page.locator("#detail .text").evaluate_all("all => all.map(one => getComputedStyle(one).direction)")
    assert directions == ["ltr", "ltr", "ltr", "rtl", "ltr"]
    page.fill("#search", "</SCRIPT>")
    assert shown(page).startswith("2 of 2")


@needs_casehold
@needs_browser
@pytest.mark.slow
def test_ten_thousand_questions_do_not_freeze_it(tmp_path, qwen2, open_report):
    real = [json.loads(line) for line in (CASEHOLD / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    copies = [row | {"id": f"{row['id']}-{copy}"} for copy in range(13) for row in real][:10_000]
    data = load_split(str(write_jsonl(tmp_path / "rows.jsonl", copies)), "test")
    make_report(tmp_path / "report", data, qwen2)
    began = time.perf_counter()
    page = open_report(tmp_path / "report")
    assert page.locator("#count").inner_text().startswith("10000 of 10000")
    assert time.perf_counter() - began < 10
    script = """([id, value]) => { const began = performance.now(); document.getElementById(id).value = value;
                 applyFilters(); return performance.now() - began; }"""
    for change in (["search", "amendment"], ["search", "amendment court"], ["sort", "sure"], ["outcome", "wrong"]):
        assert page.evaluate(script, change) < 1_000, change
    assert page.evaluate(script, ["search", ""]) < 1_000
    found = int(page.locator("#count").inner_text().split()[0])
    for share in (0.5, 1):  # the middle of the list, and its end
        page.evaluate("share => { list.scrollTop = share * list.scrollHeight; }", share)
        page.wait_for_timeout(200)
        assert page.locator(".row").count() < 60
        box = page.locator("#list").bounding_box()
        at = [box["x"] + 50, box["y"] + box["height"] / 2]
        place = page.evaluate("([x, y]) => +document.elementFromPoint(x, y).closest('.row').ariaPosInSet", at)
        assert place == pytest.approx(share * found, abs=15)


@needs_casehold
@needs_browser
@pytest.mark.slow
def test_the_report_of_a_hundred_thousand_questions_stays_below_50_mb(tmp_path, qwen2, open_report):
    data = load_split(str(CASEHOLD), "test")
    encoded = encode_questions(data.questions, qwen2, PromptConfig(data.default_template))

    def copied(number: int):  # with endings of its own: ids are what is scored, texts are what is shown
        item = encoded[number % len(encoded)]
        endings = tuple(f"{ending}{number}" for ending in item.question.endings)
        return replace(item, question=replace(item.question, id=str(number), endings=endings))

    scored = invented([copied(number) for number in range(100_000)])
    records = scored.predictions("mean")
    data = replace(data, questions=[item.question for item in scored.encoded])
    summary = summarise(data, scored, records)
    tracemalloc.start()
    write_report(tmp_path / "report", Evaluation("many", data, scored, records, summary, [], qwen2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = (tmp_path / "report" / "report.html").stat().st_size
    print(f"{size / 1e6:.1f} MB, {peak / 1e6:.0f} MB of memory")
    assert 35e6 < size < 50e6 and peak < 500e6
    began = time.perf_counter()
    page = open_report(tmp_path / "report")
    assert page.locator("#count").inner_text().endswith("right")
    assert time.perf_counter() - began < 20


@pytest.mark.parametrize("num_wrong", [20, 200])
def test_a_page_too_small_for_all_says_what_it_holds(encode, tokenizer, monkeypatch, num_wrong):
    """All wrong answers where there is room for them and for some right ones; else three for a right one."""
    encoded = encode(rows(400))
    scored = invented(encoded)
    records = scored.predictions("mean")
    for record in records[num_wrong:]:
        record["label"] = record["prediction"]
    for record in records[:num_wrong]:
        record["label"] = (record["prediction"] + 1) % 5
    whole = page_data.page_data(scored, records, tokenizer)
    assert whole.shown == "all 400 questions"
    assert [question["id"] for question in json.loads(whole.content)["questions"]] == [f"q{n}" for n in range(400)]

    monkeypatch.setattr(page_data, "MAX_BYTES", 100_000)
    page = page_data.page_data(scored, records, tokenizer)
    assert page == page_data.page_data(scored, records, tokenizer) and 90_000 < len(page.content) < 101_000
    questions = json.loads(page.content)["questions"]
    places = [int(question["id"][1:]) for question in questions]
    wrong = sum(question["label"] != question["prediction"] for question in questions)
    right = len(questions) - wrong
    assert places == sorted(set(places)) and max(places) > 300
    if num_wrong == 20:
        assert wrong == 20 and right > 40
        said = f"all 20 wrong ones and {right} of the 380 right ones"
    else:
        assert 0 <= wrong - 3 * right <= 3
        said = f"{wrong} of the 200 wrong ones and {right} of the 200 right ones"
    assert page.shown == f"{len(questions)} of 400 questions: {said}, drawn by lot"
    texts = {ending for item in encoded for ending in item.question.endings}
    assert {"".join(filter(None, ending))[1:] for ending in json.loads(page.content)["endings"]} <= texts


def test_pieces_put_together_are_the_ending(tokenizer):
    for ending in (*HOSTILE, "", "  a  b\n", "holding that the tenant waives the lease"):
        count = len(tokenizer(" " + ending.strip(STRIP), add_special_tokens=False)["input_ids"]) + 1
        found = pieces(tokenizer, ending, count)
        assert len(found) == count and found[-1] is None
        assert "".join(found[:-1]) == " " + ending.strip(STRIP)


def test_eval_mc_writes_a_whole_new_folder(tmp_path, model_folder, data_folder, capsys):
    flags = ["--model", str(model_folder), "--data", str(data_folder)]
    output, plain = tmp_path / "with.jsonl", tmp_path / "without.jsonl"
    eval_mc.main([*flags, "--score", "all", "--report", str(tmp_path / "report"), "--output", str(output)])
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {"report.md", "report.html", "coverage.png", "calibration.png", "margins.png", "groups.png"}
    markdown = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "The page holds all 8 questions" in page and "it holds all 8 questions" in markdown
    for part in ("macro F1", "Brier", "margin that gives 90%", "TF-IDF", "## All scores", "rank of the gold", "whole"):
        assert part in markdown
    # Asking for the tokens changes no log-prob.
    eval_mc.main([*flags, "--output", str(plain)])
    sums = [[json.loads(line)["logprobs"] for line in path.read_text().splitlines()]
            for path in (tmp_path / "with.sum.jsonl", plain)]  # fmt: skip
    for one, other in zip(*sums, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    with pytest.raises(InputError, match="exists already"):
        eval_mc.main([*flags, "--report", str(tmp_path / "report")])


def test_a_report_that_fails_leaves_nothing(tmp_path, tokenizer, data_folder, monkeypatch):
    from lib.evaluation import report

    monkeypatch.setattr(report, "page_data", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_report(tmp_path / "report", load_split(str(data_folder), "test"), tokenizer)
    assert list(tmp_path.iterdir()) == []
