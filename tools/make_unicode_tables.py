#!/usr/bin/env python
"""Writes cpp_scorer/unicode_tables.inc: the character classes and the NFC that the `tokenizers` library really has.

    python tools/make_unicode_tables.py [--output FILE]

Everything is found by asking the library about every code point. Its regular expressions, its normaliser, Python and
ICU each follow another version of Unicode, so tables taken from elsewhere would give other ids.
"""

import argparse
import os
from pathlib import Path

import tokenizers
from tokenizers import Regex
from tokenizers.normalizers import NFC, NFD
from tokenizers.pre_tokenizers import Digits, PreTokenizer, Split

OUTPUT = Path(__file__).resolve().parent.parent / "cpp_scorer" / "unicode_tables.inc"
CODE_POINTS = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
# The names that cpp_scorer/unicode.cpp has for its classes, and their characters in the regular expressions.
CLASSES = {"U": r"[\p{Lu}\p{Lt}]", "L": r"\p{Ll}", "O": r"[\p{Lm}\p{Lo}]", "M": r"\p{M}", "N": r"\p{N}", "S": r"\s"}
# The two ends of the canonical combining classes, 1 and 240; Unicode never changes a character's class.
LOWEST_MARK, HIGHEST_MARK = "\u0334", "\u0345"
HANGUL = range(0xAC00, 0xAC00 + 11172)  # decomposed and composed by arithmetic
HANGUL_VOWELS, HANGUL_FINALS = range(0x1161, 0x1176), range(0x11A8, 0x11C3)
WIDTH = 120

nfc, nfd = NFC().normalize_str, NFD().normalize_str


def matches(pattern: str, character: str) -> bool:
    return not Split(Regex(pattern), "removed").pre_tokenize_str(character)


def runs(pre_tokenizer: PreTokenizer) -> list[str]:
    """What a pre-tokeniser makes of all characters in their order."""
    return [run for run, _ in pre_tokenizer.pre_tokenize_str("".join(CODE_POINTS))]


def character_classes() -> dict[str, str]:
    """Character to class; a character of none is left out."""
    classes = {}
    for run in runs(Split(Regex("|".join(f"{pattern}+" for pattern in CLASSES.values())), "isolated")):
        found = [name for name, pattern in CLASSES.items() if matches(pattern, run[0])]
        assert len(found) <= 1 and matches(r"\p{L}", run[0]) == (found in (["U"], ["L"], ["O"]))
        classes |= dict.fromkeys(run, *found) if found else {}
    # What the pre-tokeniser Digits sets apart: Rust's idea of a number, which goes by a newer Unicode.
    numbers = {character for run in runs(Digits(individual_digits=False))[1::2] for character in run}
    assert {character for character, name in classes.items() if name == "N"} <= numbers
    return dict.fromkeys(numbers, "D") | classes


def decompositions() -> dict[str, tuple[str, str]]:
    """Character to its canonical decomposition by one step; the second is empty where it is a single character."""
    full = {c: nfd(c) for c in CODE_POINTS if ord(c) not in HANGUL and nfd(c) != c}
    of_parts = {parts: c for c, parts in full.items()}
    steps = {}
    for c, parts in full.items():
        head = parts[:-1]
        if len(head) > 1:
            head = nfc(head) if len(nfc(head)) == 1 else of_parts[head]
        steps[c] = (head, parts[-1]) if head else (parts, "")
    return steps


def combining_ranks() -> dict[str, int]:
    """Mark to the rank, from 1, of its combining class: the order of the classes is all that NFC asks for."""

    def follows(mark: str, other: str) -> bool:
        return mark != other and nfd(mark + other) == other + mark

    marks = [
        c for c in CODE_POINTS if nfd(c) == c and (follows(c, LOWEST_MARK) or nfd(HIGHEST_MARK + c) == c + HIGHEST_MARK)
    ]
    classes: list[list[str]] = [[LOWEST_MARK]]
    for mark in marks:
        low, high = 0, len(classes)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if follows(mark, classes[middle][0]) else (low, middle)
        # All classes before `low` are lower than the mark's.
        if low == len(classes) or follows(classes[low][0], mark):
            classes.insert(low, [mark])
        else:
            classes[low].append(mark)
    return {mark: rank for rank, same in enumerate(classes, start=1) for mark in same}


def ranges(values: dict[str, object]) -> list[tuple[int, int, object]]:
    """(first, last, value) of neighbouring characters with one value."""
    found: list[tuple[int, int, object]] = []
    for character in sorted(values):
        code, value = ord(character), values[character]
        if found and found[-1][1] == code - 1 and found[-1][2] == value:
            found[-1] = (found[-1][0], code, value)
        else:
            found.append((code, code, value))
    return found


def table(kind: str, name: str, entries: list[tuple]) -> str:
    """A C++ array of structs, sorted, as many to a line as fit."""
    lines, line = [], " "
    for entry in entries:
        text = "{" + ",".join(f"0x{part:X}" if isinstance(part, int) else part for part in entry) + "},"
        if len(line) + len(text) + 1 > WIDTH:
            lines.append(line)
            line = " "
        line += " " + text
    return f"constexpr {kind} {name}[] = {{\n" + "\n".join([*lines, line]) + "\n};\n"


def tables() -> str:
    steps, ranks = decompositions(), combining_ranks()
    pairs = {c: pair for c, pair in steps.items() if pair[1] and nfc(c) == c}
    assert all(nfc(first + second) == c for c, (first, second) in pairs.items())
    # What NFC may change, or join to what stands before it; text without any of these is NFC.
    unstable = {c for c in steps if nfc(c) != c} | set(ranks) | {second for _, second in pairs.values()}
    unstable |= {chr(code) for jamo in (HANGUL_VOWELS, HANGUL_FINALS) for code in jamo}
    return "\n".join(
        [
            f"// Made by tools/make_unicode_tables.py from tokenizers {tokenizers.__version__}; not to be edited.",
            "// Characters of a class; the rest are of none.",
            table("ClassRange", "kClasses", ranges(character_classes())),
            "// Marks, with the rank of their combining class.",
            table("MarkRange", "kMarks", ranges(ranks)),
            "// What NFC may change, or join to the character before it.",
            table("Range", "kUnstable", [(a, b) for a, b, _ in ranges(dict.fromkeys(unstable, True))]),
            "// Canonical decompositions by one step; the second is 0 where there is one character only.",
            table("Triple", "kDecompositions", sorted((ord(c), ord(a), ord(b or "\0")) for c, (a, b) in steps.items())),
            "// Pairs, and what they compose to.",
            table("Triple", "kCompositions", sorted((ord(a), ord(b), ord(c)) for c, (a, b) in pairs.items())),
        ]
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="default: cpp_scorer/unicode_tables.inc")
    output = parser.parse_args(argv).output
    temporary = output.with_name(f"{output.name}.{os.getpid()}")
    temporary.write_text(tables(), encoding="ascii")
    temporary.replace(output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
