"""The values of a row's columns; whatever is not what it should be is refused with file, line and field."""

import math
from typing import NoReturn

from lib.errors import InputError


def fail(where: str, field: str, problem: str) -> NoReturn:
    raise InputError(f"{where}: field {field!r}: {problem}")


def value_of(where: str, row: dict, field: str):
    if field not in row:
        fail(where, field, "is missing")
    return row[field]


def string_of(where: str, row: dict, field: str) -> str:
    value = value_of(where, row, field)
    if not isinstance(value, str):
        fail(where, field, f"{show(value)} is not a string")
    return value


def finite(where: str, field: str, value) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        fail(where, field, f"{show(value)} is not a finite number")
    return number


def show(value) -> str:
    # Part of it only: a message is one line, and a value may be a whole opinion or a number of 1,000 digits.
    return f"{value!r:.60}"
