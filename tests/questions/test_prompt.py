"""The prompt contract, clause by clause."""

import copy
import hashlib
from dataclasses import replace

import pytest
from conftest import rows
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lib.errors import InputError
from lib.questions.data import Question
from lib.questions.prompt import encode_questions, ending_text, neutral_prompt_ids
from lib.questions.prompt_config import PromptConfig, default_contract


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


LONG = "holding that the lease is void " * 100


def test_a_long_ending_is_cut_on_its_right_and_carries_no_end_token(encode, tokenizer):
    [whole] = encode([question(endings=("holding that A", LONG))], max_length=5000)
    [cut] = encode([question(endings=("holding that A", LONG))], max_ending=40)
    assert whole.endings_truncated == () and whole.ending_ids[1][-1] == tokenizer.eos_token_id
    assert cut.ending_ids == [whole.ending_ids[0], whole.ending_ids[1][:40]]
    assert cut.endings_truncated == (0, len(whole.ending_ids[1]) - 40)
    fits = len(whole.ending_ids[1])
    [last] = encode([question(endings=("holding that A", LONG))], max_length=5000, max_ending=fits - 1)
    assert last.ending_ids[1] == whole.ending_ids[1][:-1]  # the end token counts, and goes first
    assert last.endings_truncated == (0, 1)


def test_the_context_keeps_64_tokens_beside_endings_of_any_length(encode):
    passage = "word " * 300
    for max_length, max_ending, kept in ((512, 500, 64), (512, 256, 256), (100, 90, 50)):
        [item] = encode([question(passage, ("A", LONG))], max_length=max_length, max_ending=max_ending)
        assert (len(item.prompt_ids), len(item.ending_ids[1])) == (kept, max_length - kept)
    [short] = encode([question("short", ("A", LONG))], max_length=200, max_ending=199)
    assert len(short.prompt_ids) + len(short.ending_ids[1]) == 200 and not short.truncated
    with pytest.raises(InputError, match=r"rows.jsonl:1: endings and template need \d+ tokens, over --max-length 20"):
        encode([question()], template="It alone takes all, " * 6 + "{context}", max_length=20, max_ending=9)


def test_strict_names_the_ending_that_would_be_cut(encode, tokenizer):
    config = PromptConfig("{context}", max_ending=40)
    [item] = encode([question(endings=("holding that A", LONG))], max_length=5000)
    with pytest.raises(InputError, match=r"rows.jsonl:1: candidate 1 has \d+ tokens, room is for 40; raise --max-end"):
        encode_questions([item.question], tokenizer, config, strict=True)
    encode_questions([item.question], tokenizer, PromptConfig("{context}", 5000), strict=True)


def test_a_start_token_opens_every_prompt_and_counts(tokenizer):
    opening = llama_like(tokenizer)
    template = "In {court}: {context}"
    contract = default_contract(template, opening, max_length=80)
    assert contract.start_token and not default_contract(template, tokenizer).start_token
    fields = {"context": "word " * 200, "court": "D. Mass."}
    asked = Question("q", fields, ("holding that A", "holding that B"), (1.0, 0.0), 0, "here")
    [item] = encode_questions([asked], opening, contract)
    [bare] = encode_questions([asked], opening, replace(contract, start_token=False, max_length=79))
    assert item.prompt_ids == [opening.bos_token_id, *bare.prompt_ids] and item.truncated == bare.truncated > 0
    assert neutral_prompt_ids(opening, contract) == [opening.bos_token_id, *ids(opening, "In :")]
    with pytest.raises(InputError, match="asks for a beginning-of-text token, and the model's tokenizer names none"):
        encode_questions([asked], tokenizer, contract)


def llama_like(tokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer with a post-processor that opens texts, as Llama 3's does."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    start = tokenizer.eos_token
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, tokenizer.eos_token_id)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=start, eos_token=start)


def test_contracts_of_older_files_are_what_they_were(tmp_path):
    """Without bound and start token, under the digest that predictions of then carry."""
    (tmp_path / "prompt.json").write_text('{"template": "{context}", "max_length": 512, "end_token": true}')
    older = PromptConfig.load(tmp_path)
    assert (older.max_ending, older.start_token) == (None, False)
    text = '{"end_token": true, "max_length": 512, "template": "{context}"}'
    assert older.digest == hashlib.sha256(text.encode()).hexdigest()[:16]
    contracts = [older, replace(older, max_ending=256), replace(older, start_token=True)]
    assert len({contract.digest for contract in contracts}) == 3
    contracts[1].save(tmp_path)
    assert PromptConfig.load(tmp_path) == contracts[1]


@pytest.mark.parametrize("context", ["", " \n"])
def test_an_empty_prompt_is_an_error(encode, context):
    with pytest.raises(InputError, match=r"rows.jsonl:1.*prompt is empty"):
        encode([question(context)])


def test_a_template_needs_a_field_of_the_row(encode):
    with pytest.raises(InputError, match=r"rows.jsonl:1: field 'court' is missing"):
        encode([question()], template="{court} {context}")
    with pytest.raises(InputError, match="must hold {context}"):
        encode([question()], template="Which holding?")


def test_joint_encodings_that_differ_are_noticed(encode):
    [item] = encode(rows(1))
    assert not item.joint_differs
    [marked] = encode_questions([item.question], metaspace_tokenizer(), PromptConfig("{context}"))
    assert marked.joint_differs


def test_a_tokenizer_that_would_cut_or_pad_does_neither(encode, tokenizer):
    """What a tokenizer.json says of that is for whole sequences; Hugging Face's own call leaves it out too."""
    items = encode(rows(3))
    cutting = copy.deepcopy(tokenizer)
    cutting.backend_tokenizer.enable_truncation(5)
    cutting.backend_tokenizer.enable_padding(length=900)
    again = encode_questions([item.question for item in items], cutting, PromptConfig("{context}"))
    assert [(item.prompt_ids, item.ending_ids) for item in again] == [
        (item.prompt_ids, item.ending_ids) for item in items
    ]


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


def test_an_ending_without_tokens_is_named():
    """ " " of a tokenizer that strips: its log-prob of 0 would win, and its place would be another's."""
    backend = Tokenizer(models.WordLevel({"a": 0, "b": 1, "<end>": 2}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    words = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    asked = Question("q", {"context": "a"}, ("b", ""), (1.0, 0.0), 0, "rows.jsonl:3")
    with pytest.raises(InputError, match="rows.jsonl:3: candidate 1 has no tokens; close endings with --end-token"):
        encode_questions([asked], words, PromptConfig("{context}", end_token=False))
    assert encode_questions([asked], words, PromptConfig("{context}"))[0].ending_ids == [[1, 2], [2]]
