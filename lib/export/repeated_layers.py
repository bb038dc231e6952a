"""A decoder's layers are alike but for their weights: the exporter sees three of them, and the graph gets the others.

Of a model of 30 layers it takes most of its time to trace each of them twice and to look for patterns in all. Shown are
the first, one that stands for all between, and the last, which may be narrowed to the scored rows. The layer between is
cut out of the graph while that is simplified, its weights inputs as its hidden states are, so that nothing is folded
into it that another layer has not; then it is put in once for each layer.
"""

import ast
from collections.abc import Iterator, Sequence

import onnx_ir as ir
from onnx_ir.tensor_adapters import TorchTensor
from torch import nn

BETWEEN, LAST = 1, 2  # which of them
SCOPES = "pkg.torch.onnx.name_scopes"  # the exporter's list of modules that a node comes from


def alike(layers: Sequence[nn.Module]) -> Sequence[nn.Module]:
    """Of a decoder's layers those that one of them can stand for: all but the first and the last, or none where they
    are too few or differ in their attention."""
    between = layers[BETWEEN:-1]
    kinds = {getattr(layer, "attention_type", None) for layer in between}
    return between if len(between) > 1 and len(kinds) == 1 else []


class CutOut:
    """The layer that stands for others, cut out of a graph that was exported with three.

    Until `put_in` the graph has further inputs and outputs: what the layer takes and gives, and what the first gives
    and the last takes.
    """

    def __init__(self, graph: ir.Graph, prefix: str):
        """prefix: of the layers' names, as decoder.layers"""
        self.graph, self.prefix, self.num_outputs = graph, prefix, len(graph.outputs)
        self.hidden_states = self._cut(0, BETWEEN), self._cut(BETWEEN, LAST)
        named = f"{prefix}.{BETWEEN}."
        self.weights = {
            name.removeprefix(named): value for name, value in graph.initializers.items() if name.startswith(named)
        }
        for value in self.weights.values():
            graph.initializers.pop(value.name)
            value.const_value = None
            graph.inputs.append(value)

    def _cut(self, giver: int, taker: int) -> ir.Value:
        """Make the hidden states between two of the shown layers an output and an input; returns the input."""
        (hidden,) = (
            value
            for node in self.graph
            if self._layer(node) == giver and node.op_type != "Constant"
            for value in node.outputs
            if any(self._layer(user) == taker for user, _ in value.uses())
        )
        states = ir.Value(name=f"hidden_states_{taker}", shape=hidden.shape, type=hidden.type)
        for user, index in list(hidden.uses()):
            if self._layer(user) == taker:
                user.replace_input_with(index, states)
        self.graph.inputs.append(states)
        self.graph.outputs.append(hidden)
        return states

    def _layer(self, node: ir.Node) -> int | None:
        scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
        numbers = (scope.removeprefix(f"{self.prefix}.") for scope in scopes if scope.startswith(f"{self.prefix}."))
        return next((int(number) for number in numbers if number.isdigit()), None)

    def put_in(self, layers: Sequence[nn.Module]) -> None:
        """Put it in for each of `layers`, with the weights of each; the graph has its own inputs and outputs again."""
        graph, prefix = self.graph, self.prefix
        takes, last_takes = self.hidden_states
        first_gives, gives = (graph.outputs.pop(self.num_outputs) for _ in range(2))
        nodes = list(self._nodes({takes, *self.weights.values()}))
        for name, value in list(graph.initializers.items()):
            if name.startswith(f"{prefix}.{LAST}."):  # shown as the third, which it is not
                value.name = name.replace(f"{prefix}.{LAST}", f"{prefix}.{len(layers) + BETWEEN}", 1)
        hidden = first_gives
        for number, layer in enumerate(layers, start=BETWEEN):
            copies, tensors = {takes: hidden}, layer.state_dict(keep_vars=True)
            for name, value in self.weights.items():
                copies[value] = self._initializer(f"{prefix}.{number}.{name}", tensors[name].detach())
            graph.extend([_copy(node, copies, number) for node in nodes])
            hidden = copies[gives]
        ir.convenience.replace_all_uses_with(last_takes, hidden)
        graph.remove(nodes, safe=True)
        for value in (takes, last_takes, *self.weights.values()):
            graph.inputs.remove(value)
        graph.sort()

    def _nodes(self, own: set[ir.Value]) -> Iterator[ir.Node]:
        """The layer's nodes, in the graph's order: what its weights and hidden states, `own`, go into."""
        for node in self.graph:
            if any(value in own for value in node.inputs):
                own.update(node.outputs)
                yield node

    def _initializer(self, name: str, tensor) -> ir.Value:
        value = ir.Value(name=name, const_value=TorchTensor(tensor, name=name))
        value.shape, value.dtype = value.const_value.shape, value.const_value.dtype
        self.graph.register_initializer(value)
        return value


def _copy(node: ir.Node, copies: dict[ir.Value, ir.Value], number: int) -> ir.Node:
    """The node for layer `number`, of the values that `copies` has for the shown layer's; its outputs join them."""
    copy = ir.Node(
        node.domain,
        node.op_type,
        [copies.get(value, value) for value in node.inputs],
        node.attributes,
        num_outputs=len(node.outputs),
        name=f"{node.name}_{number}",
    )
    for value, copied in zip(node.outputs, copy.outputs, strict=True):
        copied.name, copied.shape, copied.type = f"{value.name}_{number}", value.shape, value.type
        copies[value] = copied
    return copy
