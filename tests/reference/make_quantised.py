"""Makes the quantised fixtures in tests/data/quantised: python3 make_quantised.py [OUTPUT_DIRECTORY]

Each set is a tiny random checkpoint with its matrices in one of the layouts that are read, and
expected/model.safetensors with what they stand for, as [out, in]. A matrix is drawn as codes,
scales and zeros in their natural order; its values come from the layout's definition, its tensors
from a packer that knows nothing of any reader. Deterministic: the same program writes the same
bytes.
"""

import json
import sys
from pathlib import Path

import numpy as np

from cogvlm2 import bf16_bits, from_bf16_bits, round_bf16
from make_golden import BASE_CONFIG, BASE_VISION, random_tensor, tensor_shapes

NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip
FP4_MAGNITUDES = [0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4]
FP4 = FP4_MAGNITUDES + [-magnitude if magnitude else -0.0 for magnitude in FP4_MAGNITUDES]
OWN_MAP = np.linspace(-1, 0.9, 16)

GPTQ = dict(quant_method="gptq", bits=4, group_size=16, sym=True, desc_act=False, damp_percent=0.01)
BITSANDBYTES = dict(quant_method="bitsandbytes", load_in_4bit=True, load_in_8bit=False)
AUTO_ROUND = dict(
    quant_method="intel/auto-round", bits=4, group_size=16, sym=True, data_type="int", iters=200
)  # fmt: skip

# name -> writer, its options, and quantization_config; `dense` are parts of names left as they are.
SETS = {
    "native": dict(
        layout="native", config=dict(intermediate_size=136), dense=[],
        label=dict(quant_method="cogserve", version=1, bits=4, group_size=128, vision="int8"),
    ),
    "bitsandbytes-nf4": dict(
        layout="bitsandbytes", codebook="nf4", dtype="bfloat16",
        label=dict(BITSANDBYTES, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=False),
    ),
    "bitsandbytes-nf4-nested": dict(
        layout="bitsandbytes", codebook="nf4", dtype="float16", storage="BF16", nested=256,
        label=dict(BITSANDBYTES, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True),
    ),
    "bitsandbytes-fp4": dict(
        layout="bitsandbytes", codebook="fp4", dtype="bfloat16", label=dict(BITSANDBYTES),
    ),
    "bitsandbytes-fp4-own-map": dict(
        layout="bitsandbytes", codebook="fp4", map=OWN_MAP, dtype="float32", nested=16,
        dense=["lm_head", "linear_proj", "mlp"], label=dict(BITSANDBYTES),
    ),
    "gptq-v1": dict(layout="gptq", stored=7, label=GPTQ),
    # The second convention under the first one's name.
    "gptq-v2-called-v1": dict(
        layout="gptq", stored=8, label=dict(GPTQ, checkpoint_format="gptq"),
    ),
    "gptq-v1-zeros": dict(
        layout="gptq", offset=1, label=dict(GPTQ, sym=False, checkpoint_format="gptq"),
    ),
    "gptq-v2-zeros": dict(
        layout="gptq", offset=0, shards=3,
        label=dict(GPTQ, sym=False, checkpoint_format="gptq_v2", group_size=-1),
    ),
    # Rows of more words than a reader may take at a time.
    "autoround": dict(
        layout="gptq", stored=7, g_idx=False, biases=True, dense=["lm_head", "model.vision."],
        config=dict(intermediate_size=152),
        label=dict(AUTO_ROUND, backend="auto_round:gptq:exllamav2"),
    ),
    "autoround-zeros": dict(
        layout="gptq", offset=0, g_idx=False, dense=["lm_head", "self_attn"],
        label=dict(AUTO_ROUND, sym=False, packing_format="auto_round:exllamav2"),
    ),
}  # fmt: skip

CONFIG = dict(
    BASE_CONFIG, hidden_size=16, intermediate_size=24, num_attention_heads=2,
    num_multi_query_heads=1, num_hidden_layers=1, vocab_size=24, max_position_embeddings=64,
    torch_dtype="bfloat16",
)  # fmt: skip
VISION = dict(
    BASE_VISION, hidden_size=8, intermediate_size=16, num_heads=1, num_hidden_layers=1,
    patch_size=2, image_size=8, num_positions=17,
)  # fmt: skip


class Tensor:
    """A tensor as the file has it: dtype by its name there, shape and bytes."""

    def __init__(self, dtype, shape, data):
        self.dtype, self.shape, self.data = dtype, [int(n) for n in shape], data


def f32(values):
    values = np.asarray(values, "<f4")
    return Tensor("F32", values.shape, values.tobytes())


def f16(values):
    values = np.asarray(values, "<f2")
    return Tensor("F16", values.shape, values.tobytes())


def bf16(values):
    bits = bf16_bits(np.asarray(values, np.float32)).astype("<u2")
    return Tensor("BF16", bits.shape, bits.tobytes())


def i32(values):
    values = np.asarray(values, "<i4")
    return Tensor("I32", values.shape, values.tobytes())


def is_linear(name, shape):
    return len(shape) == 2 and name.endswith(".weight") and "embed" not in name


# --- cogserve's own ------------------------------------------------------------------------------


def write_int8(rng, stem, out, inner):
    codes = rng.integers(-127, 128, (out, inner))
    scales = (rng.uniform(0.5, 1.5, (out, 1)) / 127 / np.sqrt(inner)).astype(np.float32)
    values = codes.astype(np.float32) * scales
    return {
        f"{stem}.weight": Tensor("I8", (out, inner), codes.astype(np.int8).tobytes()),
        f"{stem}.weight_scale": f32(scales),
    }, values


def write_native(rng, stem, out, inner, _):
    if stem.startswith("model.vision.transformer") or stem == "lm_head":
        return write_int8(rng, stem, out, inner)
    groups = -(-inner // 128)
    codes = rng.integers(0, 16, (out, inner))
    signs = rng.choice([-1.0, 1.0], (out, groups))
    scales = (signs * rng.uniform(0.1, 0.3, (out, groups)) / np.sqrt(inner)).astype(np.float16)
    values, packed = np.zeros((out, inner), np.float32), bytearray()
    for row in range(out):
        for col in range(inner):
            scale = np.float32(scales[row, col // 128])
            values[row, col] = np.float32(int(codes[row, col]) - 8) * scale
        for col in range(0, inner, 2):
            packed.append(int(codes[row, col]) | int(codes[row, col + 1]) << 4)
    return {
        f"{stem}.weight": Tensor("U8", (out, inner // 2), bytes(packed)),
        f"{stem}.weight_scale": f16(scales),
    }, values


# --- bitsandbytes --------------------------------------------------------------------------------


def nested_scales(rng, blocks, nested):
    """(state, tensors, scales): scales as 8-bit codes of a map, times an absmax, plus an offset."""
    codes = rng.integers(0, 256, blocks)
    code_map = np.sort(rng.uniform(-1, 1, 256)).astype(np.float32)
    absmax = rng.uniform(0.1, 0.2, -(-blocks // nested)).astype(np.float32)
    offset = np.float32(rng.uniform(0.3, 0.5))
    scales = np.array(
        [np.float32(code_map[code] * absmax[i // nested]) + offset for i, code in enumerate(codes)]
    )
    state = dict(nested_blocksize=nested, nested_dtype="float32", nested_offset=float(offset))
    tensors = {
        "absmax": Tensor("U8", (blocks,), codes.astype(np.uint8).tobytes()),
        "nested_absmax": f32(absmax),
        "nested_quant_map": f32(code_map),
    }
    return state, tensors, scales.astype(np.float32)


def write_bitsandbytes(rng, stem, out, inner, spec):
    blocksize = 8
    codebook = spec["codebook"]
    code_map = np.array(spec.get("map", NF4 if codebook == "nf4" else FP4), np.float32)
    codes = rng.integers(0, 16, out * inner)
    blocks = out * inner // blocksize
    state = dict(
        quant_type=codebook, blocksize=blocksize, dtype=spec["dtype"], shape=[out, inner]
    )
    if "nested" in spec:
        more, tensors, scales = nested_scales(rng, blocks, spec["nested"])
        state.update(more)
    else:
        scales = rng.uniform(0.1, 2.0, blocks).astype(np.float32)
        tensors = {"absmax": f32(scales)}
    values = np.array(
        [code_map[code] * scales[i // blocksize] for i, code in enumerate(codes)], np.float32
    )
    if spec["dtype"] == "bfloat16":
        values = round_bf16(values)
    elif spec["dtype"] == "float16":
        values = values.astype(np.float16).astype(np.float32)
    packed = bytes(int(high) << 4 | int(low) for high, low in zip(codes[0::2], codes[1::2]))
    storage = spec.get("storage", "U8")
    size = {"U8": 1, "BF16": 2}[storage]
    text = json.dumps(state).encode()
    tensors["quant_map"] = f32(code_map)
    tensors[f"quant_state.bitsandbytes__{codebook}"] = Tensor("U8", (len(text),), text)
    named = {f"{stem}.weight.{name}": tensor for name, tensor in tensors.items()}
    named[f"{stem}.weight"] = Tensor(storage, (len(packed) // size, 1), packed)
    return named, values.reshape(out, inner)


# --- GPTQ and AutoRound --------------------------------------------------------------------------


def words_of(nibbles):
    """[n, 8 m] numbers below 16 -> [n, m] words of 32 bits, the first number lowest."""
    rows = []
    for row in nibbles:
        words = []
        for begin in range(0, len(row), 8):
            word = sum(int(row[begin + b]) << 4 * b for b in range(8))
            words.append(word - (1 << 32) if word >= 1 << 31 else word)
        rows.append(words)
    return np.array(rows)


def write_gptq(rng, stem, out, inner, spec):
    group = spec["label"]["group_size"]
    group = inner if group < 0 else group
    groups = -(-inner // group)
    codes = rng.integers(0, 16, (inner, out))
    scales = (rng.uniform(-0.3, 0.3, (groups, out)) / np.sqrt(inner)).astype(np.float16)
    if "stored" in spec:
        zeros = np.full((groups, out), 8)
        stored = np.full((groups, out), spec["stored"])
    else:
        stored = rng.integers(0, 16, (groups, out))
        zeros = stored + spec["offset"]
    group_index = [k // group for k in range(inner)]
    values = np.zeros((out, inner), np.float32)
    for k in range(inner):
        for c in range(out):
            zero, scale = zeros[group_index[k], c], np.float32(scales[group_index[k], c])
            values[c, k] = np.float32(int(codes[k, c]) - int(zero)) * scale
    tensors = {
        f"{stem}.qweight": i32(words_of(codes.T).T),
        f"{stem}.qzeros": i32(words_of(stored)),
        f"{stem}.scales": f16(scales),
    }
    if spec.get("g_idx", True):
        tensors[f"{stem}.g_idx"] = i32(group_index)
    if spec.get("biases"):
        tensors[f"{stem}.bias"] = f16(np.zeros(out))
    return tensors, values


# --- files ---------------------------------------------------------------------------------------


def write_safetensors(path, tensors):
    header, offset = {}, 0
    for name, tensor in tensors.items():
        end = offset + len(tensor.data)
        header[name] = dict(dtype=tensor.dtype, shape=tensor.shape, data_offsets=[offset, end])
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    path.write_bytes(
        len(text).to_bytes(8, "little") + text + b"".join(t.data for t in tensors.values())
    )


def write_checkpoint(directory, tensors, shards):
    if shards == 1:
        write_safetensors(directory / "model.safetensors", tensors)
        return
    # Dealt out one by one, so that the tensors of a matrix lie in different files.
    files = [f"model-{shard + 1:05}-of-{shards:05}.safetensors" for shard in range(shards)]
    weight_map = {name: files[i % shards] for i, name in enumerate(tensors)}
    for file in files:
        write_safetensors(
            directory / file, {name: t for name, t in tensors.items() if weight_map[name] == file}
        )
    index = dict(metadata={}, weight_map=weight_map)
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=0) + "\n")


WRITERS = dict(native=write_native, bitsandbytes=write_bitsandbytes, gptq=write_gptq)


def make_set(directory, name, spec, seed):
    rng = np.random.Generator(np.random.PCG64(seed))
    config = dict(CONFIG, **spec.get("config", {}))
    config.update(vision_config=VISION, quantization_config=spec["label"])
    tensors, expected = {}, {}
    for tensor, shape in tensor_shapes(config).items():
        dense = any(part in tensor for part in spec.get("dense", ["lm_head"]))
        if tensor.endswith("inv_freq"):
            continue
        if dense or not is_linear(tensor, shape):
            tensors[tensor] = bf16(random_tensor(rng, tensor, shape))
            continue
        stem = tensor.removesuffix(".weight")
        parts, values = WRITERS[spec["layout"]](rng, stem, *shape, spec)
        tensors.update(parts)  # a bias of zeros is replaced by the model's own, which comes later
        exact = np.array_equal(from_bf16_bits(bf16_bits(values)), values)
        expected[tensor] = bf16(values) if exact else f32(values)
    (directory / "expected").mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    write_checkpoint(directory, tensors, spec.get("shards", 1))
    write_safetensors(directory / "expected" / "model.safetensors", expected)
    sizes = [file.stat().st_size for file in directory.rglob("*") if file.is_file()]
    print(f"{name}: {len(expected)} matrices, {sum(sizes)} bytes, the largest file {max(sizes)}")


def main():
    default = Path(__file__).resolve().parent.parent / "data" / "quantised"
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    for seed, (name, spec) in enumerate(SETS.items(), start=1):
        make_set(output / name, name, spec, seed)


if __name__ == "__main__":
    main()
