"""The packed pass as an ONNX graph: int64 `input_ids, position_ids, segment_ids [B, L]` and `pred_index, target_ids,
cand_index [B, N]` in, `logprobs [B, K]` out, with B, L, N and K dynamic. No logits leave it, or ever exist at once."""

import contextlib
import io
import logging
import math
import warnings
from dataclasses import replace

import onnx_ir as ir
import onnx_ir.passes.common as passes
import torch
import torch.nn.functional as F
from onnxscript import optimizer, rewriter
from onnxscript.rewriter import onnx_fusions
from torch import Tensor, nn
from transformers import PreTrainedModel

from lib.errors import InputError
from lib.export.attention import ATTENTION, BLOCKS, TRANSLATIONS
from lib.export.repeated_layers import CutOut, alike
from lib.packed.pack import PADDING, TENSORS, PackedBatch, attention_mask, gather_rows
from lib.packed.scored_rows import ScoredRows, can_narrow, decoder_of
from lib.packed.scoring import sum_by_candidate

OUTPUT = "logprobs"
OPSET = 23  # the first with operators for attention, rotary embedding and RMSNorm
GRAPH_SLICE = 10_000  # of the vocabulary projected at once: 40 kB of fp32 logits a row, so that they stay in cache


class ScoringGraph(nn.Module):
    """What is traced. It equals `PackedScorer`, with attention and projection laid out for a runtime on a CPU.

    The log-sum-exp runs over slices of the vocabulary, so that the weights are read once and [B * N, V] logits never
    exist; the target's logit is a product with its own row of the projection. The slices are views of the projection,
    which ties them to the embedding's bytes where the model does.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        head = model.get_output_embeddings()
        self.decoder = decoder_of(model)
        self.weight, self.bias = head.weight, head.bias
        self.num_slices = math.ceil(len(head.weight) / GRAPH_SLICE)
        biases = None if head.bias is None else head.bias.detach().chunk(self.num_slices)
        for index, part in enumerate(head.weight.detach().chunk(self.num_slices)):
            self.register_buffer(f"slice_{index}", part, persistent=False)
            self.register_buffer(f"bias_{index}", None if head.bias is None else biases[index], persistent=False)

    def forward(self, *inputs: Tensor) -> Tensor:
        *_, cand_index = inputs
        batch = _long_enough(PackedBatch(*inputs, num_candidates=cand_index.max().item() + 1))
        last = getattr(self.decoder, "layers", [None])[-1]  # gpt2 calls them otherwise
        if isinstance(last, ScoredRows):
            last.pred_index = batch.pred_index
        mask = attention_mask(batch.segment_ids, torch.float32)
        hidden = self.decoder(
            input_ids=batch.input_ids, position_ids=batch.position_ids, attention_mask=mask, use_cache=False
        ).last_hidden_state
        # (B * N, H)
        rows = hidden.flatten(0, 1) if isinstance(last, ScoredRows) else gather_rows(hidden, batch.pred_index)
        targets = batch.target_ids.flatten().clamp(min=0)
        target_logits = (rows * F.embedding(targets, self.weight)).sum(-1)
        if self.bias is not None:  # phi's
            target_logits = target_logits + self.bias[targets]
        normaliser = torch.stack([self._log_sum_exp(rows, index) for index in range(self.num_slices)], -1).logsumexp(-1)
        token_logprobs = (target_logits - normaliser).view_as(batch.pred_index)
        return sum_by_candidate(token_logprobs, batch.cand_index, batch.num_candidates)

    def _log_sum_exp(self, rows: Tensor, index: int) -> Tensor:
        """Log-sum-exp [M] over one slice. LogSoftmax is a single fused kernel in onnxruntime, ReduceLogSumExp is
        several passes over memory; the difference at any one token is the log-sum-exp."""
        logits = F.linear(rows, getattr(self, f"slice_{index}"), getattr(self, f"bias_{index}"))
        return logits[:, 0] - F.log_softmax(logits, dim=-1)[:, 0]


def _long_enough(batch: PackedBatch) -> PackedBatch:
    """Rows [B, L] padded to a token for each block of attention, where they have fewer."""
    lacking = torch.sym_max(BLOCKS - batch.input_ids.shape[1], 0)
    padded = {
        name: F.pad(getattr(batch, name), (0, lacking), value=value)
        for name, value in (("input_ids", 0), ("position_ids", 0), ("segment_ids", PADDING))
    }
    return replace(batch, **padded)


def export_graph(model: PreTrainedModel) -> ir.Model:
    """The scoring graph of a merged fp32 causal LM; its initializers share the model's memory.

    Raises InputError for a model family that the exporter or the packed form cannot take.
    """
    attention = model.config._attn_implementation
    model.set_attn_implementation(ATTENTION)
    decoder, narrow = decoder_of(model), can_narrow(model)
    layers = decoder.layers if narrow else []
    repeated = alike(layers)
    if narrow:
        shown = [layers[0], repeated[0]] if repeated else layers[:-1]
        decoder.layers = nn.ModuleList([*shown, ScoredRows(layers[-1])])
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                ScoringGraph(model).eval(),
                _example(),
                dynamo=True,
                dynamic_shapes=(tuple(dynamic for _ in TENSORS),),
                input_names=TENSORS,
                output_names=[OUTPUT],
                opset_version=OPSET,
                optimize=False,
                custom_translation_table=TRANSLATIONS,
            )
            graph = program.model
            cut_out = CutOut(graph.graph, "decoder.layers") if repeated else None
            _simplify(graph)
            if cut_out:
                cut_out.put_in(repeated)
                _fold(graph)
    except torch.onnx.OnnxExporterError as error:
        reason = " ".join(str(error).split())[-300:]
        raise InputError(f"model family {model.config.model_type} cannot be exported (...{reason})") from None
    finally:
        model.set_attn_implementation(attention)
        if narrow:
            decoder.layers = layers
    for node in graph.graph:
        node.metadata_props.clear()  # stack traces: 2 MB, and paths of this machine
        node.doc_string = None
    return graph


def _simplify(graph: ir.Model) -> None:
    """What the exporter's own `optimize` does, once constants are folded. It looks for some hundred patterns at every
    node; of 10,000 nodes of a 30-layer graph 8,000 make constants, and its search took most of the export's time."""
    passes.InlinePass()(graph)
    _fold(graph)
    rewriter.rewrite(graph)
    _fold(graph)
    onnx_fusions.fuse(graph)
    passes.RemoveUnusedNodesPass()(graph)


def _fold(graph: ir.Model) -> None:
    optimizer.fold_constants(graph)
    for simplify in (
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.NameFixPass(),
    ):
        simplify(graph)


def _example() -> tuple[Tensor, ...]:
    """Inputs with no two equal sizes, so that the exporter ties none of them together: B 2, L 8, N 6, K 3."""
    rows = {
        "input_ids": [5, 6, 7, 8, 9, 5, 6, 7],
        "position_ids": [0, 1, 2, 3, 4, 4, 5, 4],
        "segment_ids": [0, 0, 0, 0, 1, 2, 2, 3],
        "pred_index": [3, 4, 3, 5, 6, 3],
        "target_ids": [9, 1, 5, 6, 1, 7],
        "cand_index": [0, 0, 1, 1, 1, 2],
    }
    return tuple(torch.tensor([rows[name]] * 2) for name in TENSORS)


@contextlib.contextmanager
def _quiet():
    """The exporter prints its progress, and warnings that say nothing of this graph."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
