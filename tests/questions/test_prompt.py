"""The prompt contract, clause by clause."""

import pytest
from conftest import rows

from lib.errors import InputError
from lib.questions.prompt import encode_questions


def question(context="The court held", endings=("holding that A", "holding that B"), **fields):
    return {"context": context, "endings": list(endings), "label": 0} | fields


def ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_prompt_and_ending_are_encoded_apart(encode, tokenizer):
    [item] = encode([question("The court held \n\t", (" \tholding that A\n", "holding that B"))])
    assert item.prompt_ids == ids(tokenizer, "The court held")
    assert item.ending_ids[0] == ids(tokenizer, " holding that A") + [tokenizer.eos_token_id]
    assert not item.joint_differs


def test_white_space_at_the_left_of_the_context_stays(encode, tokenizer):
    [item] = encode([question("  The court")])
    assert item.prompt_ids == ids(tokenizer, "  The court")


def test_only_ascii_white_space_is_stripped(encode, tokenizer):
    [item] = encode([question("It held\u00a0", ("\u00a0holding that A\u2003", "holding that B\x85"))])
    assert item.prompt_ids == ids(tokenizer, "It held\u00a0")
    assert item.ending_ids[0][:-1] == ids(tokenizer, " \u00a0holding that A\u2003")
    assert item.ending_ids[1][:-1] == ids(tokenizer, " holding that B\x85")


def test_an_ending_that_is_a_prefix_of_another_differs_by_its_end_token(encode, tokenizer):
    endings = ("holding that A", "holding that A is void")
    [closed] = encode([question(endings=endings)])
    [open_] = encode([question(endings=endings)], end_token=False)
    assert closed.ending_ids[1][: len(closed.ending_ids[0])] != closed.ending_ids[0]
    assert open_.ending_ids[1][: len(open_.ending_ids[0])] == open_.ending_ids[0]
    assert [len(ids) for ids in closed.ending_ids] == [len(ids) + 1 for ids in open_.ending_ids]


def test_fields_are_replaced_once_and_braces_in_the_data_mean_nothing(encode, tokenizer):
    [item] = encode(
        [question("{court} and {context} and {", court="{context}")], template="[{court}] {context} {} {{x y"
    )
    assert item.prompt_ids == ids(tokenizer, "[{context}] {court} and {context} and { {} {{x y")


@pytest.mark.parametrize("template", ["Passage: {context}\nHolding:", "{context}", "{court}: {context}"])
def test_the_cut_takes_the_left_of_the_context_alone(encode, tokenizer, template):
    long = " ".join(f"word{number}" for number in range(300))
    [whole] = encode([question(long, court="D. Mass.")], template=template, max_length=5000)
    [cut] = encode([question(long, court="D. Mass.")], template=template, max_length=120)
    prefix, suffix = template.replace("{court}", "D. Mass.").split("{context}")
    assert len(cut.prompt_ids) + max(map(len, cut.ending_ids)) == 120
    assert cut.truncated > 0 and whole.truncated == 0
    assert cut.prompt_ids[: len(ids(tokenizer, prefix))] == ids(tokenizer, prefix)
    text = tokenizer.decode(cut.prompt_ids)
    assert text.endswith("word299" + suffix) and cut.ending_ids == whole.ending_ids


def test_the_cut_depends_on_all_candidates(encode):
    long = question(" ".join(["void"] * 300), ("A", "B", "holding that the very long lease is void and so on"))
    [item] = encode([long], max_length=100)
    assert len(item.prompt_ids) + max(map(len, item.ending_ids)) == 100


def test_endings_over_the_limit_are_an_error_that_names_the_row(encode):
    with pytest.raises(InputError, match=r"rows.jsonl:2.*--max-length 12"):
        encode([question("a", ("b", "c")), question("a", ("b", "holding that " * 20))], max_length=12)


@pytest.mark.parametrize("context", ["", " \n"])
def test_an_empty_prompt_is_an_error(encode, context):
    with pytest.raises(InputError, match=r"rows.jsonl:1.*prompt is empty"):
        encode([question(context)])


def test_a_template_needs_a_field_of_the_row(encode):
    with pytest.raises(InputError, match=r"rows.jsonl:1: field 'court' is missing"):
        encode([question()], template="{court} {context}")
    with pytest.raises(InputError, match="must hold {context}"):
        encode([question()], template="Which holding?")


def test_joint_encodings_that_differ_are_noticed(encode, tokenizer, monkeypatch):
    [item] = encode(rows(1))
    assert not item.joint_differs

    def merging(texts, **options):
        # A tokenizer that writes one token for a whole text merges across every boundary.
        return {"input_ids": [[hash(text)] for text in texts]}

    merging.eos_token_id = 0
    from lib.questions.prompt import PromptConfig

    [merged] = encode_questions([item.question], merging, PromptConfig("{context}"))
    assert merged.joint_differs
