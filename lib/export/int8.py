"""The scoring graph in 8 bits: a weight has a scale for each output channel, an activation a scale for each row.

With one scale a tensor the largest token of a packed row sets everybody's, so that an answer depends on the other
candidates, questions cannot share a run, and pretrained models, whose first token carries huge activations, lose most.
With a scale of its own a row is independent of all others. It is symmetric, and multiplies the product's row, with
which it commutes. `lib/export/calibration.py` finds what else the activations of a product need.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from lib.export.calibration import LEVELS, channel_scales, is_wide, observe, out_of_line, remedy
from lib.export.int8_product import MICROSOFT, Rows, initializer, multiply, quantize_rows
from lib.questions.prompt import EncodedQuestion

# Activations and weights in 8 bits; or activations in two passes of 8 that come to nearly 16, and so the weights
# whose rounding costs most: MLPs on their way up, and in 16 bits the embedding.
FORMS = ("int8", "int8x2")
NORMS = ("RMSNormalization", "LayerNormalization")


def quantize(source: Path, form: str, encoded: Sequence[EncodedQuestion]) -> ir.Model:
    """The quantised form, a name in `FORMS`, of the fp32 scoring graph at `source`, calibrated on some of the
    questions.

    All products by weights are quantised, the projection included. Attention's own products, of two activations, stay
    in fp32: a softmax in 8 bits drops every probability below 0.002.
    """
    model = ir.load(source)
    graph = model.graph
    projection = use_matmul(graph)
    products: dict[ir.Value, list[ir.Node]] = {}  # those of the same activations share their rows
    for node in graph:
        if node.op_type == "MatMul" and node.inputs[1].is_initializer():
            products.setdefault(node.inputs[0], []).append(node)
    observed = observe(source, [value.name for value in products], encoded)
    model.opset_imports[MICROSOFT] = 1
    owed: dict[ir.Value, ir.Value] = {}  # the scale [..., 1] that rows are still to be multiplied by
    for activations, nodes in products.items():
        seen, weights = observed[activations.name], [node.inputs[1].const_value.numpy() for node in nodes]
        apart = out_of_line(seen, weights)
        factor, rotated = np.ones_like(seen.largest), False
        if form == "int8":  # two passes need no remedy, whose price is coarser weights
            factor, rotated = remedy(seen, weights, apart)
        divided = _divide(graph, nodes, activations, factor)
        rows = Rows(divided, owed.get(activations), rotated, apart, two_passes=form == "int8x2")
        quantized = quantize_rows(graph, nodes[0], rows)
        fine = form == "int8x2" and is_wide(weights) and not projection.issuperset(nodes)
        for node, weight in zip(nodes, weights, strict=True):
            gated = None if apart.any() else _gated(node, products)
            gated = None if gated in owed else gated  # by the other factor
            if gated is not None:  # a row's scale commutes with the gate, and with the rounding that follows
                owed[gated] = quantized.scale
            product = multiply(graph, node, quantized, weight * factor[:, None], scaled=gated is None, fine=fine)
            ir.convenience.replace_all_uses_with(node.outputs[0], product)
            del graph.initializers[node.inputs[1].name]
            graph.remove(node, safe=True)
    # Last: OLMo 2's first products take the embedding's rows as they are, with no norm between.
    _quantize_tables(graph, np.int16 if form == "int8x2" else np.int8)
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
            norm.replace_input_with(place, initializer(graph, f"{activations.name}_norm_{place}", array))
        return activations
    inverse = initializer(graph, f"{activations.name}_inverse", (1 / factor).astype(np.float32))
    node = ir.node("Mul", [activations, inverse])
    graph.insert_before(nodes[0], node)
    return node.outputs[0]


def _gated(node: ir.Node, products: dict[ir.Value, list[ir.Node]]) -> ir.Value | None:
    """What the product is a factor of, where nothing but that takes it, and products alone take that: an MLP's gated
    activations."""
    uses = [user for user, _ in node.outputs[0].uses()]
    if len(uses) != 1 or uses[0].op_type != "Mul":
        return None
    gated = uses[0].outputs[0]
    return gated if {user for user, _ in gated.uses()} == set(products.get(gated, ())) else None


def use_matmul(graph: ir.Graph) -> set[ir.Node]:
    """Products of two axes (the projection's slices, all of GPT-2's) as MatMul by a weight [in, out], as all others
    are, and an Add where they have a bias; returns the projection's."""
    projection = set()
    for node in [node for node in graph if node.op_type == "Gemm"]:
        rows, weight, *biases = node.inputs
        if node.attributes.get_int("transB", 0):
            transposed = ir.Tensor(np.ascontiguousarray(weight.const_value.numpy().T), name=weight.name)
            weight.const_value, weight.shape = transposed, transposed.shape
        product = ir.node("MatMul", [rows, weight])
        result = ir.node("Add", [product.outputs[0], *biases]) if biases else product
        graph.insert_before(node, [product, result] if biases else [product])
        if any(user.op_type == "LogSoftmax" for user, _ in node.outputs[0].uses()):
            projection.add(product)
        ir.convenience.replace_all_uses_with(node.outputs[0], result.outputs[0])
        graph.remove(node, safe=True)
    return projection


def _quantize_tables(graph: ir.Graph, dtype: type[np.integer]) -> None:
    """Gather whole numbers of dtype and their scales instead of fp32 rows (embedding, and the projection's rows of the
    targets). A row has its own scale."""
    tables = {node.inputs[0] for node in graph if node.op_type == "Gather" and node.inputs[0].is_initializer()}
    for value in sorted((value for value in tables if len(value.shape) == 2), key=lambda value: value.name):
        rows = value.const_value.numpy()
        scales = channel_scales(rows.T)[:, None] * np.float32(LEVELS / np.iinfo(dtype).max)
        table = initializer(graph, f"{value.name}_{dtype.__name__}", np.rint(rows / scales).astype(dtype))
        scale = initializer(graph, f"{value.name}_scale", scales)
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
