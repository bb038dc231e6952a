"""What the scripts' command lines share: how help looks, and types that refuse nonsense with exit code 2."""

import argparse
import math
from collections.abc import Callable


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the script's docstring as it is, shows the defaults that say something, and calls a number N or X."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        if default is None or default is False or default == []:  # not `in`: 0 equals False, and is worth showing
            return action.help
        if isinstance(default, list):
            return f"{action.help} (default: {' '.join(map(str, default))})"
        return super()._get_help_string(action)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return METAVARS.get(action.type) or super()._get_default_metavar_for_optional(action)


def parse_typed(parser: argparse.ArgumentParser, argv: list[str] | None) -> tuple[dict, dict]:
    """Every flag's value by name, and those of the flags that were typed."""
    parsed = vars(parser.parse_args(argv))
    unset = object()
    typed = vars(parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(parsed, unset))))
    return parsed, {name: value for name, value in typed.items() if value is not unset}


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _number(kind: Callable[[str], float], text: str, accepts: Callable[[float], bool], what: str):
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not accepts(value):
        raise argparse.ArgumentTypeError(f"{text} is not {what}")
    return value


def positive_int(text: str) -> int:
    return _number(int, text, lambda value: value >= 1, "a whole number from 1 up")


def nonnegative_int(text: str) -> int:
    return _number(int, text, lambda value: value >= 0, "a whole number from 0 up")


def seed(text: str) -> int:
    """What every generator takes: NumPy's the least."""
    return _number(int, text, lambda value: 0 <= value < 2**32, "a whole number from 0 to 2^32 - 1")


def positive_float(text: str) -> float:
    return _number(float, text, lambda value: 0 < value < math.inf, "a number above 0")


def nonnegative_float(text: str) -> float:
    return _number(float, text, lambda value: 0 <= value < math.inf, "a number from 0 up")


def zero_to_one(text: str) -> float:
    return _number(float, text, lambda value: 0 <= value <= 1, "a number from 0 to 1")


def share(text: str) -> float:
    return _number(float, text, lambda value: 0 <= value < 1, "a number from 0 to below 1")


METAVARS = dict.fromkeys((int, positive_int, nonnegative_int, seed), "N")
METAVARS |= dict.fromkeys((positive_float, nonnegative_float, zero_to_one, share), "X")
