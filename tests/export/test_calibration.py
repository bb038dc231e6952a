"""What the 8-bit forms do for activations that 8 bits suit badly: each remedy on the case that it is there for."""

import numpy as np
import onnx_ir
import pytest
from conftest import rows

from lib.export.calibration import Activations, observe, out_of_line, remedy, rotate, row_errors
from lib.export.int8 import quantize
from lib.export.session import onnx_scorer
from lib.packed.pack import pack

CHANNELS = 256
NONE = np.zeros(CHANNELS, bool)  # no channel apart


def activations(**channels: np.ndarray | float) -> Activations:
    """256 rows of normal numbers, channel NUMBER (`c5=`) times what is given."""
    values = np.random.default_rng(0).standard_normal((256, CHANNELS)).astype(np.float32)
    for name, times in channels.items():
        values[:, int(name[1:])] *= times
    return Activations(values, np.abs(values).max(axis=0))


@pytest.fixture
def weight() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((CHANNELS, 192)).astype(np.float32) / 8


def test_a_channel_large_in_every_row_is_smoothed(weight):
    large = activations(c5=40.0)
    factor, _ = remedy(large, [weight], NONE)
    assert factor.argmax() == 5
    smooth = np.median(row_errors(large.rows / factor, weight * factor[:, None]))
    assert smooth < 0.5 * np.median(row_errors(large.rows, weight))


def test_a_channel_silent_on_the_sample_wipes_out_no_row_in_which_it_speaks(weight):
    """As a dead neuron of a ReLU."""
    factor, _ = remedy(activations(c5=40.0, c7=0.0), [weight], NONE)
    assert factor.argmax() == 5
    spoken = activations(c5=40.0).rows
    assert np.median(row_errors(spoken / factor, weight * factor[:, None])) < np.median(row_errors(spoken, weight))


def test_even_activations_are_left_as_they_are(weight):
    factor, rotated = remedy(activations(), [weight], NONE)
    assert (factor == 1).all() and not rotated


def test_rows_with_a_huge_value_each_in_another_channel_are_rotated(weight):
    values = activations().rows
    values[np.arange(256), np.arange(256) % CHANNELS] *= 16
    factor, rotated = remedy(Activations(values, np.abs(values).max(axis=0)), [weight], NONE)
    assert (factor == 1).all() and rotated
    turned = rotate(values.T).T
    np.testing.assert_allclose(turned @ rotate(weight), values @ weight, atol=1e-4)
    assert np.median(row_errors(turned, rotate(weight))) < 0.5 * np.median(row_errors(values, weight))


def test_channels_that_stay_apart_are_not_divided_nor_divided_for(weight):
    large = activations(c5=40.0)
    factor, _ = remedy(large, [weight], np.arange(CHANNELS) == 5)
    assert (factor == 1).all()


def test_channels_that_no_block_fits_are_not_rotated(weight):
    values = activations().rows[:, :40]
    values[np.arange(256), np.arange(256) % 40] *= 16
    assert not remedy(Activations(values, np.abs(values).max(axis=0)), [weight[:40]], NONE[:40])[1]


def test_a_channel_huge_in_one_row_is_out_of_line_but_not_for_wide_products(weight):
    once = np.ones(256, np.float32)
    once[0] = 2000
    seen = activations(c7=once)
    assert np.flatnonzero(out_of_line(seen, [weight, weight])).tolist() == [7]
    assert not out_of_line(seen, [weight] * 3).any()  # 576 outputs of 256 inputs


def test_row_errors_are_those_of_a_product_in_whole_numbers(weight):
    """By hand: every number of a row in steps of its largest / 127, and of a column likewise."""
    seen = activations(c3=9.0)
    row = seen.rows[11]
    steps = np.abs(row).max() / 127, np.abs(weight).max(axis=0) / 127
    product = np.rint(row / steps[0]) @ np.rint(weight / steps[1]) * steps[0] * steps[1]
    expected = ((product - row @ weight) ** 2).sum() / ((row @ weight) ** 2).sum()
    assert row_errors(seen.rows, weight)[11] == pytest.approx(expected, rel=1e-3)


def test_observed_activations_are_the_graphs(onnx_model, encode):
    """A norm's output is normalised rows times its weights."""
    source = onnx_model
    graph = onnx_ir.load(source).graph
    norm = next(node for node in graph if node.op_type == "RMSNormalization")
    seen = observe(source, [norm.outputs[0].name], encode(rows(3)))[norm.outputs[0].name]
    size = np.sqrt((seen.rows**2 / norm.inputs[1].const_value.numpy() ** 2).mean(axis=1))
    np.testing.assert_allclose(size, 1, rtol=1e-3)
    assert (np.abs(seen.rows) <= seen.largest).all()
    assert not list(onnx_model.parent.glob("observed*"))


@pytest.mark.parametrize("form", ["int8", "int8x2"])
def test_a_channel_a_hundred_times_as_large_costs_next_to_nothing(onnx_model, tmp_path, encode, form):
    """One channel of every norm larger and the weights behind it smaller: in fp32 it is the same model."""
    source, batch = onnx_model, pack(encode(rows(6)))
    exact, changes = onnx_scorer(source)(batch), {}
    for name, times in (("even", 1), ("uneven", 100)):
        model = onnx_ir.load(source)
        for node in [node for node in model.graph if node.op_type == "RMSNormalization"]:
            readers = [user for user, _ in node.outputs[0].uses()]
            if all(user.op_type == "MatMul" for user in readers):
                for reader, factor in ((node, times), *((user, 1 / times) for user in readers)):
                    scale_channel(model.graph, reader, 3, factor)
        path = tmp_path / name / "model.onnx"
        path.parent.mkdir()
        onnx_ir.save(model, path, external_data="model.data")
        np.testing.assert_allclose(onnx_scorer(path)(batch), exact, rtol=1e-4)
        quantized = tmp_path / name / "quantized.onnx"
        onnx_ir.save(quantize(path, form, encode(rows(6))), quantized, external_data="quantized.data")
        changes[name] = np.abs(onnx_scorer(quantized)(batch) - exact).mean()
    assert changes["uneven"] < 5 * changes["even"]


def scale_channel(graph: onnx_ir.Graph, node: onnx_ir.Node, channel: int, times: float) -> None:
    """Of a copy of the node's weight, since norms of equal weights share them."""
    array = node.inputs[1].const_value.numpy().copy()
    array[channel] *= times
    tensor = onnx_ir.Tensor(array, name=f"{node.outputs[0].name}_scaled")
    value = onnx_ir.Value(name=tensor.name, shape=tensor.shape, const_value=tensor)
    graph.register_initializer(value)
    node.replace_input_with(1, value)
