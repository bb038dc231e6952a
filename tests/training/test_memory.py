"""What a training step is thought to need, against what its graph keeps; and what is made of it on a GPU."""

from dataclasses import replace

import pytest
import torch
from conftest import rows, tiny_model

from lib.models.loading import make_policy
from lib.packed import kernels, scoring
from lib.packed.onednn_layers import use_onednn
from lib.packed.pack import pack
from lib.packed.scoring import PackedScorer
from lib.training import memory
from lib.training.memory import drawn_tokens, pick_checkpointing
from lib.training.negatives import Sampling, draw_candidates, training_questions

SETTINGS = {"grad_checkpointing": None, "batch_size": 2, "lora_r": 8}
FOUR = Sampling(4, all_positives=False, seed=0)


def kept_bytes(num_layers: int, batch, **sizes) -> int:
    """Bytes that autograd keeps for the backward pass, without the weights."""
    policy = make_policy(tiny_model(num_hidden_layers=num_layers, **sizes).bfloat16(), 8, 32, 0.1, checkpointing=False)
    policy = use_onednn(policy).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in policy.parameters()}
    kept = {}

    def pack_hook(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()  # alive, or its address is used again
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack_hook, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        PackedScorer(policy)(batch)
    return sum(storage.nbytes() for address, storage in kept.items() if address not in weights)


@pytest.mark.parametrize("sizes", [{}, {"hidden_size": 128}, {"intermediate_size": 512}])
def test_a_layer_keeps_what_it_is_thought_to(encode, sizes, monkeypatch):
    """As on a GPU, where the kernels of a CPU, which keep less, are not."""
    monkeypatch.setattr(kernels, "_functions", lambda: None)
    monkeypatch.setattr(scoring, "PART_MULTIPLE", 1)
    batch = pack(encode(rows(1)))
    found = kept_bytes(3, batch, **sizes) - kept_bytes(2, batch, **sizes)
    expected = memory.BYTES_OF_HIDDEN * sizes.get("hidden_size", 64)
    expected += memory.BYTES_OF_MLP * sizes.get("intermediate_size", 128)
    assert found == pytest.approx(expected * batch.input_ids.numel(), rel=0.1)


def test_no_row_that_is_drawn_is_longer_than_it_is_thought_to_be(encode):
    questions, _ = training_questions(encode(rows(6, num_candidates=9)))
    for item in questions:
        lengths = []
        for epoch in range(30):
            drawn = draw_candidates(item, FOUR, epoch)
            lengths.append(replace(item.encoded, ending_ids=[item.encoded.ending_ids[k] for k in drawn]).num_tokens)
        assert max(lengths) <= drawn_tokens(item, FOUR) < item.encoded.num_tokens


def test_checkpointing_is_on_only_where_the_memory_asks_for_it(encode, monkeypatch):
    questions, _ = training_questions(encode(rows(4)))
    model, gpu = tiny_model().bfloat16(), torch.device("cuda")
    needed = memory.step_bytes(model, 2 * max(drawn_tokens(item, FOUR) for item in questions), every_weight=False)
    for free, expected in ((needed / memory.USABLE + 1e6, False), (needed / memory.USABLE - 1e6, True)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (int(free), 10**12))
        checkpointing, [said] = pick_checkpointing(SETTINGS, model, questions, FOUR, gpu)
        assert checkpointing == expected and said.startswith(f"gradient checkpointing: {'on' if expected else 'off'}, ")
    for asked in (True, False):
        assert pick_checkpointing(SETTINGS | {"grad_checkpointing": asked}, model, questions, FOUR, gpu) == (asked, [])
    assert pick_checkpointing(SETTINGS, model, questions, FOUR, torch.device("cpu")) == (False, [])
