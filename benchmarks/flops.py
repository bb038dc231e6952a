"""Floating-point operations of a question, counted by hand: two for each multiply and add of the matrix products."""

from dataclasses import dataclass

from lib.questions.prompt import EncodedQuestion


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


def packed_products(config, item: EncodedQuestion) -> list[Product]:
    """The packed pass's, whose last layer is of the scored rows alone."""
    return linear_products(config, item.num_tokens, num_scored(item), num_scored(item))


def forward_gflop(config, num_tokens: int, num_projected: int) -> float:
    """1e9 operations of one row, all layers whole: `linear_products`, and attention's over all pairs of tokens."""
    linear = sum(product.gflop for product in linear_products(config, num_tokens, num_projected, num_tokens))
    return linear + attention_gflop(config, config.num_hidden_layers * num_tokens, num_tokens)


def attention_gflop(config, num_queries: int, num_keys: float) -> float:
    """1e9 operations of attention's two products."""
    return 4 * num_queries * num_keys * config.num_attention_heads * head_width(config) / 1e9


def packed_gflop(config, item: EncodedQuestion, blocks: int) -> float:
    """1e9 operations of the packed pass, its attention in so many causal blocks but for the last layer's."""
    keys = item.num_tokens * (blocks + 1) / (2 * blocks)  # on average
    attention = attention_gflop(config, (config.num_hidden_layers - 1) * item.num_tokens, keys)
    attention += attention_gflop(config, num_scored(item), item.num_tokens)
    return sum(product.gflop for product in packed_products(config, item)) + attention


def training_gflop(config, item: EncodedQuestion, blocks: int) -> float:
    """1e9 operations of a packed step with frozen weights: backward, a weight takes one product more, for the states'
    gradient, and attention four for its two. The adapter's own products, and what is computed anew, are left out."""
    weights = sum(product.gflop for product in packed_products(config, item))
    return 2 * weights + 3 * (packed_gflop(config, item, blocks) - weights)


def num_scored(item: EncodedQuestion) -> int:
    return sum(map(len, item.ending_ids))


def head_width(config) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
