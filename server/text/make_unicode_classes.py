#!/usr/bin/env python3
"""Writes unicode_classes_ranges.cpp: the code points of \\p{L}, \\p{N} and \\s.

The tables are asked of the Hugging Face `tokenizers` library itself, one code point at a time, so
that the pretokenizer splits exactly where the library splits, whatever Unicode version it carries.

Usage: pip install tokenizers && ./make_unicode_classes.py > unicode_classes_ranges.cpp
"""

import tokenizers
from tokenizers import Regex, pre_tokenizers

SURROGATES = range(0xD800, 0xE000)  # no Unicode text holds them


def code_points(pattern: str) -> list[int]:
    """The code points that `pattern` matches alone."""
    remove = pre_tokenizers.Split(Regex(pattern), "removed")
    return [
        code
        for code in range(0x110000)
        if code not in SURROGATES and not remove.pre_tokenize_str(chr(code))
    ]


def ranges(codes: list[int]) -> list[tuple[int, int]]:
    """Runs of neighbouring code points, as (first, last)."""
    runs: list[tuple[int, int]] = []
    for code in codes:
        if runs and runs[-1][1] + 1 == code:
            runs[-1] = (runs[-1][0], code)
        else:
            runs.append((code, code))
    return runs


def table(name: str, pattern: str) -> str:
    runs = ranges(code_points(pattern))
    body = "\n".join(
        "    " + " ".join(f"{{0x{first:x}, 0x{last:x}}}," for first, last in runs[at : at + 4])
        for at in range(0, len(runs), 4)
    )
    return f"const CodeRange {name}[] = {{  // {pattern}, {len(runs)} ranges\n{body}\n}};\n"


def main() -> None:
    print("// Made by make_unicode_classes.py; do not edit.")
    print(f"// Source: tokenizers {tokenizers.__version__}.")
    print('#include "server/text/unicode_classes.hpp"\n')
    print("namespace cogserve::text {\nnamespace {\n\n// clang-format off")
    for name, pattern in (("kLetters", r"\p{L}"), ("kNumbers", r"\p{N}"), ("kSpaces", r"\s")):
        print(table(name, pattern))
    print("// clang-format on\n\n}  // namespace\n")
    for function, name in (
        ("letter_ranges", "kLetters"),
        ("number_ranges", "kNumbers"),
        ("space_ranges", "kSpaces"),
    ):
        print(f"std::span<const CodeRange> {function}() {{ return {name}; }}")
    print("\n}  // namespace cogserve::text")


if __name__ == "__main__":
    main()
