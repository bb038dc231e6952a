"""The prompt contract, clause by clause."""

import pytest
from conftest import rows
from tokenizers import Tokenizer, models, normalizers, trainers
from transformers import PreTrainedTokenizerFast

from lib.errors import InputError
from lib.questions.prompt import PromptConfig, encode_questions, ending_text


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

    merging.eos_token_id, merging.added_tokens_decoder = 0, {}
    [merged] = encode_questions([item.question], merging, PromptConfig("{context}"))
    assert merged.joint_differs


def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """In the form of Llama 2's: words begin with a mark that every text is given, so that the mark of an ending that is
    encoded apart stands twice; nothing is cut into words first."""
    tokenizer = Tokenizer(models.BPE(unk_token="?"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    texts = [text.replace(" ", "\u2581") for row in rows(40) for text in (row["context"], *row["endings"])]
    special = ["?", "<|endoftext|>"]
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=300, special_tokens=special))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


@pytest.mark.parametrize("form", ["byte-level", "metaspace"])
def test_the_words_at_the_boundary_tell_what_the_whole_text_would(tokenizer, encode, form):
    if form == "metaspace":
        tokenizer = metaspace_tokenizer()
    starts = ("holding", "", "(d)", "12 to", "'s own", "\u00a0x", "\nnew", "<|endoftext|>", "\u65e5\u672c", "\u0301e")
    ends = ("held", "held (", "12", "it's", "x\u00a0", "a\n\nb", "<|endoftext|>", "\u65e5\u672c", "'", "...")
    items = encode([question(f"The court {end}", (start, "that")) for end in ends for start in starts])
    found = encode_questions([item.question for item in items], tokenizer, PromptConfig("{context}"))
    for item in found:
        prompt = item.question.fields["context"]
        endings = [ending_text(ending) for ending in item.question.endings]
        whole = [ids(tokenizer, prompt + ending) for ending in endings]
        apart = [ids(tokenizer, prompt) + ids(tokenizer, ending) for ending in endings]
        assert item.joint_differs == (whole != apart)
    assert {item.joint_differs for item in found} == ({False} if form == "byte-level" else {False, True})


def test_control_tokens_that_a_text_spells_are_counted(encode, tokenizer):
    """They are encoded as Hugging Face does, as one token each."""
    items = encode([question("a<|endoftext|>b"), question("a b", ("c", "d <|endoftext|>")), question("<|endoftex|>")])
    assert [item.control_tokens for item in items] == [True, True, False]
    assert tokenizer.eos_token_id in items[0].prompt_ids and tokenizer.eos_token_id in items[1].ending_ids[1][:-1]


def test_a_token_id_is_one_object_however_often_it_stands(encode):
    """Otherwise a large data set is made of Python integers."""
    [item] = encode([question("the court " * 50)])
    many = [token for ids in (item.prompt_ids, *item.ending_ids) for token in ids]
    assert len({id(token) for token in many}) == len(set(many)) < len(many)
