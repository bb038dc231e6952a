"""The one idea: a packed question gives every candidate the log-prob that a forward of its own would give it."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from conftest import CASEHOLD, needs_casehold, rows, tiny_model
from torch.utils._python_dispatch import TorchDispatchMode

from lib.packed import pack as packing
from lib.packed import scoring
from lib.packed.attention import ATTENTION
from lib.packed.inference import like_length, score_questions
from lib.packed.pack import as_bytes, from_bytes, pack
from lib.packed.scored_rows import can_narrow
from lib.packed.scoring import PackedScorer
from lib.packed.selfcheck import unpacked_logprobs
from lib.questions.data import load_split
from lib.questions.prompt import encode_questions
from lib.questions.prompt_config import PromptConfig

TOLERANCE = dict(rtol=2e-5, atol=2e-4)


def test_layout_of_the_design():
    row = packing._row([90, 91, 92], [[1, 2, 3, 4], [5, 6, 7], [8]])
    assert row == {
        "input_ids": [90, 91, 92, 1, 2, 3, 5, 6],
        "position_ids": [0, 1, 2, 3, 4, 5, 3, 4],
        "segment_ids": [0, 0, 0, 1, 1, 1, 2, 2],
        "pred_index": [2, 3, 4, 5, 2, 6, 7, 2],
        "target_ids": [1, 2, 3, 4, 5, 6, 7, 8],
        "cand_index": [0, 0, 0, 0, 1, 1, 1, 2],
    }


def test_mask_shows_the_prompt_and_the_own_branch():
    visible = packing.attention_mask(torch.tensor([[0, 0, 1, 1, 2, -1]]), torch.float32)[0, 0] == 0
    assert visible.int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]
    assert torch.isfinite(packing.attention_mask(torch.tensor([[0, 1, -1]]), torch.bfloat16)).all()


def test_one_copy_of_many_tensors_gives_each_back():
    """What a GPU is handed in one transfer; the transfer itself needs one."""
    tensors = [torch.arange(6).view(2, 3), torch.rand(3), torch.rand(2, 2).double(), torch.tensor([True, False, True])]
    for given, found in zip(tensors, from_bytes(as_bytes(tensors), tensors), strict=True):
        torch.testing.assert_close(found, given, rtol=0, atol=0)


@torch.no_grad()
def test_sums_of_many_candidates_hold_no_more_than_their_tokens():
    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **kwargs or {})
            self.numbers = max(self.numbers, result.numel())
            return result

    tokens, owners = torch.rand(2, 3000), torch.arange(3000).flip(0).expand(2, -1)
    with Largest() as largest:
        sums = scoring.sum_by_candidate(tokens, owners, 3000)
    assert torch.equal(sums, tokens.flip(1)) and largest.numbers == tokens.numel()


@pytest.mark.parametrize("attention", ["sdpa", ATTENTION, "eager"])
@pytest.mark.parametrize("family", ["qwen2", "llama", "qwen3"])
def test_packed_equals_unpacked(family, attention, encode):
    model = tiny_model(family)
    model.set_attn_implementation(attention)
    scorer = PackedScorer(model)
    encoded = encode(rows(6) + rows(2, num_candidates=9, start=50))
    with torch.no_grad():
        packed = scorer(pack(encoded))
        for values, item in zip(packed, encoded, strict=True):
            plain = unpacked_logprobs(model, item, "cpu")
            torch.testing.assert_close(values[: len(plain)], plain, **TOLERANCE)


@torch.no_grad()
def test_parity_notices_positions_that_do_not_restart(encode):
    model, [item] = tiny_model(), encode(rows(1))
    batch = pack([item])
    wrong = replace(batch, position_ids=torch.arange(batch.input_ids.shape[1])[None])
    assert (PackedScorer(model)(wrong)[0] - unpacked_logprobs(model, item, "cpu")).abs().max() > 0.1


@torch.no_grad()
def test_parity_notices_branches_that_see_each_other(encode):
    model, [item] = tiny_model(), encode(rows(1))
    batch = pack([item])
    leaking = replace(batch, segment_ids=torch.zeros_like(batch.segment_ids))
    assert (PackedScorer(model)(leaking)[0] - unpacked_logprobs(model, item, "cpu")).abs().max() > 0.1


@torch.no_grad()
def test_neither_order_nor_batch_mates_matter(encode):
    scorer = PackedScorer(tiny_model())
    encoded = encode(rows(5) + rows(1, num_candidates=11, start=70))
    together = scorer(pack(encoded))
    for index, item in enumerate(encoded):
        count = len(item.ending_ids)
        alone = scorer(pack([item]))[0]
        backwards = scorer(pack([item], [range(count)[::-1]]))[0].flip(0)
        torch.testing.assert_close(together[index, :count], alone, **TOLERANCE)
        torch.testing.assert_close(backwards, alone, **TOLERANCE)


def test_a_last_layer_of_the_scored_rows_alone_changes_no_gradient(encode):
    batch, gradients = pack(encode(rows(3))), []
    for attention, narrowed in (("sdpa", True), ("eager", False)):
        model = tiny_model()
        model.set_attn_implementation(attention)
        assert can_narrow(model) == narrowed
        names = list(model.state_dict())
        PackedScorer(model)(batch).sum().backward()
        assert list(model.state_dict()) == names
        gradients.append([parameter.grad for parameter in model.parameters()])
    for mine, whole in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, whole, rtol=1e-3, atol=1e-5 * whole.abs().max().item())


def test_batches_hold_questions_of_like_length_within_the_tokens_the_longest_first(encode):
    encoded = encode(rows(9) + rows(3, num_candidates=9, start=50))
    batches = like_length(encoded, 300, 3)
    lengths = [[encoded[index].num_tokens for index in batch] for batch in batches]
    assert sorted(index for batch in batches for index in batch) == list(range(12))
    assert [number for batch in lengths for number in batch] == sorted((i.num_tokens for i in encoded), reverse=True)
    assert max(len(batch) * batch[0] for batch in lengths) <= 300 and {len(batch) for batch in batches} == {1, 2}
    assert max(map(len, like_length(encoded, 10_000, 3))) == 3
    assert [len(batch) for batch in like_length(encoded, 1, 3)] == [1] * 12


@torch.no_grad()
def test_equal_endings_tie_exactly(encode):
    [row] = rows(1)
    row["endings"][3] = "  " + row["endings"][1] + "\n"
    [values] = score_questions(PackedScorer(tiny_model()), encode([row]), Accelerator(), description="test")
    assert values[1] == values[3] and len(set(values)) == 4


def test_chunked_projection_changes_neither_values_nor_gradients(encode, monkeypatch):
    encoded = encode(rows(3))
    results = []
    for chunk in (10_000, 7):
        monkeypatch.setattr(scoring, "CHUNK_ROWS", chunk)
        model = tiny_model()
        logprobs = PackedScorer(model)(pack(encoded))
        logprobs.sum().backward()
        results.append([logprobs.detach(), model.model.layers[0].mlp.up_proj.weight.grad])
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(whole, chunked, rtol=1e-5, atol=1e-4)


@needs_casehold
@torch.no_grad()
def test_packed_equals_unpacked_on_real_casehold_with_the_real_tokenizer(qwen2):
    data = load_split(str(CASEHOLD), "test", limit=2)
    encoded = encode_questions(data.questions, qwen2, PromptConfig("{context}"))
    model = tiny_model(vocab_size=151_936, hidden_size=32)
    packed = PackedScorer(model)(pack(encoded))
    for values, item in zip(packed, encoded, strict=True):
        torch.testing.assert_close(values, unpacked_logprobs(model, item, "cpu"), **TOLERANCE)
