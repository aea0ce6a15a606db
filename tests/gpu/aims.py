"""What is aimed at on an H200, and what of it a run has measured."""

import re

# What no run measures, whatever the machine.
NEVER_MEASURED = (
    "39 GB of a checkpoint ready from the page cache in under 30 s: weights here are random numbers,"
    " made while they are loaded",
    "answers of the published checkpoint: no weights of it are here",
)


def figure(results, part, measurement, name):
    return results[part].get(measurement, {}).get(name)


def ratio(results, above, below):
    """None unless both figures are there."""
    numbers = [figure(results, *above), figure(results, *below)]
    return numbers[0] / numbers[1] if None not in numbers else None


def aims(results):
    """(what is measured, unit, first aim, later aim or None, figure or None) of each: less is better."""
    for text, part, measurement, name, first, later in (
        ("bf16, picture through the tower", "model", "first_token", "vision_ms", 240, 195),
        ("bf16, prefill of 2356 tokens", "model", "first_token", "prefill_ms", 62, 55),
        ("bf16, a token at batch 1", "model", "decode_1", "step_ms", 4.5, 4.2),
        ("bf16, a token at batch 32", "model", "decode_32", "step_ms", 8.0, 7.2),
        ("int4, a token at batch 1", "model_int4", "decode_1", "step_ms", 2.4, 1.7),
        ("int4, a token at batch 32", "model_int4", "decode_32", "step_ms", 5.0, 4.3),
    ):
        yield text, "ms", first, later, figure(results, part, measurement, name)
    prefill = ("first_token", "prefill_ms")
    yield (
        "int4's prefill to bf16's", "", 1.15, None,
        ratio(results, ("model_int4", *prefill), ("model", *prefill)),
    )
    for batch in (1, 8, 32):
        step = (f"decode_{batch}", "step_ms")
        yield (
            f"int4's time for a token to bf16's, batch {batch}", "", 1, None,
            ratio(results, ("model_int4", *step), ("model", *step)),
        )


def wanted(unit, first, later):
    return f"at most {first} {unit}".rstrip() + (f", then {later}" if later else "")


def is_h200(results):
    return re.search(r"\bH200\b", results["device"]) is not None


def unmeasured(results):
    """A sentence each."""
    yield from NEVER_MEASURED
    if not is_h200(results):
        yield "every aim for an H200: this is another device"
        return
    for text, unit, first, later, found in aims(results):
        if found is None:
            yield f"{text}: {wanted(unit, first, later)}"


def measured(results):
    """Lines of a table; nothing of a device that the aims are not for."""
    if not is_h200(results):
        return
    for text, unit, first, later, found in aims(results):
        if found is not None:
            yield f"{text:<44}{found:>8.2f} {unit:<3}aim: {wanted(unit, first, later)}"
