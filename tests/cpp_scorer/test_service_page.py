"""The page at / in a real browser: what it shows is what the service says, and no text is ever read as HTML."""

import json
import re

import pytest
from conftest import needs_browser, rows
from playwright.sync_api import expect
from service import jsonl, piped, serving

pytestmark = [pytest.mark.usefixtures("scorer"), needs_browser]
HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 2'> & \"quotes\" 'and' `more`",
    "{{ 7 * 7 }} ${7 * 7} <!-- \u202e\u0645\u0631\u062d\u0628\u0627 \U0001f468\u200d\U0001f469",
)


@pytest.fixture
def open_page(browser):
    """Open a service's page; whatever it asks of anybody else, and any error of its script, fails the test."""
    complaints = []
    context = browser.new_context()
    page = context.new_page()

    def open_at(service):
        own = f"http://127.0.0.1:{service.port}/"
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: request.url.startswith(own) or complaints.append(request.url))
        page.goto(own)
        return page

    yield open_at
    context.close()
    assert complaints == []


def fill(page, row: dict) -> None:
    page.get_by_label("Passage").fill(row["context"])
    page.get_by_label("Holdings").fill("\n".join(row["endings"]))
    page.get_by_role("button", name="Score").click()


@pytest.mark.parametrize("score", ["sum", "mean", "pmi"])
def test_log_probs_and_the_choice_are_those_of_the_stream(open_page, onnx_model, tmp_path, score):
    row = rows(3)[2]
    with serving(onnx_model, tmp_path, "--score", score) as service:
        page = open_page(service)
        fill(page, row)
        endings = page.locator("#endings li")
        expect(endings).to_have_count(5)
        expected = json.loads(piped(onnx_model, jsonl(row), "--score", score))
        texts = endings.all_inner_texts()
        for ending, text, value in zip(row["endings"], texts, expected["logprobs"], strict=True):
            assert text.startswith(ending) and f"log-prob {value:.3f}" in text
        assert page.locator("li.chosen").all_inner_texts() == [texts[expected["prediction"]]]
        widths = [box["width"] for box in (bar.bounding_box() for bar in page.locator(".bar").all())]
        assert widths.index(max(widths)) == expected["prediction"] and min(widths) >= 1
        shares = [float(re.search(r"([\d.]+) %", text)[1]) for text in texts]
        assert sum(shares) == pytest.approx(100, abs=0.5)


def test_texts_are_never_read_as_html(open_page, onnx_model, tmp_path):
    with serving(onnx_model, tmp_path) as service:
        page = open_page(service)
        fill(page, {"context": HOSTILE[0], "endings": HOSTILE})
        expect(page.locator("#endings li")).to_have_count(3)
        for hostile, text in zip(HOSTILE, page.locator("#endings li").all_inner_texts(), strict=True):
            assert text.startswith(hostile)
        assert page.locator("#endings img, #endings script").count() == 0
        assert page.evaluate("window.hacked") is None


def test_an_error_is_told_and_not_read_as_html(open_page, onnx_model, tmp_path):
    with serving(onnx_model, tmp_path, "--max-body-bytes", 500) as service:
        page = open_page(service)
        fill(page, {"context": "c", "endings": ["only one"]})
        expect(page.get_by_role("alert")).to_contain_text("a question needs 2 or more")
        fill(page, {"context": "<b>" * 300, "endings": ["a", "b"]})
        expect(page.get_by_role("alert")).to_contain_text("more than 500 bytes")


def test_a_token_is_asked_for_only_where_it_is_needed(open_page, onnx_model, tmp_path):
    with serving(onnx_model, tmp_path, SCORE_TOKEN="s3cret") as service:
        page = open_page(service)
        expect(page.get_by_label("Token")).to_be_hidden()
        fill(page, rows(1)[0])
        expect(page.get_by_role("alert")).to_contain_text("Authorization")
        page.get_by_label("Token").fill("s3cret")
        page.get_by_role("button", name="Score").click()
        expect(page.locator("#endings li")).to_have_count(5)
