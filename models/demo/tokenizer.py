#!/usr/bin/env python3
"""Trains the demo model's byte-level BPE and writes `tokenizer.json`; holds a small encoder for it.

The file has the structure of Llama 3's, so one loader reads both. Digits never merge, so that a
number is read out digit by digit.

    tokenizer.py --out tokenizer.json
"""

import argparse
import collections
import json
import pathlib
import random
import re

import draw

VOCABULARY = 640
SPECIALS = ("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>",
            "<|reserved_special_token_1|>", "<|start_header_id|>", "<|end_header_id|>",
            "<|reserved_special_token_2|>", "<|eot_id|>")
BOS = VOCABULARY - len(SPECIALS)
EOS = (BOS + 1, BOS + 7)
IMAGE = BOS + 2

PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
           r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
# The same for Python's re, which has no \p: equal on the text of this corpus.
SPLIT = re.compile(PATTERN.replace(r"[^\r\n\p{L}\p{N}]", r"(?:(?![\r\n])[\W_])")
                   .replace(r"[^\s\p{L}\p{N}]", r"(?:(?!\s)[\W_])")
                   .replace(r"\p{L}", r"[^\W\d_]").replace(r"\p{N}", r"\d"))
LONGEST = 15  # bytes of a token: five Chinese characters


def byte_letters():
    """The printable character that stands for each byte in a byte-level vocabulary."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in plain}
    for byte in range(256):
        if byte not in letters:
            letters[byte] = chr(256 + len(letters) - len(plain))
    return letters


LETTERS = byte_letters()


def pieces_of(text):
    """The pre-tokens of `text`, each in byte letters."""
    return ["".join(LETTERS[b] for b in piece.encode()) for piece in SPLIT.findall(text)]


def merge_pair(parts, pair):
    merged, i = [], 0
    while i < len(parts):
        if i + 1 < len(parts) and (parts[i], parts[i + 1]) == pair:
            merged.append(parts[i] + parts[i + 1])
            i += 2
        else:
            merged.append(parts[i])
            i += 1
    return merged


def learn_merges(counts, number):
    """The `number` most useful merges of the pre-tokens in `counts`, most frequent pair first."""
    words = [(list(piece), count) for piece, count in sorted(counts.items())]
    merges = []
    while len(merges) < number:
        pairs = collections.Counter()
        for parts, count in words:
            for pair in zip(parts, parts[1:]):
                if len(pair[0] + pair[1]) <= LONGEST and not re.search(r"\d", pair[0] + pair[1]):
                    pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = [(merge_pair(parts, best), count) for parts, count in words]
    return merges


class Encoder:
    """Reads a `tokenizer.json`; encodes a whole text without special tokens, and decodes."""

    def __init__(self, path):
        model = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))["model"]
        self.ids = model["vocab"]
        self.ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(model["merges"])}
        self.tokens = {number: token for token, number in self.ids.items()}
        self.bytes = {letter: byte for byte, letter in LETTERS.items()}
        self.cache = {}

    def encode_piece(self, piece):
        if piece in self.ids:  # ignore_merges
            return [self.ids[piece]]
        parts = list(piece)
        while len(parts) > 1:
            best = min(zip(parts, parts[1:]), key=lambda pair: self.ranks.get(pair, len(self.ranks)))
            if best not in self.ranks:
                break
            parts = merge_pair(parts, best)
        return [self.ids[part] for part in parts]

    def encode(self, text):
        ids = []
        for piece in pieces_of(text):
            if piece not in self.cache:
                self.cache[piece] = self.encode_piece(piece)
            ids += self.cache[piece]
        return ids

    def decode(self, ids):
        raw = bytes(self.bytes[c] for i in ids if i in self.tokens for c in self.tokens[i])
        return raw.decode(errors="replace")


def corpus(pictures):
    """Pre-token counts over conversations about `pictures` drawn ones."""
    rng = random.Random("tokenizer")
    counts = collections.Counter()
    for index in range(pictures):
        sample = draw.make_sample(rng, ("scenes", "scenes", "numbers")[index % 3], 8, largest=112)
        text = "".join(f"Question: {t.question} Answer: {t.answer}\n" for t in sample.turns)
        counts.update(pieces_of(text))
    return counts


def build(counts):
    merges = learn_merges(counts, BOS - 256)
    vocabulary = {LETTERS[byte]: index for index, byte in enumerate(sorted(LETTERS, key=LETTERS.get))}
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    # A short corpus may run out of pairs: unused entries keep the ids dense.
    while len(vocabulary) < BOS:
        vocabulary[f"<unused_{len(vocabulary)}>"] = len(vocabulary)
    bos = SPECIALS[0]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": BOS + i, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True} for i, content in enumerate(SPECIALS)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                     {"SpecialToken": {"id": bos, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {bos: {"id": bos, "ids": [BOS], "tokens": [bos]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                  "ignore_merges": True, "vocab": vocabulary,
                  "merges": [f"{left} {right}" for left, right in merges]},
    }


def main():
    parser = argparse.ArgumentParser(description="Train the tokenizer of the demo model.")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "tokenizer.json")
    parser.add_argument("--pictures", type=int, default=6000)
    options = parser.parse_args()
    built = build(corpus(options.pictures))
    options.out.write_text(json.dumps(built, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{options.out}: {len(built['model']['vocab'])} tokens, {len(built['model']['merges'])} merges")


if __name__ == "__main__":
    main()
