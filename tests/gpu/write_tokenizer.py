#!/usr/bin/env python3
"""Gives a model that has only a config.json a tokenizer of its size: write_tokenizer.py DIR

It is the demo model's with invented words behind, so that random weights say something that streams.
"""

import json
import sys
from pathlib import Path

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo" / "tokenizer.json"


def main():
    folder = Path(sys.argv[1])
    wanted = json.loads((folder / "config.json").read_text())["vocab_size"]
    tokenizer = json.loads(DEMO.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    for number in range(len(vocabulary) + len(tokenizer["added_tokens"]), wanted):
        vocabulary[f"word{number}."] = number
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


if __name__ == "__main__":
    main()
