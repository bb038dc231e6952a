"""A product by weights in whole numbers, as nodes of a graph: rows of activations to 8 bits, and by a weight in 8."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lib.export.calibration import BLOCK, HADAMARD, LEVELS, SMALLEST, channel_scales, rotate

MICROSOFT = "com.microsoft"  # onnxruntime's own operators: the product that gives fp32 without int32 in between
ZERO_POINT = np.uint8(128)  # activations are unsigned for the kernels' sake
CONSTANTS = {
    "levels_inverse": np.float32(1 / LEVELS),
    "smallest": SMALLEST,
    "one": np.float32(1),
    "zero_point": ZERO_POINT,
    "middle": np.float32(ZERO_POINT),
    # What the first pass rounds away is at most half a level; the second one measures it in as many levels again. So of
    # weights that are kept finely.
    "second_step": np.float32(0.5 / LEVELS),
    "last_axis": np.array([-1]),
    "as_blocks": np.array([-1, BLOCK]),
    "hadamard": HADAMARD,
}


@dataclass(frozen=True)
class Rows:
    """Activations [..., in]; the scales [..., 1] that they are still to be multiplied by, if any; whether their
    channels are rotated before they are rounded; which channels [in] stay apart, in fp32; whether what the first pass
    rounds away is read in a second one."""

    values: ir.Value
    owed: ir.Value | None
    rotated: bool
    apart: np.ndarray
    two_passes: bool


@dataclass(frozen=True)
class QuantizedRows:
    """The rows in 8 bits: of the first pass, and with those of a second one behind them on axis 0; their scales
    [..., 1]; and the channels apart in fp32 [..., apart.sum()]."""

    source: Rows
    first: ir.Value
    eights: ir.Value
    scale: ir.Value
    in_fp32: ir.Value | None


def quantize_rows(graph: ir.Graph, before: ir.Node, rows: Rows) -> QuantizedRows:
    """scale = max |row| / 127; first pass: round(row / scale); second: what that leaves, in steps of 1/254."""
    nodes, add, constant = _nodes(graph)
    values, in_fp32 = rows.values, None
    if rows.apart.any():
        channels = initializer(graph, f"{values.name}_apart", np.flatnonzero(rows.apart))
        in_fp32 = add("Gather", values, channels, axis=-1)
        values = add("Mul", values, initializer(graph, f"{values.name}_kept", (~rows.apart).astype(np.float32)))
        if rows.owed is not None:
            in_fp32 = add("Mul", in_fp32, rows.owed)
    if rows.rotated:
        blocks = add("MatMul", add("Reshape", values, constant("as_blocks")), constant("hadamard"))
        values = add("Reshape", blocks, add("Shape", values))
    highest = add("ReduceMax", values, constant("last_axis"), keepdims=1)
    lowest = add("ReduceMin", values, constant("last_axis"), keepdims=1)
    largest = add("Max", highest, add("Neg", lowest), constant("smallest"))
    scale = add("Mul", largest, constant("levels_inverse"))
    scaled = add("Div", values, scale)
    first = eights = add("QuantizeLinear", scaled, constant("one"), constant("zero_point"))
    if rows.two_passes:
        # Not DequantizeLinear, which onnxruntime would fuse with what stands before it.
        whole = add("Sub", add("Cast", first, to=ir.DataType.FLOAT), constant("middle"))
        second = add("QuantizeLinear", add("Sub", scaled, whole), constant("second_step"), constant("zero_point"))
        eights = add("Concat", first, second, axis=0)
    if rows.owed is not None:
        scale = add("Mul", scale, rows.owed)
    graph.insert_before(before, nodes)
    return QuantizedRows(rows, first, eights, scale, in_fp32)


def multiply(
    graph: ir.Graph, before: ir.Node, rows: QuantizedRows, weight: np.ndarray, *, scaled: bool, fine: bool
) -> ir.Value:
    """The product [..., out] with weight [in, out] in fp32: of each pass, added up, times the rows' scales where it is
    to be `scaled`, and of the channels apart. It is one product of both passes, since onnxruntime without VNNI rewrites
    a weight, and cannot do that twice. fine: what the weight's rounding leaves is another weight, multiplied by the
    first pass."""
    name, source = before.inputs[1].name, rows.source
    array = weight.copy()
    array[source.apart] = 0
    if source.rotated:
        array = rotate(array)
    scales = channel_scales(array)
    rounded = np.rint(array / scales)
    eights = initializer(graph, f"{name}_int8", rounded.astype(np.int8))
    scale = initializer(graph, f"{name}_scale", scales)
    nodes, add, constant = _nodes(graph)
    one, zero = constant("one"), constant("zero_point")
    total = add("MatMulIntegerToFloat", rows.eights, eights, one, scale, zero, domain=MICROSOFT)
    if source.two_passes:
        halves = ir.node("Split", [total], {"axis": 0, "num_outputs": 2}, num_outputs=2)
        nodes.append(halves)
        first, second = halves.outputs
        total = add("Add", first, add("Mul", second, constant("second_step")))
    if fine:
        step = CONSTANTS["second_step"]
        left = initializer(graph, f"{name}_left", np.rint((array / scales - rounded) / step).astype(np.int8))
        left_scale = initializer(graph, f"{name}_left_scale", scales * step)
        left_product = add("MatMulIntegerToFloat", rows.first, left, one, left_scale, zero, domain=MICROSOFT)
        total = add("Add", total, left_product)
    if scaled:
        total = add("Mul", total, rows.scale)
    if rows.in_fp32 is not None:
        exact = initializer(graph, f"{name}_apart", weight[source.apart])
        total = add("Add", total, add("MatMul", rows.in_fp32, exact))
    graph.insert_before(before, nodes)
    return total


def initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.Tensor(array, name=name)
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def _nodes(graph: ir.Graph) -> tuple[list[ir.Node], Callable[..., ir.Value], Callable[[str], ir.Value]]:
    """A list of nodes, what adds one to it and gives its output, and what gives a constant of `CONSTANTS`."""
    nodes = []

    def add(operator: str, *inputs: ir.Value, domain: str = "", **attributes) -> ir.Value:
        nodes.append(ir.node(operator, list(inputs), attributes, domain=domain))
        return nodes[-1].outputs[0]

    def constant(name: str) -> ir.Value:
        known = graph.initializers.get(f"int8_{name}")
        return known or initializer(graph, f"int8_{name}", np.asarray(CONSTANTS[name]))

    return nodes, add, constant
