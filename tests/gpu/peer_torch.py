#!/usr/bin/env python3
"""The layers of gpu_kernels_bench in PyTorch, under the same names: peer_torch.py FILE.json

Matrix products by torch (cuBLAS), attention by scaled_dot_product_attention over keys and values that
lie in one piece, norms and activations by torch's own functions. Timed by CUDA events; each figure is
the best of several batches, with inputs at another place of a large pool each time.
"""

import json
import os
import sys

import torch
import torch.nn.functional as F

TRIES = 5
BATCH_SECONDS = 10e-3
POOL_ELEMENTS = (3 << 30) // 2
CONTEXT, HEADS, KV_HEADS, HEAD_DIM = 2400, 32, 8, 128


def seconds_of_a_call(body):
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    call = 0

    def batch(calls):
        nonlocal call
        begin.record()
        for _ in range(calls):
            body(call)
            call += 1
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e-3 / calls

    batch(1)
    calls = max(2, min(500, int(BATCH_SECONDS / batch(2))))
    return min(batch(calls) for _ in range(TRIES))


class Pool:
    """Random bf16 numbers, larger than any cache."""

    def __init__(self):
        piece = torch.randn(16 << 20, device="cuda").bfloat16()
        self.values = piece.repeat(POOL_ELEMENTS // piece.numel())

    def take(self, i, *shape):
        count = 1
        for size in shape:
            count *= size
        count = (count + 127) // 128 * 128
        at = i % (self.values.numel() // count) * count
        elements = 1
        for size in shape:
            elements *= size
        return self.values[at : at + elements].view(*shape)


def products():
    for rows in (1, 8, 32, 64, 512, 2305):
        yield f"decoder_qkv_{rows}", rows, 6144, 4096
        yield f"decoder_dense_{rows}", rows, 4096, 4096
        yield f"decoder_gate_{rows}", rows, 14336, 4096
        yield f"decoder_down_{rows}", rows, 4096, 14336
    for rows in (1, 8, 64):
        yield f"head_{rows}", rows, 128256, 4096
    yield "tower_qkv_9217", 9217, 5376, 1792
    for rows in (1024, 9217):
        yield f"tower_dense_{rows}", rows, 1792, 1792
        yield f"tower_fc1_{rows}", rows, 15360, 1792
        yield f"tower_fc2_{rows}", rows, 1792, 15360


def gate_and_up(pool, x, i):
    gate, up = pool.take(2 * i, 14336, 4096), pool.take(2 * i + 1, 14336, 4096)
    return F.silu(F.linear(x, gate)) * F.linear(x, up)


def attention(pool):
    """name -> body."""

    def keys_and_values(i, shape):
        return pool.take(2 * i, *shape), pool.take(2 * i + 1, *shape)

    yield (
        "dense_attention_9217",
        lambda i: F.scaled_dot_product_attention(*pool.take(i, 3, 1, 16, 9217, 112)),
    )
    for first, count in ((0, 2356), (1844, 512)):
        q = pool.take(0, 1, HEADS, count, HEAD_DIM)
        shape = (1, KV_HEADS, first + count, HEAD_DIM)
        mask = None
        if first > 0:  # row r sees the keys up to first + r
            mask = torch.ones(count, first + count, dtype=torch.bool, device="cuda").tril(first)
        yield (
            f"paged_prefill_{count}_from_{first}",
            lambda i, q=q, s=shape, mask=mask: F.scaled_dot_product_attention(
                q, *keys_and_values(i, s), attn_mask=mask, is_causal=mask is None, enable_gqa=True
            ),
        )
    for sequences in (1, 8, 32, 64):
        q = pool.take(0, sequences, HEADS, 1, HEAD_DIM)
        shape = (sequences, KV_HEADS, CONTEXT, HEAD_DIM)
        yield (
            f"paged_decode_{sequences}",
            lambda i, q=q, s=shape: F.scaled_dot_product_attention(
                q, *keys_and_values(i, s), enable_gqa=True
            ),
        )


def rows(pool):
    norm, tower_norm = pool.take(0, 4096), pool.take(0, 1792)
    for n in (64, 512):
        yield f"rms_norm_{n}", lambda i, n=n: F.rms_norm(pool.take(i, n, 4096), (4096,), norm, 1e-5)
        yield (
            f"add_rms_norm_{n}",
            lambda i, n=n: F.rms_norm(
                pool.take(2 * i, n, 4096).add_(pool.take(2 * i + 1, n, 4096)), (4096,), norm, 1e-5
            ),
        )
        yield f"add_{n}", lambda i, n=n: pool.take(2 * i, n, 4096) + pool.take(2 * i + 1, n, 4096)
        yield (
            f"silu_mul_{n}",
            lambda i, n=n: F.silu(pool.take(2 * i, n, 14336)) * pool.take(2 * i + 1, n, 14336),
        )
    yield (
        "add_layer_norm_9217",
        lambda i: pool.take(2 * i, 9217, 1792)
        + F.layer_norm(pool.take(2 * i + 1, 9217, 1792), (1792,), tower_norm, tower_norm, 1e-6),
    )
    yield "gelu_1024", lambda i: F.gelu(pool.take(i, 1024, 15360))


def main():
    pool = Pool()
    results = {}

    def measure(name, body):
        results[name] = {"us": seconds_of_a_call(body) * 1e6}
        print(f"{name:<36}{results[name]['us']:10.1f} us", flush=True)
        # Replaced with each measurement: a run that is cut off leaves what it had.
        beside = sys.argv[1] + ".new"
        with open(beside, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)
        os.replace(beside, sys.argv[1])

    with torch.inference_mode():
        for name, count, out, in_ in products():
            x = pool.take(0, count, in_)
            measure(name, lambda i, x=x, s=(out, in_): F.linear(x, pool.take(i, *s)))
        for count in (1, 8):
            x = pool.take(0, count, 4096)
            measure(f"decoder_gate_and_up_{count}", lambda i, x=x: gate_and_up(pool, x, i))
        for source in (attention, rows):
            for name, body in source(pool):
                measure(name, body)


if __name__ == "__main__":
    main()
