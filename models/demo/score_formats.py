#!/usr/bin/env python3
"""Prints what each format of the weights costs the demo model, through the server.

    score_formats.py --cogserve build/command/cogserve      needs the Python client

For each format a server is started and asked what `score.py` asks. Beside the exact match stands how
far the format moves the logits: at the first token of every answer, where all formats have read the
same text, the log probabilities of the 20 likeliest tokens are compared with those of the first
format. A token is compared where both formats list it.
"""

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

import draw
import score

HERE = pathlib.Path(__file__).parent
WITH_SERVER = HERE.parent.parent / "scripts" / "with-server.sh"
# Decoder, tower and output matrix, as `cogserve serve` is told; the first is what others are held to.
FORMATS = (
    ("bf16", "bf16", "bf16"),
    ("int4", "bf16", "bf16"),
    ("bf16", "int8", "bf16"),
    ("bf16", "bf16", "int8"),
    ("int4", "int8", "bf16"),
    ("int4", "int4", "int8"),
)
LISTED = 20  # log probabilities of each first token


def environment(weights):
    """The environment variables that make `cogserve serve` use these formats of the demo model."""
    decoder, tower, head = weights
    return {"COGSERVE_MODEL": str(HERE), "COGSERVE_VISION_DTYPE": tower, "COGSERVE_LM_HEAD_DTYPE": head,
            "COGSERVE_QUANTIZATION": "none" if decoder == "bf16" else decoder}


def measure(options):
    """Asks the server at $COGSERVE_SERVER everything; writes its answers and likeliest first tokens."""
    pictures = score.held_out(options.pictures, score.TURNS, options.seed)
    responses = score.responses_of_server(pictures, os.environ["COGSERVE_SERVER"], options.streams,
                                          logprobs=LISTED)
    found = {"texts": [[response.text for response in turns] for turns in responses],
             "first": [[{top.token_id: top.logprob for top in response.logprobs[0].top}
                        for response in turns] for turns in responses]}
    options.measure.write_text(json.dumps(found))


def logprob_error(found, expected):
    """Root mean square and largest difference over the tokens that both list."""
    differences = [got[token] - want[token]
                   for got_turns, want_turns in zip(found["first"], expected["first"])
                   for got, want in zip(got_turns, want_turns)
                   for token in want if token in got]
    square = sum(difference ** 2 for difference in differences) / len(differences)
    return math.sqrt(square), max(abs(difference) for difference in differences)


def serve_and_measure(options, weights, folder):
    file = folder / ("-".join(weights) + ".json")
    command = [WITH_SERVER, options.cogserve, sys.executable, __file__, "--measure", file,
               "--pictures", options.pictures, "--seed", options.seed, "--streams", options.streams]
    subprocess.run(list(map(str, command)), env=os.environ | environment(weights), check=True)
    return json.loads(file.read_text())


def show(options):
    pictures = score.held_out(options.pictures, score.TURNS, options.seed)
    kinds = [(task, language) for task in score.TASKS for language in draw.LANGUAGES]
    heads = ["decoder", "tower", "output matrix", *(" ".join(kind) for kind in kinds),
             "log prob. error, r.m.s.", "largest"]
    print(f"| {' | '.join(heads)} |\n|---|---|---{'|---:' * (len(heads) - 3)}|", flush=True)
    expected = None
    with tempfile.TemporaryDirectory() as folder:
        for weights in FORMATS:
            found = serve_and_measure(options, weights, pathlib.Path(folder))
            expected = expected or found
            rows = score.table(pictures, found["texts"])
            matches = [f"{score.percent(rows[kind]['first'] + rows[kind]['later']):.1f} %"
                       for kind in kinds]
            errors = [f"{error:.3f}" for error in logprob_error(found, expected)]
            print(f"| {' | '.join([*weights, *matches, *errors])} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description="Compare formats of the demo model's weights.")
    parser.add_argument("--cogserve", type=pathlib.Path, metavar="COMMAND",
                        help="the built command, such as build/command/cogserve")
    parser.add_argument("--pictures", type=int, default=100, help="for each task and language (default 100)")
    parser.add_argument("--seed", type=int, default=1, help="other seeds, other pictures")
    parser.add_argument("--streams", type=int, default=4, help="conversations at a time (default 4)")
    parser.add_argument("--measure", type=pathlib.Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options)
    elif options.cogserve:
        show(options)
    else:
        parser.error("name the built command with --cogserve")


if __name__ == "__main__":
    main()
