#!/usr/bin/env python3
"""Scores the demo model on held-out pictures, through a running server or straight in PyTorch.

    score.py --server 127.0.0.1:8001      every question is a gRPC call; needs the Python client
    score.py --torch                      the reference in model.py; needs torch

Every turn of every conversation is asked by greedy decoding and compared as text. Later turns are
given the right answers of the earlier ones, so that each turn is scored by itself. Exits 1 if a
task misses its mark.
"""

import argparse
import concurrent.futures
import io
import json
import os
import pathlib
import sys
from dataclasses import dataclass

import draw

HERE = pathlib.Path(__file__).parent
TASKS = ("scenes", "numbers")
TURNS = 3  # questions about each picture, unless told
MARKS = {"scenes": 95.0, "numbers": 90.0}  # least exact match, percent
FORMATS = (("PNG", {}), ("JPEG", {"quality": 92}), ("WEBP", {"quality": 92}))


@dataclass
class Picture:
    """One encoded held-out picture with its conversation, in one language."""
    task: str
    language: str
    data: bytes
    turns: list


def held_out(pictures, turns, seed):
    """`pictures` of them for each task and language, as PNG, JPEG and WebP by turns."""
    found = []
    for task in TASKS:
        for language in draw.LANGUAGES:
            for index in range(pictures):
                rng = draw.held_out_rng(f"score {seed} {task} {language}", index)
                sample = draw.make_sample(rng, task, turns, (language,))
                kind, quality = FORMATS[index % len(FORMATS)]
                buffer = io.BytesIO()
                sample.picture.save(buffer, kind, **quality)
                found.append(Picture(task, language, buffer.getvalue(), sample.turns))
    return found


def answers_in_torch(pictures):
    """Every answer's text, picture by picture and turn by turn, from the reference model."""
    import numpy as np
    import torch
    from PIL import Image

    from model import load
    from tokenizer import BOS, EOS, Encoder
    from train import normalize

    model = load(HERE)
    encoder = Encoder(HERE / "tokenizer.json")
    size = model.config["vision_config"]["image_size"]

    @torch.no_grad()
    def ask(features, prompt):
        ids = [BOS, *encoder.encode(prompt)]
        answer = []
        while len(answer) < 48:
            token = int(model(torch.tensor([ids + answer]), features)[0, -1].argmax())
            if token in EOS:
                break
            answer.append(token)
        return encoder.decode(answer)

    for picture in pictures:
        opened = Image.open(io.BytesIO(picture.data)).convert("RGB")
        image = np.asarray(opened.resize((size, size), Image.BICUBIC))
        with torch.no_grad():
            features = model.model.vision(normalize(torch.from_numpy(image.copy())[None], "cpu"))
        prompt, given = "", []
        for turn in picture.turns:
            prompt += f"Question: {turn.question} Answer:"
            given.append(ask(features, prompt))
            prompt += f" {turn.answer}\n"
        yield given


def responses_of_server(pictures, address, streams, **options):
    """A running server's response to every turn: one call each, `streams` conversations at a time."""
    from cogserve import Client, Message

    def converse(picture):
        messages, given = [], []
        for index, turn in enumerate(picture.turns):
            messages.append(Message.user(turn.question, None if index else picture.data))
            given.append(client.chat(messages, temperature=0, max_tokens=48, **options))
            messages.append(Message.assistant(turn.answer))
        return given

    with Client(address, deadline=300) as client:
        with concurrent.futures.ThreadPoolExecutor(streams) as pool:
            return list(pool.map(converse, pictures))


def table(pictures, given):
    """Rows of task, language, pictures, and right/asked for first and later turns."""
    rows = {}
    for picture, texts in zip(pictures, given):
        row = rows.setdefault((picture.task, picture.language), {"pictures": 0, "first": [], "later": []})
        row["pictures"] += 1
        for index, (turn, text) in enumerate(zip(picture.turns, texts)):
            row["later" if index else "first"].append(text.strip() == turn.answer)
    return rows


def percent(right):
    return 100 * sum(right) / len(right)


def cell(right):
    return f"{percent(right):.1f} %" if right else "none asked"


def show(rows, slack):
    """Prints the table; returns whether every task and language reaches its mark less `slack`."""
    print("| task | language | pictures | questions | first turn | later turns | exact match |")
    print("|---|---|---:|---:|---:|---:|---:|")
    reached = True
    for (task, language), row in rows.items():
        every = row["first"] + row["later"]
        reached = reached and percent(every) >= MARKS[task] - slack
        print(f"| {task} | {language} | {row['pictures']} | {len(every)} | {cell(row['first'])} | "
              f"{cell(row['later'])} | **{percent(every):.1f} %** |")
    return reached


def main():
    parser = argparse.ArgumentParser(description="Score the demo model on held-out pictures.")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--server", metavar="ADDRESS", default=os.environ.get("COGSERVE_SERVER"),
                     help="score through the server at this address (default $COGSERVE_SERVER)")
    way.add_argument("--torch", action="store_true", help="score the PyTorch reference on the exported weights")
    parser.add_argument("--pictures", type=int, default=100, help="for each task and language (default 100)")
    parser.add_argument("--turns", type=int, default=TURNS, help=f"questions about each picture (default {TURNS})")
    parser.add_argument("--seed", type=int, default=1, help="other seeds, other pictures")
    parser.add_argument("--streams", type=int, default=4, help="conversations at a time (default 4)")
    parser.add_argument("--slack", type=float, default=0,
                        help="points by which a mark may be missed, for small samples (default 0)")
    parser.add_argument("--misses", action="store_true", help="list every wrong answer")
    options = parser.parse_args()
    if not options.server and not options.torch:
        parser.error("name a server, or give --torch")
    if options.pictures < 1 or options.turns < 1:
        parser.error("nothing to ask: --pictures and --turns are at least 1")
    pictures = held_out(options.pictures, options.turns, options.seed)
    if options.torch:
        given = list(answers_in_torch(pictures))
    else:
        responses = responses_of_server(pictures, options.server, options.streams)
        given = [[response.text for response in turns] for turns in responses]
    if options.misses:
        for picture, texts in zip(pictures, given):
            for turn, text in zip(picture.turns, texts):
                if text.strip() != turn.answer:
                    print(json.dumps([picture.task, turn.question, turn.answer, text], ensure_ascii=False))
    sys.exit(0 if show(table(pictures, given), options.slack) else 1)


if __name__ == "__main__":
    main()
