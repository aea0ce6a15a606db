"""CogVLM2 in NumPy: an independent reference, written to be read and checked, not to be fast.

Everything is computed in float64 from the stored weights, except the RoPE tables, whose rounding
(float32 or bfloat16) is part of the model. Needs NumPy alone.
"""

import json
import math
from pathlib import Path

import numpy as np

ADAPTER_EPS = 1e-5  # PyTorch's default LayerNorm


# --- numbers and files ---------------------------------------------------------------------------


def bf16_bits(x):
    """float32 -> bfloat16 bit patterns, rounded to nearest even."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16_bits(bits):
    return (np.asarray(bits, np.uint16).astype(np.uint32) << 16).view(np.float32)


def round_bf16(x):
    return from_bf16_bits(bf16_bits(x))


def read_safetensors(path):
    """name -> (dtype name, float64 array)."""
    data = Path(path).read_bytes()
    header_end = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:header_end]).items():
        if name == "__metadata__":
            continue
        begin, end = (header_end + offset for offset in entry["data_offsets"])
        stored = np.frombuffer(data[begin:end], {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[entry["dtype"]])
        values = from_bf16_bits(stored) if entry["dtype"] == "BF16" else stored
        tensors[name] = (entry["dtype"], values.astype(np.float64).reshape(entry["shape"]))
    return tensors


def read_checkpoint(directory):
    directory = Path(directory)
    index = directory / "model.safetensors.index.json"
    files = ["model.safetensors"]
    if index.exists():
        files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    tensors = {}
    for file in files:
        tensors.update(read_safetensors(directory / file))
    return tensors


# --- pieces --------------------------------------------------------------------------------------


def rms_norm(x, weight, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def layer_norm(x, weight, bias, eps):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + eps) * weight + bias


def silu(x):
    return x / (1 + np.exp(-x))


gelu = np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))), otypes=[np.float64])


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def positions_of(types):
    """RoPE positions. `types`: 1 for image tokens, boi and eoi included.

    boi and eoi count as language; the position grows at each language token and at the first inner
    image token, and stays for the other inner ones.
    """
    inner = [
        t == 1 and 0 < i < len(types) - 1 and types[i - 1] == 1 and types[i + 1] == 1
        for i, t in enumerate(types)
    ]
    positions, position = [], -1
    for i in range(len(types)):
        if not (inner[i] and inner[i - 1]):
            position += 1
        positions.append(position)
    return np.array(positions)


def experts_of(types):
    """True where the vision expert works: an image token that is followed by another."""
    types = np.asarray(types)
    return (types == 1) & (np.append(types[1:], 0) == 1)


def rope_tables(positions, head_dim, theta, mode):
    """cos, sin [tokens, head_dim / 2], computed and rounded as a model of that dtype does."""
    keep = {"fp32": lambda x: np.asarray(x, np.float32), "bf16": round_bf16}[mode]
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    inverse_frequency = keep(np.float32(1) / np.power(np.float32(theta), exponent))
    angle = keep(keep(positions)[:, None] * inverse_frequency[None, :])
    return keep(np.cos(angle)).astype(np.float64), keep(np.sin(angle)).astype(np.float64)


def rotate(x, cos, sin):
    """x [tokens, heads, head_dim]; pairs are (i, i + head_dim / 2)."""
    a, b = np.split(x, 2, axis=-1)
    cos, sin = cos[:, None, :], sin[:, None, :]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


# --- the model -----------------------------------------------------------------------------------


class CogVLM2:
    def __init__(self, config, tensors):
        """`tensors`: name -> float64 array."""
        self.config = config
        self.tensors = tensors
        self.heads = config["num_attention_heads"]
        self.kv_heads = config.get("num_multi_query_heads", 8)
        self.head_dim = config["hidden_size"] // self.heads

    @classmethod
    def load(cls, directory):
        config = json.loads((Path(directory) / "config.json").read_text())
        return cls(config, {name: t for name, (_, t) in read_checkpoint(directory).items()})

    def linear(self, name, x):
        y = x @ self.tensors[name + ".weight"].T
        bias = self.tensors.get(name + ".bias")
        return y if bias is None else y + bias

    # Vision: pixels [3, S, S] -> features [image tokens, hidden].

    def features(self, pixels):
        t, v = self.tensors, self.config["vision_config"]
        patch, grid = v["patch_size"], v["image_size"] // v["patch_size"]
        # [3, grid, patch, grid, patch] -> [grid * grid, 3 * patch * patch]
        patches = pixels.astype(np.float64).reshape(3, grid, patch, grid, patch)
        patches = patches.transpose(1, 3, 0, 2, 4).reshape(grid * grid, -1)
        prefix = "model.vision.patch_embedding."
        kernel = t[prefix + "proj.weight"].reshape(v["hidden_size"], -1)
        x = np.concatenate([t[prefix + "cls_embedding"], patches @ kernel.T + t[prefix + "proj.bias"]])
        x = x + t[prefix + "position_embedding.weight"]
        for i in range(v["num_hidden_layers"]):
            x = self.vision_layer(f"model.vision.transformer.layers.{i}.", x)

        # 2x2 convolution with stride 2 over the patches, without the class row.
        cells = x[1:].reshape(grid // 2, 2, grid // 2, 2, -1)  # [row, dy, column, dx, channel]
        x = np.einsum("yaxbc,ocab->yxo", cells, t["model.vision.conv.weight"])
        x = x.reshape(-1, v["hidden_size"]) + t["model.vision.conv.bias"]

        prefix = "model.vision.linear_proj."
        x = self.linear(prefix + "linear_proj", x)
        x = gelu(layer_norm(x, t[prefix + "norm1.weight"], t[prefix + "norm1.bias"], ADAPTER_EPS))
        x = silu(self.linear(prefix + "gate_proj", x)) * self.linear(prefix + "dense_h_to_4h", x)
        x = self.linear(prefix + "dense_4h_to_h", x)
        return np.concatenate([t["model.vision.boi"][0], x, t["model.vision.eoi"][0]])

    def vision_layer(self, name, x):
        """Post-norm: each block's output is normalised, then added."""
        t, v = self.tensors, self.config["vision_config"]
        heads, eps = v["num_heads"], v["layer_norm_eps"]
        qkv = self.linear(name + "attention.query_key_value", x)
        q, k, v_ = qkv.reshape(len(x), 3, heads, -1).transpose(1, 2, 0, 3)  # [heads, rows, head size]
        weights = softmax(q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1]))
        attended = (weights @ v_).transpose(1, 0, 2).reshape(len(x), -1)
        attended = self.linear(name + "attention.dense", attended)
        norm = name + "input_layernorm."
        x = x + layer_norm(attended, t[norm + "weight"], t[norm + "bias"], eps)
        mlp = self.linear(name + "mlp.fc2", gelu(self.linear(name + "mlp.fc1", x)))
        norm = name + "post_attention_layernorm."
        return x + layer_norm(mlp, t[norm + "weight"], t[norm + "bias"], eps)

    # Language: ids, types and features -> logits [tokens, vocab].

    def logits(self, ids, types, features, rope):
        t, c = self.tensors, self.config
        x = t["model.embed_tokens.weight"][np.asarray(ids)]
        if features is not None:
            x[np.asarray(types) == 1] = features
        vision = experts_of(types)
        theta = c.get("rope_theta", 500000.0)
        tables = rope_tables(positions_of(types), self.head_dim, theta, rope)
        for i in range(c["num_hidden_layers"]):
            x = self.decoder_layer(f"model.layers.{i}.", x, vision, tables)
        x = rms_norm(x, t["model.norm.weight"], c["rms_norm_eps"])
        return self.linear("lm_head", x)

    def by_expert(self, vision, name, x):
        """Each row through its own expert; `name` holds a * for "vision" or "language"."""
        return np.where(
            vision[:, None],
            self.linear(name.replace("*", "vision"), x),
            self.linear(name.replace("*", "language"), x),
        )

    def decoder_layer(self, name, x, vision, tables):
        t, eps, n = self.tensors, self.config["rms_norm_eps"], len(x)
        h = rms_norm(x, t[name + "input_layernorm.weight"], eps)
        qkv = self.by_expert(vision, name + "self_attn.*_expert_query_key_value", h)
        qkv = qkv.reshape(n, self.heads + 2 * self.kv_heads, self.head_dim)
        q, k, v = np.split(qkv, [self.heads, self.heads + self.kv_heads], axis=1)
        q, k = rotate(q, *tables), rotate(k, *tables)
        group = self.heads // self.kv_heads
        k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
        scores = np.einsum("ihd,jhd->hij", q, k) / math.sqrt(self.head_dim)
        scores = np.where(np.tri(n, dtype=bool), scores, -np.inf)
        attended = np.einsum("hij,jhd->ihd", softmax(scores), v).reshape(n, -1)
        x = x + self.by_expert(vision, name + "self_attn.*_expert_dense", attended)
        h = rms_norm(x, t[name + "post_attention_layernorm.weight"], eps)
        mlp = name + "mlp.*_mlp."
        h = silu(self.by_expert(vision, mlp + "gate_proj", h)) * self.by_expert(vision, mlp + "up_proj", h)
        return x + self.by_expert(vision, mlp + "down_proj", h)

    def greedy(self, ids, types, features, rope, count):
        """(tokens, the smallest lead of a chosen token over the second). No cache: all is recomputed."""
        ids, types, lead = list(ids), list(types), math.inf
        for _ in range(count):
            last = self.logits(ids, types, features, rope)[-1]
            second, first = np.sort(last)[-2:]
            lead = min(lead, first - second)
            ids.append(int(last.argmax()))
            types.append(0)
        return ids[-count:], lead
