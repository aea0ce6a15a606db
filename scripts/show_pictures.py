#!/usr/bin/env python3
"""Shows the pictures of a folder side by side in a true-colour terminal, as half blocks."""
import json
import pathlib
import sys

from PIL import Image

COLUMNS, ROWS = 32, 28  # of pixels; a character cell shows two rows


def main():
    folder = pathlib.Path(sys.argv[1])
    names = [entry["file"] for entry in json.loads((folder / "questions.json").read_text("utf-8"))]
    pictures = [Image.open(folder / name).convert("RGB").resize((COLUMNS, ROWS)) for name in names]
    print("  ".join(name.ljust(COLUMNS) for name in names))
    for row in range(0, ROWS, 2):
        cells = []
        for picture in pictures:
            line = ""
            for column in range(COLUMNS):
                upper = ";".join(map(str, picture.getpixel((column, row))))
                lower = ";".join(map(str, picture.getpixel((column, row + 1))))
                line += f"\x1b[38;2;{upper};48;2;{lower}m\u2580"
            cells.append(line + "\x1b[0m")
        print("  ".join(cells))


if __name__ == "__main__":
    main()
