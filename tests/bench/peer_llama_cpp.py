#!/usr/bin/env python3
"""Helper of peer_llama_cpp.sh.

Usage: peer_llama_cpp.py gguf FILE --dtype bf16|f16|q4_0 --layers N
       peer_llama_cpp.py table --peer DTYPE... --cogserve NAME --turns N
"""
import argparse
import json
import math
import pathlib
import statistics

# The shapes of decode_bench.cpp.
HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, VOCAB, HEAD_DIM = 4096, 14336, 32, 8, 32000, 128


def tensors(layers):
    """Name and shape of each; one-dimensional ones are norms and stay f32."""
    yield "token_embd.weight", (VOCAB, HIDDEN)
    yield "output_norm.weight", (HIDDEN,)
    yield "output.weight", (VOCAB, HIDDEN)
    for layer in range(layers):
        for name, shape in (("attn_norm", (HIDDEN,)),
                            ("attn_q", (HEADS * HEAD_DIM, HIDDEN)),
                            ("attn_k", (KV_HEADS * HEAD_DIM, HIDDEN)),
                            ("attn_v", (KV_HEADS * HEAD_DIM, HIDDEN)),
                            ("attn_output", (HIDDEN, HIDDEN)),
                            ("ffn_norm", (HIDDEN,)),
                            ("ffn_gate", (INTERMEDIATE, HIDDEN)),
                            ("ffn_up", (INTERMEDIATE, HIDDEN)),
                            ("ffn_down", (HIDDEN, INTERMEDIATE))):
            yield f"blk.{layer}.{name}.weight", shape


def write_gguf(path, dtype, layers):
    import gguf
    import gguf.quants
    import numpy as np

    kinds = gguf.GGMLQuantizationType

    def kind_of(name, shape):
        if len(shape) == 1:
            return kinds.F32
        if dtype == "q4_0" and name == "output.weight":
            return kinds.Q8_0  # as decode_bench's head
        return {"bf16": kinds.BF16, "f16": kinds.F16, "q4_0": kinds.Q4_0}[dtype]

    def content(name, shape):
        if len(shape) == 1:
            return np.ones(shape, np.float32)
        # A standard deviation of 1 / sqrt(fan in), as decode_bench's weights.
        spread = math.sqrt(3 / shape[1])
        values = (generator.random(shape, np.float32) * 2 - 1) * np.float32(spread)
        if dtype == "f16":
            return values.astype(np.float16)
        if dtype == "bf16":
            return (values.view(np.uint32) >> 16).astype(np.uint16)
        return gguf.quants.quantize(values, kind_of(name, shape))

    generator = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(VOCAB)
    writer.add_context_length(2048)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("none")  # token ids in, token ids out
    everything = list(tensors(layers))
    for name, shape in everything:
        kind = kind_of(name, shape)
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        # Of a quantised tensor the writer is told the bytes of a row.
        packed = kind in (kinds.Q4_0, kinds.Q8_0)
        stored = (*shape[:-1], shape[-1] // block * block_bytes) if packed else shape
        element = np.uint8 if packed else np.float32 if kind == kinds.F32 else np.float16
        writer.add_tensor_info(name, stored, np.dtype(element),
                               math.prod(shape) // block * block_bytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, shape in everything:
        writer.write_tensor_data(content(name, shape))
    writer.close()


def read_peer(path):
    """Sequences -> best tokens/s of a run of llama-batched-bench."""
    best = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        best[run["pl"]] = max(best.get(run["pl"], 0.0), run["speed_tg"])
    return best


def read_cogserve(path):
    """Sequences -> best tokens/s of a run of decode_bench."""
    best = {}
    for run in json.loads(path.read_text(encoding="utf-8"))["benchmarks"]:
        if run["run_type"] != "iteration":
            continue
        sequences = int(run["name"].split("/")[0].rsplit("_", 1)[1])
        best[sequences] = max(best.get(sequences, 0.0), run["tokens/s"])
    return best


def print_table(dtypes, name, turns):
    """Of the files peer-DTYPE-TURN.jsonl and cogserve-NAME-TURN.json in this directory."""
    ours = [read_cogserve(pathlib.Path(f"cogserve-{name}-{turn}.json")) for turn in range(turns)]
    peers = {dtype: [read_peer(pathlib.Path(f"peer-{dtype}-{turn}.jsonl"))
                     for turn in range(turns)] for dtype in dtypes}
    print(f"\ntokens/s, the best of {turns} turns; cogserve's as a multiple of llama.cpp's in the "
          "median turn (least to most)")
    print(f"{'sequences':>9} {'cogserve':>9} " +
          " ".join(f"{'llama.cpp ' + dtype:>16}{'':20}" for dtype in dtypes))
    for sequences in sorted(ours[0]):
        columns = []
        for runs in peers.values():
            ratios = [our[sequences] / run[sequences] for our, run in zip(ours, runs)]
            columns.append(f"{max(run[sequences] for run in runs):16.2f} "
                           f"{statistics.median(ratios):5.2f}x ({min(ratios):.2f} to "
                           f"{max(ratios):.2f})")
        print(f"{sequences:9} {max(our[sequences] for our in ours):9.2f} " + " ".join(columns))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    gguf_command = commands.add_parser("gguf")
    gguf_command.add_argument("file")
    gguf_command.add_argument("--dtype", choices=("bf16", "f16", "q4_0"), required=True)
    gguf_command.add_argument("--layers", type=int, required=True)
    table_command = commands.add_parser("table")
    table_command.add_argument("--peer", nargs="+", required=True)
    table_command.add_argument("--cogserve", required=True)
    table_command.add_argument("--turns", type=int, required=True)
    arguments = parser.parse_args()
    if arguments.command == "gguf":
        write_gguf(arguments.file, arguments.dtype, arguments.layers)
    else:
        print_table(arguments.peer, arguments.cogserve, arguments.turns)


if __name__ == "__main__":
    main()
