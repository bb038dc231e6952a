"""Floating-point operations of a question, counted by hand: two for each multiply and add of the matrix products."""

from dataclasses import dataclass

from lib.prompt import EncodedQuestion


@dataclass(frozen=True)
class Product:
    """`count` products of [rows, inner] by a weight [inner, outer]."""

    name: str
    count: int
    rows: int
    inner: int
    outer: int

    @property
    def gflop(self) -> float:
        return 2 * self.count * self.rows * self.inner * self.outer / 1e9


def linear_products(config, num_tokens: int, num_projected: int, last_layer_rows: int) -> list[Product]:
    """The products of one row of `num_tokens` with weights: all layers, the last one for `last_layer_rows` alone (its
    keys and values for all), and the projection of `num_projected` rows."""
    hidden, inner = config.hidden_size, config.intermediate_size
    width = head_width(config)
    queries, keys = config.num_attention_heads * width, config.num_key_value_heads * width
    before = config.num_hidden_layers - 1
    products = [Product("keys, values", 2 * (before + 1), num_tokens, hidden, keys)]
    for layers, rows in ((before, num_tokens), (1, last_layer_rows)):
        products += [
            Product("queries", layers, rows, hidden, queries),
            Product("output", layers, rows, queries, hidden),
            Product("gate, up", 2 * layers, rows, hidden, inner),
            Product("down", layers, rows, inner, hidden),
        ]
    return [*products, Product("projection", 1, num_projected, hidden, config.vocab_size)]


def forward_gflop(config, num_tokens: int, num_projected: int, last_layer_rows: int | None = None) -> float:
    """1e9 operations of one row: `linear_products` (of all rows in the last layer, unless it is told how many), and
    attention's two products over all pairs of tokens."""
    last = num_tokens if last_layer_rows is None else last_layer_rows
    linear = sum(product.gflop for product in linear_products(config, num_tokens, num_projected, last))
    rows = (config.num_hidden_layers - 1) * num_tokens + last
    return linear + 4 * rows * num_tokens * config.num_attention_heads * head_width(config) / 1e9


def packed_gflop(config, item: EncodedQuestion) -> float:
    """1e9 operations of the packed pass, in PyTorch and as a graph: the last layer is of the scored rows alone."""
    return forward_gflop(config, item.num_tokens, num_scored(item), num_scored(item))


def training_gflop(config, item: EncodedQuestion) -> float:
    """1e9 operations of a packed step with frozen weights: backward, a weight takes one product more, for the states'
    gradient, and attention four for its two. The adapter's own products, and what is computed anew, are left out."""
    weights = sum(product.gflop for product in linear_products(config, item.num_tokens, *2 * [num_scored(item)]))
    return 2 * weights + 3 * (packed_gflop(config, item) - weights)


def num_scored(item: EncodedQuestion) -> int:
    return sum(map(len, item.ending_ids))


def head_width(config) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
