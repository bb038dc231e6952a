"""The scoring graph in 8 bits: a weight has a scale for each output channel, an activation a scale for each row.

With one scale a tensor the largest token of a packed row sets everybody's, so that an answer depends on the other
candidates, questions cannot share a run, and pretrained models, whose first token carries huge activations, lose most.
With a scale of its own a row is independent of all others. It is symmetric, and multiplies the product's row, with
which it commutes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

MICROSOFT = "com.microsoft"  # onnxruntime's own operators: the product that gives fp32 without int32 in between
LEVELS = 127  # of a symmetric 8-bit number
ZERO_POINT = np.uint8(128)  # activations are unsigned for the kernels' sake
# What the first pass rounds away is at most half a level; the second one measures it in as many levels again.
SECOND_STEP = np.float32(0.5 / LEVELS)
SMALLEST = np.float32(1e-30)  # of a row's largest: a row of zeros stays zeros
# Passes in which activations are read: one of 8 bits, or two that come to nearly 16. Weights have 8 bits in both.
PASSES = {"int8": 1, "int8x2": 2}


def quantize(source: Path, form: str) -> ir.Model:
    """The quantised form, a name in `PASSES`, of the fp32 scoring graph at `source`.

    All products by weights are quantised, the projection included. Attention's own products, of two activations, stay
    in fp32: a softmax in 8 bits drops every probability below 0.002.
    """
    model = ir.load(source)
    graph = model.graph
    use_matmul(graph)
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
    rows: dict[ir.Value, _Rows] = {}  # products of the same activations share their rows
    for node in [node for node in graph if node.op_type == "MatMul" and node.inputs[1].is_initializer()]:
        activations, weight = node.inputs
        if activations not in rows:
            rows[activations] = _quantize_rows(graph, node, activations, PASSES[form], shared)
        product = _product(graph, node, rows[activations], weight, shared)
        ir.convenience.replace_all_uses_with(node.outputs[0], product)
        graph.remove(node, safe=True)
        del graph.initializers[weight.name]
    return model


@dataclass(frozen=True)
class _Rows:
    """Activations in 8 bits, those of a second pass behind those of the first on axis 0, and the rows' scales
    [..., 1]."""

    eights: ir.Value
    scale: ir.Value
    num_passes: int


def _quantize_rows(graph: ir.Graph, before: ir.Node, activations: ir.Value, num_passes: int, shared: dict) -> _Rows:
    """scale = max |row| / 127; first pass: round(row / scale); second: what that leaves, in steps of 1/254."""
    nodes, add = _nodes()
    highest = add("ReduceMax", activations, shared["last_axis"], keepdims=1)
    lowest = add("ReduceMin", activations, shared["last_axis"], keepdims=1)
    largest = add("Max", highest, add("Neg", lowest), shared["smallest"])
    scale = add("Mul", largest, shared["levels_inverse"])
    scaled = add("Div", activations, scale)
    eights = add("QuantizeLinear", scaled, shared["one"], shared["zero_point"])
    if num_passes == 2:
        # Not DequantizeLinear, which onnxruntime would fuse with what stands before it.
        whole = add("Cast", eights, to=ir.DataType.FLOAT)
        rest = add("Sub", scaled, add("Sub", whole, shared["middle"]))
        second = add("QuantizeLinear", rest, shared["second_step"], shared["zero_point"])
        eights = add("Concat", eights, second, axis=0)
    graph.insert_before(before, nodes)
    return _Rows(eights, scale, num_passes)


def _product(graph: ir.Graph, before: ir.Node, rows: _Rows, weight: ir.Value, shared: dict) -> ir.Value:
    """The product in fp32: of each pass, added up, times the rows' scales. It is one product of both passes, since
    onnxruntime without VNNI rewrites a weight, and cannot do that twice."""
    array = weight.const_value.numpy()  # [in, out]
    scales = channel_scales(array)
    eights = _initializer(graph, f"{weight.name}_int8", np.rint(array / scales).astype(np.int8))
    scale = _initializer(graph, f"{weight.name}_scale", scales)
    nodes, add = _nodes()
    inputs = rows.eights, eights, shared["one"], scale, shared["zero_point"]
    total = add("MatMulIntegerToFloat", *inputs, domain=MICROSOFT)
    if rows.num_passes == 2:
        halves = ir.node("Split", [total], {"axis": 0, "num_outputs": 2}, num_outputs=2)
        nodes.append(halves)
        first, second = halves.outputs
        total = add("Add", first, add("Mul", second, shared["second_step"]))
    total = add("Mul", total, rows.scale)
    graph.insert_before(before, nodes)
    return total


def _nodes() -> tuple[list[ir.Node], Callable[..., ir.Value]]:
    """A list of nodes, and what adds one to it and gives its output."""
    nodes = []

    def add(operator: str, *inputs: ir.Value, domain: str = "", **attributes) -> ir.Value:
        nodes.append(ir.node(operator, list(inputs), attributes, domain=domain))
        return nodes[-1].outputs[0]

    return nodes, add


def channel_scales(weight: np.ndarray) -> np.ndarray:
    """Scales [out] in fp32 of a weight [in, out]: the largest of each output channel is 127 levels."""
    scales = np.abs(weight).max(axis=0) / LEVELS
    scales[scales == 0] = 1
    return scales.astype(np.float32)


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
