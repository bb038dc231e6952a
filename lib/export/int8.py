"""The scoring graph in int8: weights per output channel, activations as they come (dynamic)."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
from transformers import PretrainedConfig

from lib.errors import InputError


def require_optimum(what: str) -> None:
    """Raises InputError, with what to install, where optimum's ONNX half is missing."""
    try:
        import optimum.onnxruntime  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"{what} needs optimum ({error}); pip install optimum==2.1.0 optimum-onnx==0.1.0 transformers==4.57.6"
        ) from None


def quantize(
    source: Path, folder: Path, config: PretrainedConfig, *, per_channel: bool = True, projection: bool = True
) -> ir.Model:
    """The int8 form of the fp32 scoring graph at `source`; works in `folder`, and the result's weights lie there.
    One scale a tensor, and a projection left in fp32, are there for benchmarks/fidelity.py to measure.

    optimum's quantiser does the matrix products, the projection included. Attention's own products, of two
    activations, stay in fp32: a softmax in 8 bits drops every probability below 0.002.
    """
    from optimum.onnxruntime import AutoQuantizationConfig, ORTQuantizer

    graph = ir.load(source)
    kept = set() if projection else {node.name for node in graph.graph if node.op_type == "Gemm"}
    use_matmul(graph.graph)
    tables = _take_tables(graph.graph)
    products = [node for node in graph.graph if node.op_type == "MatMul" and node.inputs[1].is_initializer()]
    names = [node.name for node in products if node.name not in kept]
    # Shapes are known from the export. This mark, which the quantiser's own preparation would leave, spares it a
    # second copy of the model.
    graph.metadata_props["onnx.infer"] = "onnxruntime.quant"
    staged = folder / "staged.onnx"
    ir.save(graph, staged, external_data="staged.data")
    del graph
    # u8 x s8 products, exact on every CPU with VNNI or dot-product instructions; without them (x86 before 2019)
    # onnxruntime's kernels can saturate.
    settings = AutoQuantizationConfig.avx512_vnni(
        is_static=False, per_channel=per_channel, operators_to_quantize=["MatMul"], nodes_to_quantize=names
    )
    ORTQuantizer(staged, config=config).quantize(
        save_dir=folder, file_suffix="int8", quantization_config=settings, use_external_data_format=True
    )
    staged.with_suffix(".data").unlink()
    quantized = ir.load(folder / "staged_int8.onnx")
    del quantized.metadata_props["onnx.infer"]
    _put_tables(quantized.graph, tables)
    return quantized


def use_matmul(graph: ir.Graph) -> None:
    """The projection's slices as MatMul by a transposed weight: the quantiser takes neither Gemm nor Transpose."""
    for node in graph:
        if node.op_type == "Gemm":
            weight = node.inputs[1]
            transposed = ir.Tensor(np.ascontiguousarray(weight.const_value.numpy().T), name=weight.name)
            weight.const_value, weight.shape = transposed, transposed.shape
            node.op_type = "MatMul"
            node.attributes.clear()


def _take_tables(graph: ir.Graph) -> dict[str, np.ndarray]:
    """Make the tables that rows are gathered from (embedding, projection) inputs, so that the quantiser, which knows
    only one scale a table, does not load them."""
    tables = {}
    for node in list(graph):
        table = node.inputs[0] if node.op_type == "Gather" else None
        if table is not None and table.is_initializer() and len(table.shape) == 2:
            tables[table.name] = table.const_value.numpy()
            table.const_value = None
            del graph.initializers[table.name]
            graph.inputs.append(table)
    return tables


def _put_tables(graph: ir.Graph, tables: dict[str, np.ndarray]) -> None:
    """Gather int8 rows and their scales instead of fp32 rows. A row has its own scale, symmetric.

    On the 0.5B architecture fp16 or fp32 rows change log-probs by no less, and add 136 or 408 MB to 633.
    """
    for value in [value for value in graph.inputs if value.name in tables]:
        graph.inputs.remove(value)
        rows = tables[value.name]
        scales = np.abs(rows).max(axis=1, keepdims=True) / 127
        scales[scales == 0] = 1
        table = _initializer(graph, f"{value.name}_int8", np.rint(rows / scales).astype(np.int8))
        scale = _initializer(graph, f"{value.name}_scale", scales.astype(np.float32))
        for node, _ in list(value.uses()):
            index = node.inputs[1]
            gathered = ir.node("Gather", [table, index], {"axis": 0})
            gathered_scale = ir.node("Gather", [scale, index], {"axis": 0})
            whole = ir.node("Cast", gathered.outputs, {"to": ir.DataType.FLOAT})
            row = ir.node("Mul", [whole.outputs[0], gathered_scale.outputs[0]])
            graph.insert_before(node, [gathered, gathered_scale, whole, row])
            ir.convenience.replace_all_uses_with(node.outputs[0], row.outputs[0])
            graph.remove(node, safe=True)


def _initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.Tensor(array, name=name)
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
