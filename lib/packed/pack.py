"""The packed pass, part one: questions as rows of tokens in which every candidate branches off one prompt.

tokens     p0 p1 ... pn  a0 a1 a2  b0 b1  c0 c1 c2 c3
position   0  1  ... n   n+1 ...   n+1 .. n+1 ...          every branch restarts after the prompt
segment    0  0  ... 0   1  1  1   2  2   3  3  3  3       0 = prompt, k = candidate k, -1 = padding
scored     row n predicts a0, b0 and c0; row a0 predicts a1; ...
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from lib.questions.prompt import EncodedQuestion

PADDING = -1
FED = ("input_ids", "position_ids", "segment_ids")
TENSORS = (*FED, "pred_index", "target_ids", "cand_index")
FILL = {"input_ids": 0, "position_ids": 0}  # of padding, else -1


@dataclass(frozen=True)
class PackedBatch:
    """int64 tensors, right-padded. Rows [B, L]: `input_ids`, `position_ids` (padding 0, never seen), `segment_ids`
    (padding -1). Scored tokens [B, N], padding -1: token `target_ids` of candidate `cand_index` (from 0) is predicted
    by the hidden state at position `pred_index` of its row. `num_candidates`, K, is the largest number of candidates of
    a row: known while packing, so that nothing waits for a GPU to tell it."""

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    segment_ids: torch.Tensor
    pred_index: torch.Tensor
    target_ids: torch.Tensor
    cand_index: torch.Tensor
    num_candidates: int

    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: getattr(self, name) for name in TENSORS}

    def to(self, device) -> "PackedBatch":
        return PackedBatch(*to_device(list(self.tensors().values()), device), self.num_candidates)

    def by_token(self) -> "PackedBatch":
        """The same batch with every scored token a candidate of its own: its "candidates" are summed over one token
        each, so that any scorer or exported graph gives the log-prob of every token [B, N]."""
        count = self.cand_index.shape[1]
        numbers = torch.arange(count, device=self.cand_index.device).expand_as(self.cand_index)
        return replace(self, cand_index=numbers.where(self.cand_index >= 0, PADDING), num_candidates=count)

    def parts(self, max_tokens: int, multiple: int) -> list[tuple[list[int], "PackedBatch"]]:
        """Rows of like length together, with their places in the batch; a part is as long as its longest row, rounded
        up to a `multiple` as its scored tokens are, and has `max_tokens` at most with its padding, or one row."""
        lengths = [-(-length // multiple) * multiple for length in (self.segment_ids != PADDING).sum(1).tolist()]
        parts: list[list[int]] = []
        for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
            if parts and (len(parts[-1]) + 1) * lengths[parts[-1][0]] <= max_tokens:
                parts[-1].append(place)
            else:
                parts.append([place])
        return [(places, self._rows(places, lengths[places[0]], multiple)) for places in parts]

    def _rows(self, places: list[int], length: int, multiple: int) -> "PackedBatch":
        scored = int((self.cand_index[places] != PADDING).sum(1).max())
        cut = {}
        for name, tensor in self.tensors().items():
            width = length if name in FED else -(-scored // multiple) * multiple
            cut[name] = F.pad(tensor[places], (0, width - tensor.shape[1]), value=FILL.get(name, PADDING))
        return replace(self, **cut)


def pack(encoded: Sequence[EncodedQuestion], candidates: Sequence[Sequence[int]] | None = None) -> PackedBatch:
    """Pack one question a row; `candidates[b]` names the candidates row b takes and their order (default: all)."""
    if candidates is None:
        candidates = [range(len(item.ending_ids)) for item in encoded]
    columns: dict[str, list[torch.Tensor]] = {name: [] for name in TENSORS}
    for item, chosen in zip(encoded, candidates, strict=True):
        for name, values in _row(item.prompt_ids, [item.ending_ids[index] for index in chosen]).items():
            columns[name].append(torch.tensor(values, dtype=torch.int64))
    tensors = (
        pad_sequence(rows, batch_first=True, padding_value=FILL.get(name, PADDING)) for name, rows in columns.items()
    )
    return PackedBatch(*tensors, num_candidates=max(map(len, candidates)))


def to_device(tensors: Sequence[torch.Tensor], device) -> list[torch.Tensor]:
    """Tensors of the CPU on `device`. A GPU gets them in one copy from pinned memory, which nobody waits for."""
    if torch.device(device).type != "cuda":
        return [tensor.to(device) for tensor in tensors]
    return from_bytes(as_bytes(tensors).pin_memory().to(device, non_blocking=True), tensors)


def as_bytes(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The bytes of the tensors one after the other, each begun at a multiple of 8, as any type asks."""
    flat = [tensor.contiguous().flatten().view(torch.uint8) for tensor in tensors]
    return torch.cat([F.pad(part, (0, -len(part) % 8)) for part in flat])


def from_bytes(joined: torch.Tensor, like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Views into the bytes of `as_bytes`: tensors of the types and shapes of `like`."""
    found, begin = [], 0
    for tensor in like:
        size = tensor.numel() * tensor.element_size()
        found.append(joined[begin : begin + size].view(tensor.dtype).view(tensor.shape))
        begin += size + -size % 8
    return found


def _row(prompt_ids: list[int], endings: list[list[int]]) -> dict[str, list[int]]:
    """The six lists of one row, unpadded."""
    start = len(prompt_ids)
    row = {
        "input_ids": list(prompt_ids),
        "position_ids": list(range(start)),
        "segment_ids": [0] * start,
        "pred_index": [],
        "target_ids": [],
        "cand_index": [],
    }
    for candidate, ids in enumerate(endings):
        fed = len(row["input_ids"])
        row["input_ids"] += ids[:-1]
        row["position_ids"] += range(start, start + len(ids) - 1)
        row["segment_ids"] += [candidate + 1] * (len(ids) - 1)
        # The prompt's last row predicts the first token; each token of the branch predicts the next.
        row["pred_index"] += [start - 1, *range(fed, fed + len(ids) - 1)]
        row["target_ids"] += ids
        row["cand_index"] += [candidate] * len(ids)
    return row


def attention_mask(segment_ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Additive mask [B, 1, L, L]: row i sees j iff j <= i and segment[j] is the prompt's or i's own.

    Hidden entries are large finite negatives: -inf turns a fully hidden row into NaN.
    """
    length = segment_ids.shape[1]
    index = torch.arange(length, device=segment_ids.device)
    causal = index[None, :] <= index[:, None]  # (L, L)
    keys, queries = segment_ids[:, None, :], segment_ids[:, :, None]
    visible = causal & ((keys == 0) | (keys == queries))  # (B, L, L)
    hidden = torch.finfo(dtype).min / 2
    return torch.where(visible, 0.0, hidden).to(dtype)[:, None]


def gather_rows(hidden: torch.Tensor, pred_index: torch.Tensor) -> torch.Tensor:
    """Rows [B * N, H] of hidden [B, L, H] at pred_index [B, N]; padding takes row 0, whose result is masked later."""
    num_rows, length, width = hidden.shape
    offset = torch.arange(num_rows, device=hidden.device)[:, None] * length
    return hidden.reshape(-1, width).index_select(0, (pred_index.clamp(min=0) + offset).flatten())


def causal_bounds(length: int, blocks: int) -> list[int]:
    """Bounds of `blocks` blocks of a packed row's tokens. None of them sees a later one, so that attention of a block
    needs the keys up to the block's own end alone."""
    return [length * number // blocks for number in range(blocks + 1)]
