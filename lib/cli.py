"""What the scripts' command lines share: how help looks, and types that refuse nonsense with exit code 2."""

import argparse
import math


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the script's docstring as it is and shows defaults, but not the default None."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def parse_typed(parser: argparse.ArgumentParser, argv: list[str] | None) -> tuple[dict, dict]:
    """Every flag's value by name, and those of the flags that were typed."""
    parsed = vars(parser.parse_args(argv))
    unset = object()
    typed = vars(parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(parsed, unset))))
    return parsed, {name: value for name, value in typed.items() if value is not unset}


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def positive_float(text: str) -> float:
    value = float(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def nonnegative_int(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return value


def nonnegative_float(text: str) -> float:
    value = float(text)
    if not (value >= 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 up")
    return value


def zero_to_one(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value


def share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to below 1")
    return value
