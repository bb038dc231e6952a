"""The scoring graph in 8 bits: a weight has a scale for each output channel, an activation a scale for each row.

With one scale a tensor the largest token of a packed row sets everybody's, so that an answer depends on the other
candidates, questions cannot share a run, and pretrained models, whose first token carries huge activations, lose most.
With a scale of its own a row is independent of all others. It is symmetric, and multiplies the product's row, with
which it commutes. `lib/export/calibration.py` finds what else the activations of a product need.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from lib.export.calibration import LEVELS, SMALLEST, channel_scales, observe, out_of_line, smoothing_factor
from lib.questions.prompt import EncodedQuestion

MICROSOFT = "com.microsoft"  # onnxruntime's own operators: the product that gives fp32 without int32 in between
ZERO_POINT = np.uint8(128)  # activations are unsigned for the kernels' sake
# What the first pass rounds away is at most half a level; the second one measures it in as many levels again.
SECOND_STEP = np.float32(0.5 / LEVELS)
# Activations in 8 bits where that is enough, else in two passes that come to nearly 16; or in two everywhere. Weights
# have 8 bits in both.
FORMS = ("int8", "int8x2")
NORMS = ("RMSNormalization", "LayerNormalization")


def quantize(source: Path, form: str, encoded: Sequence[EncodedQuestion]) -> ir.Model:
    """The quantised form, a name in `FORMS`, of the fp32 scoring graph at `source`, calibrated on some of the
    questions.

    All products by weights are quantised, the projection included, but for channels out of line. Attention's own
    products, of two activations, stay in fp32: a softmax in 8 bits drops every probability below 0.002.
    """
    model = ir.load(source)
    graph = model.graph
    use_matmul(graph)
    products: dict[ir.Value, list[ir.Node]] = {}  # those of the same activations share their rows
    for node in graph:
        if node.op_type == "MatMul" and node.inputs[1].is_initializer():
            products.setdefault(node.inputs[0], []).append(node)
    observed = observe(source, [value.name for value in products], encoded)
    _quantize_tables(graph)
    model.opset_imports[MICROSOFT] = 1
    constants = {
        "levels_inverse": np.float32(1 / LEVELS),
        "smallest": SMALLEST,
        "one": np.float32(1),
        "zero_point": ZERO_POINT,
        "middle": np.float32(ZERO_POINT),
        "second_step": SECOND_STEP,
        "last_axis": np.array([-1]),
    }
    shared = {name: _initializer(graph, f"int8_{name}", np.asarray(value)) for name, value in constants.items()}
    for activations, nodes in products.items():
        seen, weights = observed[activations.name], [node.inputs[1].const_value.numpy() for node in nodes]
        factor, passes = np.ones_like(seen.largest), 2
        if form == "int8":  # a second pass needs no smoothing, whose price is coarser weights
            smooth, too_coarse = smoothing_factor(seen, weights)
            if not too_coarse:
                factor, passes = smooth, 1
        divided = _divide(graph, nodes, activations, factor)
        kept = np.where(out_of_line(seen, weights), np.float32(0), np.float32(1))
        rows = _quantize_rows(graph, nodes[0], divided, kept, passes, shared)
        for node, weight in zip(nodes, weights, strict=True):
            product = _product(graph, node, rows, weight * factor[:, None], shared)
            ir.convenience.replace_all_uses_with(node.outputs[0], product)
            del graph.initializers[node.inputs[1].name]
            graph.remove(node, safe=True)
    return model


def _divide(graph: ir.Graph, nodes: Sequence[ir.Node], activations: ir.Value, factor: np.ndarray) -> ir.Value:
    """Activations [..., in] divided by factor [in] for the products `nodes`; where a norm makes them and nothing else
    takes them, by its weights, at no cost."""
    if (factor == 1).all():
        return activations
    norm, alone = activations.producer(), {node for node, _ in activations.uses()} == set(nodes)
    if alone and norm.op_type in NORMS and all(value.is_initializer() for value in norm.inputs[1:]):
        for place, value in enumerate(norm.inputs[1:], start=1):  # scale and, of a LayerNorm, bias
            array = value.const_value.numpy() / factor
            norm.replace_input_with(place, _initializer(graph, f"{activations.name}_norm_{place}", array))
        return activations
    inverse = _initializer(graph, f"{activations.name}_inverse", (1 / factor).astype(np.float32))
    node = ir.node("Mul", [activations, inverse])
    graph.insert_before(nodes[0], node)
    return node.outputs[0]


@dataclass(frozen=True)
class _Rows:
    """Activations in 8 bits, those of a second pass behind those of the first on axis 0, the rows' scales [..., 1],
    and the channels `apart` in fp32 [..., len(apart)]."""

    eights: ir.Value
    scale: ir.Value
    num_passes: int
    apart: np.ndarray
    in_fp32: ir.Value | None


def _quantize_rows(
    graph: ir.Graph, before: ir.Node, activations: ir.Value, kept: np.ndarray, num_passes: int, shared: dict
) -> _Rows:
    """kept [in]: 0 for the channels that stay apart, else 1.

    scale = max |row| / 127; first pass: round(row / scale); second: what that leaves, in steps of 1/254."""
    nodes, add = _nodes()
    rows, in_fp32 = activations, None
    apart = np.flatnonzero(kept == 0)
    if len(apart):
        rows = add("Mul", activations, _initializer(graph, f"{activations.name}_kept", kept))
        in_fp32 = add("Gather", activations, _initializer(graph, f"{activations.name}_apart", apart), axis=-1)
    highest = add("ReduceMax", rows, shared["last_axis"], keepdims=1)
    lowest = add("ReduceMin", rows, shared["last_axis"], keepdims=1)
    largest = add("Max", highest, add("Neg", lowest), shared["smallest"])
    scale = add("Mul", largest, shared["levels_inverse"])
    scaled = add("Div", rows, scale)
    eights = add("QuantizeLinear", scaled, shared["one"], shared["zero_point"])
    if num_passes == 2:
        # Not DequantizeLinear, which onnxruntime would fuse with what stands before it.
        whole = add("Cast", eights, to=ir.DataType.FLOAT)
        rest = add("Sub", scaled, add("Sub", whole, shared["middle"]))
        second = add("QuantizeLinear", rest, shared["second_step"], shared["zero_point"])
        eights = add("Concat", eights, second, axis=0)
    graph.insert_before(before, nodes)
    return _Rows(eights, scale, num_passes, apart, in_fp32)


def _product(graph: ir.Graph, before: ir.Node, rows: _Rows, weight: np.ndarray, shared: dict) -> ir.Value:
    """The product with weight [in, out] in fp32: of each pass, added up, times the rows' scales, and of the channels
    apart. It is one product of both passes, since onnxruntime without VNNI rewrites a weight, and cannot do that
    twice."""
    name = before.inputs[1].name
    array = weight.copy()
    array[rows.apart] = 0
    scales = channel_scales(array)
    eights = _initializer(graph, f"{name}_int8", np.rint(array / scales).astype(np.int8))
    scale = _initializer(graph, f"{name}_scale", scales)
    nodes, add = _nodes()
    inputs = rows.eights, eights, shared["one"], scale, shared["zero_point"]
    total = add("MatMulIntegerToFloat", *inputs, domain=MICROSOFT)
    if rows.num_passes == 2:
        halves = ir.node("Split", [total], {"axis": 0, "num_outputs": 2}, num_outputs=2)
        nodes.append(halves)
        first, second = halves.outputs
        total = add("Add", first, add("Mul", second, shared["second_step"]))
    total = add("Mul", total, rows.scale)
    if rows.in_fp32 is not None:
        total = add("Add", total, add("MatMul", rows.in_fp32, _initializer(graph, f"{name}_apart", weight[rows.apart])))
    graph.insert_before(before, nodes)
    return total


def _nodes() -> tuple[list[ir.Node], Callable[..., ir.Value]]:
    """A list of nodes, and what adds one to it and gives its output."""
    nodes = []

    def add(operator: str, *inputs: ir.Value, domain: str = "", **attributes) -> ir.Value:
        nodes.append(ir.node(operator, list(inputs), attributes, domain=domain))
        return nodes[-1].outputs[0]

    return nodes, add


def use_matmul(graph: ir.Graph) -> None:
    """The projection's slices as MatMul by a transposed weight, as all other products are."""
    for node in graph:
        if node.op_type == "Gemm":
            weight = node.inputs[1]
            transposed = ir.Tensor(np.ascontiguousarray(weight.const_value.numpy().T), name=weight.name)
            weight.const_value, weight.shape = transposed, transposed.shape
            node.op_type = "MatMul"
            node.attributes.clear()


def _quantize_tables(graph: ir.Graph) -> None:
    """Gather int8 rows and their scales instead of fp32 rows (embedding, projection). A row has its own scale.

    On the 0.5B architecture fp16 or fp32 rows change log-probs by no less, and add 136 or 408 MB to 633.
    """
    tables = {node.inputs[0] for node in graph if node.op_type == "Gather" and node.inputs[0].is_initializer()}
    for value in sorted((value for value in tables if len(value.shape) == 2), key=lambda value: value.name):
        rows = value.const_value.numpy()
        scales = channel_scales(rows.T)[:, None]
        table = _initializer(graph, f"{value.name}_int8", np.rint(rows / scales).astype(np.int8))
        scale = _initializer(graph, f"{value.name}_scale", scales)
        for node, _ in list(value.uses()):
            index = node.inputs[1]
            gathered = ir.node("Gather", [table, index], {"axis": 0})
            gathered_scale = ir.node("Gather", [scale, index], {"axis": 0})
            whole = ir.node("Cast", gathered.outputs, {"to": ir.DataType.FLOAT})
            row = ir.node("Mul", [whole.outputs[0], gathered_scale.outputs[0]])
            graph.insert_before(node, [gathered, gathered_scale, whole, row])
            ir.convenience.replace_all_uses_with(node.outputs[0], row.outputs[0])
            graph.remove(node, safe=True)
        del graph.initializers[value.name]


def _initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.Tensor(array, name=name)
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
