#!/usr/bin/env python3
"""Makes tests/data/tokenizer: a small byte-level BPE of the Llama-3 kind, and what it makes of texts.

The Hugging Face `tokenizers` library trains the tokenizer on the text below and encodes the cases; the
C++ tests compare with its answers. Special tokens are taken out before encoding, for that is what our
encoder promises: text never becomes one.

Usage: pip install tokenizers && make_tokenizer.py OUTPUT_DIRECTORY

To compare with the library on another tokenizer.json, such as a real checkpoint's, name it; then the
texts are many more, and the test is told where to find them:
    make_tokenizer.py DIRECTORY path/to/tokenizer.json
    COGSERVE_TOKENIZER_DATA=DIRECTORY tokenizer_test --gtest_filter='*hugging_face*'
"""

import json
import pathlib
import random
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIALS = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|eot_id|>"]
VOCABULARY = 800

TRAINING_TEXT = [
    "Question: What is in the picture? Answer: A red circle stands left of two small blue squares.\n",
    "Question: How many triangles are there? Answer: There are three triangles, and they're green.\n",
    "Question: Where's the yellow star? Short answer: It's at the top, behind the white line.\n",
    "I'm sure that we've seen it; you'll find it, he'd say, but they don't. WE'LL SEE, SHE'S HERE.\n",
    "The number on the ticket is 20261 and the train leaves at 08:45 from platform 7, seat 112A.\n",
    "    def render(turns):\n        for turn in turns:\n            yield turn.text + '\\n'\n\n",
    "问题：图片里有什么？回答：一个红色的圆形在两个蓝色正方形的左边。图中有三个绿色的三角形。\n",
    "图片上的数字是多少？数字是二十六。黄色的星星在哪里？在上面，白色的线的后面。\n",
    "Привет, мир! Сколько будет дважды два? Καλημέρα κόσμε. שלום עולם. مرحبا بالعالم ١٢٣.\n",
    "Le garçon naïf mange une crêpe à Noël; über den Wölkchen, mañana por la mañana.\n",
    "こんにちは、世界。カタカナとひらがな。안녕하세요, 세계. สวัสดีชาวโลก नमस्ते दुनिया\n",
    "😀😃😄 👩‍👩‍👧‍👦 👍🏽 🇨🇳🇩🇪 ❤️ ✈️ == != <= >= -> => ... --- *** ### ((())) [[]] {{}}\n",
]

CASES = [
    "", " ", "  ", "   a", "a   ", "\n", "\r\n", "\n\n\n", " \n", "\n ", " \n ", "  \n  \n  x", "\t", "\t\tx", " \t x",
    "a\nb", "a\r\nb", "a \n b", "a\n\n  b", "a\u0085b", "a\u00a0b", "\u00a0\u00a0b", "\u3000中", "\u2003\u2003x",
    "a\u180eb", "a\u200bb", "\u1680x", "a\u2028b\u2029c", "\ufeffabc", "\u001c\u001d\u001e\u001f", "\x00", "a\x00b", "\x7f",
    "'s", "'S", "'ſ", "it's IT'S iT'ſ", "'re 'RE 'rE", "'ve'VE", "'m'M", "'ll'LL'lL", "'d'D", "'t'T", "''s", "'x", "' s",
    "'r", "'l", "'v", "don't", "DON'T", "we'll've", "o'clock", "'sabc", "x'", "'", "''", "'\n", "'é", "’s", "'lL'",
    "1", "12", "123", "1234", "12345", "1234567", "1,234.5", "١٢٣٤٥", "½²Ⅷ๓", "𝟙𝟚𝟛𝟜", "1a2b3c", "a1", " 1", "  12", "三3三",
    "Hello world", "hello  world", "Hello, world!", "foo_bar", "fooBarBaz", "x=y+z", "a.b.c", "http://a.b/c?d=e&f=g",
    "    return x\n", "if (a && b) { c(); }", "--flag=value", "#include <vector>\n\n\n", "!!!\n\n!!!", "?!?\r\n\r\n a",
    "中文", "中文，标点。", "图片里有什么？", "日本語のテキスト", "한국어 텍스트", "ไทย", "नमस्ते", "中a文b", " 中", "中 文",
    "שלום עולם", "مرحبا بالعالم", "a\u202eb\u202c", "Привет", "Καλημέρα", "ᚠᛇᚻ", "\u0345", "ι\u0345",
    "e\u0301", "\u0301", "a\u0301\u0302\u0303b", "n\u0303 o\u0308", "각", "क्ष", "\u0e33",
    "😀", "😀😀😀", "👩‍👩‍👧‍👦", "👍🏽", "🇨🇳", "❤️", "a😀b", " 😀", "😀\n", "✈️ 1", "\u200d", "\ufe0f",
    "\ufffd", "\ufffe", "\uffff", "\U0010ffff", "\ue000", "\U000f0000", "\U000e0001", "ﬁ ﬆ ß ẞ İ ı K Å", "ǅ ʰ ⅷ ⓐ",
    "<|begin_of_text|>", "a<|eot_id|>b", "<|end_of_text|><|end_of_text|>", "<|eot_id|", "|eot_id|>", " <|eot_id|> ",
    "<|reserved_special_token_0|>", "<|<|eot_id|>|>", "Question: <|eot_id|> Answer:", "<note>", "a<note>b", "<note><note>x",
    "<not", "<<note>>", "<notes>", "<note>s", "Question: What is it? Answer: A cat.\nQuestion: Where? Answer:",
]  # fmt: skip

ALPHABETS = [
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "'sStTmMdDrReEvVlLſ ",
    "0123456789١٢½Ⅷ𝟙",
    " \t\n\r\x0b\x0c\x85\xa0\u2003\u3000\u180e\u200b\u2028",
    "!?.,;:-_()[]{}<>|@#$%^&*+=~`\"\\/",
    "中文图片问题回答红色日本語한국어",
    "😀👩👧❤🇨🇳\u200d\ufe0f\U0001f3fd",
    "e\u0301a\u0308\u0345निกำ",
    "שלוםمرحبا\u202e\u202c",
    "\x00\x01\x1b\x1c\x1f\x7f\ufeff\ufffd\U0010ffff",
]


def random_cases(count: int) -> list[str]:
    rng = random.Random(20240521)
    cases = []
    for _ in range(count):
        chosen = rng.sample(ALPHABETS, rng.randint(1, 4))
        length = rng.choice([2, 4, 8, 16, 32])
        cases.append(
            "".join(rng.choice(rng.choice(chosen)) * rng.choice([1, 1, 1, 2, 5]) for _ in range(length))
        )
    return cases


def train() -> dict:
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=1,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(TRAINING_TEXT * 3, trainer)
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in SPECIALS])
    content = json.loads(tokenizer.to_str())
    drop_some_merges(content["model"])
    return content


def drop_some_merges(model: dict) -> None:
    """Leaves tokens that merging cannot reach, so that `ignore_merges` makes a difference."""
    used = {part for merge in model["merges"] for part in merge}
    unused = [merge for merge in model["merges"] if "".join(merge) not in used]
    for merge in unused[::3]:
        model["merges"].remove(merge)


def variants(content: dict) -> list[tuple[str, dict]]:
    """Other files of the kind, as JSON merge patches."""
    note = {"content": "<note>", "single_word": False, "lstrip": False, "rstrip": False, "special": False}
    longer = dict(note, content="<notes>", normalized=True, id=len(content["model"]["vocab"]) + 5)
    note.update(normalized=False, id=len(content["model"]["vocab"]) + 4)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    single_digits = json.loads(json.dumps(content["pre_tokenizer"]))
    single_digits["pretokenizers"][0]["pattern"]["Regex"] = LLAMA3_PATTERN.replace("{1,3}", "")
    return [
        ("as it is", {}),
        ("merges strictly", {"model": {"ignore_merges": False}}),
        ("merges as strings", {"model": {"merges": [" ".join(merge) for merge in content["model"]["merges"]]}}),
        ("ByteLevel's own rule", {"pre_tokenizer": dict(byte_level, pretokenizers=None)}),
        ("one digit at a time", {"pre_tokenizer": single_digits}),
        ("added tokens that are not special", {"added_tokens": content["added_tokens"] + [note, longer]}),
    ]


def merge_patch(target, patch):
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def without_specials(content: dict) -> Tokenizer:
    plain = [token for token in content["added_tokens"] if not token["special"]]
    # The library wants ids of added tokens to follow the vocabulary; these stand in for the specials.
    fillers = [
        dict(token, content=f"\U0010fffe{token['id']}", special=False)
        for token in content["added_tokens"]
        if token["special"]
    ]
    return Tokenizer.from_str(json.dumps(dict(content, added_tokens=fillers + plain)))


def main() -> None:
    output = pathlib.Path(sys.argv[1])
    other = sys.argv[2:]
    content = json.loads(pathlib.Path(other[0]).read_text()) if other else train()
    texts = CASES + random_cases(20000 if other else 300)
    encoded = []
    for name, patch in [("as it is", {})] if other else variants(content):
        tokenizer = without_specials(merge_patch(content, patch))
        ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        encoded.append({"name": name, "patch": patch, "ids": ids})
    output.mkdir(parents=True, exist_ok=True)
    # One token a line would be 800 lines; the file is data, so it is compact.
    (output / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n")
    (output / "cases.json").write_text(json.dumps({"texts": texts, "variants": encoded}, separators=(",", ":")) + "\n")
    print(f"{len(content['model']['vocab'])} tokens, {len(content['model']['merges'])} merges, {len(texts)} texts")


if __name__ == "__main__":
    main()
