"""Makes the golden fixtures in tests/data/golden: python3 make_golden.py [OUTPUT_DIRECTORY]

Each set is a tiny random checkpoint in the published layout (config.json and model.safetensors or
its sharded form) with inputs and the reference's outputs:
  cases.json            case -> rope, input_ids, token_type_ids (1 = image), position_ids,
                        expert_mask, logit_rows (tokens whose logits are kept; absent = all), greedy
  <case>.pixels.npy     [3, S, S] float32, normalised
  <case>.features.npy   [image tokens, hidden] float32
  <case>.logits.npy     [logit rows, vocab] float32
Deterministic: the same program writes the same bytes.
"""

import json
import sys
from pathlib import Path

import numpy as np

from cogvlm2 import CogVLM2, bf16_bits, experts_of, from_bf16_bits, positions_of

BOS, EOS, IMAGE = 0, [1, 2], 3
FIRST_TEXT_ID = 4
GREEDY_TOKENS = 12
# A greedy token must win clearly, or float32 could rightly choose another.
MIN_LEAD = 0.02
# Positions above 256 are where bfloat16 stops counting.
LONG_TEXT = 300

# name -> dtype, shards and what differs from BASE_CONFIG / BASE_VISION.
SETS = {
    "gqa-f32": dict(dtype="F32"),
    "gqa-bf16": dict(
        dtype="BF16",
        config=dict(hidden_size=40, num_multi_query_heads=1, torch_dtype="bfloat16"),
        vision=dict(num_heads=1),
    ),
    "mha-bf16": dict(
        dtype="BF16",
        config=dict(num_multi_query_heads=4, num_hidden_layers=1, torch_dtype="bfloat16"),
        vision=dict(patch_size=5, image_size=30, num_hidden_layers=1),
    ),
    "mha-f16": dict(
        dtype="F16",
        config=dict(num_attention_heads=2, num_multi_query_heads=2, torch_dtype="float16"),
        vision=dict(num_heads=2),
    ),
    "sharded-bf16": dict(
        dtype="BF16", shards=3, config=dict(num_hidden_layers=3, torch_dtype="bfloat16")
    ),
    # No num_multi_query_heads: 8.
    "default-kv-bf16": dict(
        dtype="BF16",
        config=dict(num_attention_heads=16, num_multi_query_heads=None, torch_dtype="bfloat16"),
        vision=dict(num_hidden_layers=1),
    ),
    # Head sizes that suit tensor cores, and a picture of more rows than one of their blocks takes.
    "tensor-cores-bf16": dict(
        dtype="BF16",
        config=dict(
            hidden_size=64, num_attention_heads=2, num_multi_query_heads=1, torch_dtype="bfloat16"
        ),
        vision=dict(
            hidden_size=112, num_heads=1, num_hidden_layers=1, patch_size=4, image_size=48
        ),
    ),
}

BASE_CONFIG = dict(
    architectures=["CogVLMForCausalLM"],
    hidden_size=32,
    intermediate_size=48,
    num_attention_heads=4,
    num_multi_query_heads=2,
    num_hidden_layers=2,
    vocab_size=192,
    max_position_embeddings=512,
    rms_norm_eps=1e-5,
    hidden_act="silu",
    template_version="chat",
    bos_token_id=BOS,
    eos_token_id=EOS,
    pad_token_id=IMAGE,
)

BASE_VISION = dict(
    hidden_size=24,
    intermediate_size=40,
    num_heads=3,
    num_hidden_layers=2,
    patch_size=7,
    image_size=28,
    in_channels=3,
    hidden_act="gelu",
    layer_norm_eps=1e-6,
)


def make_config(spec):
    config = {**BASE_CONFIG, **spec.get("config", {})}
    config = {key: value for key, value in config.items() if value is not None}
    vision = {**BASE_VISION, **spec.get("vision", {})}
    vision["num_positions"] = (vision["image_size"] // vision["patch_size"]) ** 2 + 1
    config["vision_config"] = vision
    return config


def tensor_shapes(config):
    """name -> shape, in the order of the published files."""
    c, v = config, config["vision_config"]
    hidden, inner, width = c["hidden_size"], c["intermediate_size"], v["hidden_size"]
    head_dim = hidden // c["num_attention_heads"]
    qkv = hidden + 2 * c.get("num_multi_query_heads", 8) * head_dim
    shapes = {"model.embed_tokens.weight": (c["vocab_size"], hidden)}
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        shapes[layer + "input_layernorm.weight"] = (hidden,)
        for kind in ("language", "vision"):
            mlp, attention = f"{layer}mlp.{kind}_mlp.", f"{layer}self_attn.{kind}_expert_"
            shapes[mlp + "gate_proj.weight"] = (inner, hidden)
            shapes[mlp + "up_proj.weight"] = (inner, hidden)
            shapes[mlp + "down_proj.weight"] = (hidden, inner)
            shapes[attention + "query_key_value.weight"] = (qkv, hidden)
            shapes[attention + "dense.weight"] = (hidden, hidden)
        shapes[layer + "self_attn.vision_expert_query_key_value.bias"] = (qkv,)
        shapes[layer + "self_attn.rotary_emb.inv_freq"] = (head_dim // 2,)
        shapes[layer + "post_attention_layernorm.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    shapes["lm_head.weight"] = (c["vocab_size"], hidden)

    patches = "model.vision.patch_embedding."
    shapes[patches + "proj.weight"] = (width, 3, v["patch_size"], v["patch_size"])
    shapes[patches + "proj.bias"] = (width,)
    shapes[patches + "cls_embedding"] = (1, width)
    shapes[patches + "position_embedding.weight"] = (v["num_positions"], width)
    for i in range(v["num_hidden_layers"]):
        layer = f"model.vision.transformer.layers.{i}."
        for name, out, in_ in (
            ("attention.query_key_value", 3 * width, width),
            ("attention.dense", width, width),
            ("mlp.fc1", v["intermediate_size"], width),
            ("mlp.fc2", width, v["intermediate_size"]),
        ):
            shapes[f"{layer}{name}.weight"] = (out, in_)
            shapes[f"{layer}{name}.bias"] = (out,)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{layer}{name}.weight"] = (width,)
            shapes[f"{layer}{name}.bias"] = (width,)
    shapes["model.vision.conv.weight"] = (width, width, 2, 2)
    shapes["model.vision.conv.bias"] = (width,)
    adapter = "model.vision.linear_proj."
    shapes[adapter + "linear_proj.weight"] = (hidden, width)
    shapes[adapter + "norm1.weight"] = (hidden,)
    shapes[adapter + "norm1.bias"] = (hidden,)
    shapes[adapter + "dense_h_to_4h.weight"] = (inner, hidden)
    shapes[adapter + "gate_proj.weight"] = (inner, hidden)
    shapes[adapter + "dense_4h_to_h.weight"] = (hidden, inner)
    shapes["model.vision.boi"] = (1, 1, hidden)
    shapes["model.vision.eoi"] = (1, 1, hidden)
    return shapes


def random_tensor(rng, name, shape):
    """Scaled so that every block matters to the logits: a mistake in any of them must show."""
    noise = rng.standard_normal(shape)
    if name.endswith(("norm.weight", "norm1.weight")):
        return 1 + 0.2 * noise
    if len(shape) == 1:
        return 0.2 * noise
    if name == "lm_head.weight":
        return 3 / np.sqrt(shape[1]) * noise
    if name in ("model.embed_tokens.weight", "model.vision.boi", "model.vision.eoi"):
        return noise
    if "_embedding" in name and "proj" not in name:
        return 0.3 * noise
    return noise / np.sqrt(np.prod(shape[1:]))


def stored(values, dtype):
    """(bytes, the float64 values that they stand for)."""
    values = values.astype(np.float32)
    if dtype == "BF16":
        bits = bf16_bits(values)
        return bits.astype("<u2").tobytes(), from_bf16_bits(bits).astype(np.float64)
    typed = values.astype({"F32": "<f4", "F16": "<f2"}[dtype])
    return typed.tobytes(), typed.astype(np.float64)


def write_safetensors(path, contents, dtype):
    """`contents`: name -> (shape, bytes)."""
    header, offset = {}, 0
    for name, (shape, data) in contents.items():
        header[name] = {
            "dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(data)]
        }  # fmt: skip
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    body = b"".join(data for _, data in contents.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def write_checkpoint(directory, contents, dtype, shards):
    if shards == 1:
        write_safetensors(directory / "model.safetensors", contents, dtype)
        return
    names, weight_map = list(contents), {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        chosen = names[len(names) * shard // shards : len(names) * (shard + 1) // shards]
        write_safetensors(directory / file, {name: contents[name] for name in chosen}, dtype)
        weight_map.update({name: file for name in chosen})
    index = {
        "metadata": {"total_size": sum(len(data) for _, data in contents.values())},
        "weight_map": weight_map,
    }
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=0) + "\n")


def make_model(rng, config, dtype):
    """(model, name -> (shape, bytes))."""
    tensors, contents = {}, {}
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    for name, shape in tensor_shapes(config).items():
        if name.endswith("inv_freq"):
            values = 500000.0 ** (-np.arange(0, head_dim, 2) / head_dim)
        else:
            values = random_tensor(rng, name, shape)
        data, tensors[name] = stored(values, dtype)
        contents[name] = (shape, data)
    return CogVLM2(config, tensors), contents


def make_case(rng, model, directory, name, rope, with_image, text_tokens):
    """Writes the arrays of one case and returns its entry in cases.json."""
    config = model.config
    vision = config["vision_config"]
    image_tokens = (vision["image_size"] // vision["patch_size"] // 2) ** 2 + 2
    while True:
        text = rng.integers(FIRST_TEXT_ID, config["vocab_size"], text_tokens).tolist()
        image = [IMAGE] * image_tokens if with_image else []
        ids, types = [BOS] + image + text, [0] + [1] * len(image) + [0] * len(text)
        features = None
        if with_image:
            size = vision["image_size"]
            pixels = rng.standard_normal((3, size, size)).astype(np.float32)
            features = model.features(pixels)
        greedy, lead = model.greedy(ids, types, features, rope, GREEDY_TOKENS)
        if lead >= MIN_LEAD:
            break
    # Short prompts whole; of long ones a few rows on both sides of position 256, and the last.
    rows = list(range(len(ids))) if with_image else sorted({0, len(ids) // 2, len(ids) - 1})
    if len(ids) > 256:
        rows = [0, 1, 17, 128, 255, 256, 257, 280, len(ids) - 1]
    logits = model.logits(ids, types, features, rope)[rows]
    np.save(directory / f"{name}.logits.npy", logits.astype(np.float32))
    if with_image:
        np.save(directory / f"{name}.pixels.npy", pixels)
        np.save(directory / f"{name}.features.npy", features.astype(np.float32))
    return dict(
        rope=rope,
        input_ids=ids,
        token_type_ids=types,
        position_ids=positions_of(types).tolist(),
        expert_mask=experts_of(types).astype(int).tolist(),
        logit_rows=rows,
        greedy=greedy,
    )


def make_set(directory, name, spec, seed):
    rng = np.random.Generator(np.random.PCG64(seed))
    directory.mkdir(parents=True, exist_ok=True)
    config = make_config(spec)
    model, contents = make_model(rng, config, spec["dtype"])
    (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    write_checkpoint(directory, contents, spec["dtype"], spec.get("shards", 1))
    cases = {}
    for case, rope, with_image, text_tokens in (
        ("image", "fp32", True, 9),
        ("image_rope_bf16", "bf16", True, 9),
        ("text", "fp32", False, 12),
        ("long_text", "fp32", False, LONG_TEXT),
        ("long_text_rope_bf16", "bf16", False, LONG_TEXT),
    ):
        cases[case] = make_case(rng, model, directory, case, rope, with_image, text_tokens)
    lines = [f"{json.dumps(case)}: {json.dumps(entry)}" for case, entry in cases.items()]
    (directory / "cases.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{name}: {sum(file.stat().st_size for file in directory.iterdir())} bytes")


def main():
    default = Path(__file__).resolve().parent.parent / "data" / "golden"
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    for seed, (name, spec) in enumerate(SETS.items(), start=1):
        make_set(output / name, name, spec, seed)


if __name__ == "__main__":
    main()
