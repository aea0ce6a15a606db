"""The CogVLM2 architecture in PyTorch, plain enough to read: what the server must compute.

Parameter names and shapes are those of the published checkpoint, so `state_dict()` is its layout.
A prompt is `BOS, [boi, patches, eoi], text`; each token has an index (the causal order), a RoPE
position and an expert. All functions take one batch whose rows share that layout.
"""

import json
import pathlib
import struct
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

ROPE_THETA = 500000.0
ADAPTER_NORM_EPS = 1e-5


def rotary_frequencies(head_dim):
    return 1.0 / ROPE_THETA ** (torch.arange(0, head_dim, 2).float() / head_dim)


def rotary_table(positions, frequencies, mode):
    """cos and sin, [tokens, head_dim], f32.

    In mode `bf16` position, frequency, their product, cos and sin are each rounded to bf16, as a
    model loaded in bf16 computes them.
    """
    if mode == "bf16":
        def rounded(x):
            return x.to(torch.bfloat16).float()
    else:
        def rounded(x):
            return x
    angles = rounded(rounded(positions.float())[:, None] * rounded(frequencies.float())[None, :])
    angles = torch.cat([angles, angles], dim=-1)
    return rounded(angles.cos()), rounded(angles.sin())


def rotate(x, cos, sin):
    """Half-split (NeoX) rotation of x [batch, heads, tokens, head_dim]."""
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-high, low], dim=-1) * sin


@dataclass
class Layout:
    """Where the image stands in a sequence and what follows from it.

    `vision` is the span of indices that use the vision expert: boi and the patches. eoi counts as
    language for the expert, since no image token follows it.
    """
    positions: torch.Tensor
    vision: slice

    @staticmethod
    def of(tokens, image_start=None, image_tokens=0):
        """A sequence of `tokens`, with boi at index `image_start` and `image_tokens` in all."""
        positions = torch.arange(tokens)
        if image_start is None:
            return Layout(positions, slice(0, 0))
        # boi and eoi advance the position by one each, all the patches together by one.
        first_patch, eoi = image_start + 1, image_start + image_tokens - 1
        positions[first_patch:eoi] = first_patch
        positions[eoi:] -= image_tokens - 3
        return Layout(positions, slice(image_start, eoi))


class PatchEmbedding(nn.Module):
    """14x14 patches, a class row before them, and learned positions."""

    def __init__(self, vision):
        super().__init__()
        hidden, size = vision["hidden_size"], vision["patch_size"]
        self.proj = nn.Conv2d(vision["in_channels"], hidden, size, stride=size)
        self.cls_embedding = nn.Parameter(torch.zeros(1, hidden))
        self.position_embedding = nn.Embedding(vision["num_positions"], hidden)

    def forward(self, pixels):
        patches = self.proj(pixels).flatten(2).transpose(1, 2)
        cls = self.cls_embedding.expand(len(pixels), 1, -1)
        return torch.cat([cls, patches], dim=1) + self.position_embedding.weight


class VisionAttention(nn.Module):
    """Full attention over all rows."""

    def __init__(self, vision):
        super().__init__()
        self.heads = vision["num_heads"]
        hidden = vision["hidden_size"]
        self.query_key_value = nn.Linear(hidden, 3 * hidden)
        self.dense = nn.Linear(hidden, hidden)

    def forward(self, x):
        batch, rows, hidden = x.shape
        qkv = self.query_key_value(x).view(batch, rows, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0], qkv[1], qkv[2]
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        mixed = scores.softmax(dim=-1) @ value
        return self.dense(mixed.transpose(1, 2).reshape(batch, rows, hidden))


class VisionMlp(nn.Module):
    def __init__(self, vision):
        super().__init__()
        self.fc1 = nn.Linear(vision["hidden_size"], vision["intermediate_size"])
        self.fc2 = nn.Linear(vision["intermediate_size"], vision["hidden_size"])

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class VisionLayer(nn.Module):
    """Post-norm: each norm is applied to what a block adds, not to what it reads."""

    def __init__(self, vision):
        super().__init__()
        hidden, eps = vision["hidden_size"], vision["layer_norm_eps"]
        self.attention = VisionAttention(vision)
        self.mlp = VisionMlp(vision)
        self.input_layernorm = nn.LayerNorm(hidden, eps=eps)
        self.post_attention_layernorm = nn.LayerNorm(hidden, eps=eps)

    def forward(self, x):
        x = x + self.input_layernorm(self.attention(x))
        return x + self.post_attention_layernorm(self.mlp(x))


class VisionLayers(nn.Module):
    def __init__(self, vision):
        super().__init__()
        self.layers = nn.ModuleList(VisionLayer(vision) for _ in range(vision["num_hidden_layers"]))


class Adapter(nn.Module):
    """From the tower's width to the decoder's."""

    def __init__(self, config):
        super().__init__()
        hidden, wide = config["hidden_size"], config["intermediate_size"]
        self.linear_proj = nn.Linear(config["vision_config"]["hidden_size"], hidden, bias=False)
        self.norm1 = nn.LayerNorm(hidden, eps=ADAPTER_NORM_EPS)
        self.gate_proj = nn.Linear(hidden, wide, bias=False)
        self.dense_h_to_4h = nn.Linear(hidden, wide, bias=False)
        self.dense_4h_to_h = nn.Linear(wide, hidden, bias=False)

    def forward(self, x):
        x = F.gelu(self.norm1(self.linear_proj(x)))
        return self.dense_4h_to_h(F.silu(self.gate_proj(x)) * self.dense_h_to_4h(x))


class Vision(nn.Module):
    """Pixels [batch, 3, size, size] to decoder rows [batch, boi + patches / 4 + eoi, hidden]."""

    def __init__(self, config):
        super().__init__()
        vision = config["vision_config"]
        self.side = vision["image_size"] // vision["patch_size"]
        hidden = vision["hidden_size"]
        self.patch_embedding = PatchEmbedding(vision)
        self.transformer = VisionLayers(vision)
        self.conv = nn.Conv2d(hidden, hidden, 2, stride=2)
        self.linear_proj = Adapter(config)
        self.boi = nn.Parameter(torch.zeros(1, 1, config["hidden_size"]))
        self.eoi = nn.Parameter(torch.zeros(1, 1, config["hidden_size"]))

    def tower(self, pixels):
        """The patches after the last layer, [batch, patches, vision hidden]."""
        x = self.patch_embedding(pixels)
        for layer in self.transformer.layers:
            x = layer(x)
        return x[:, 1:]

    def features(self, patches):
        batch, count, hidden = patches.shape
        grid = patches.transpose(1, 2).reshape(batch, hidden, self.side, self.side)
        merged = self.conv(grid).flatten(2).transpose(1, 2)
        ends = [end.expand(batch, 1, -1) for end in (self.boi, self.eoi)]
        return torch.cat([ends[0], self.linear_proj(merged), ends[1]], dim=1)

    def forward(self, pixels):
        return self.features(self.tower(pixels))


def by_expert(x, vision, vision_expert, language_expert):
    """Runs each row of x [batch, tokens, width] through the expert of its token."""
    if vision.start == vision.stop:
        return language_expert(x)
    head, middle, tail = x[:, :vision.start], x[:, vision], x[:, vision.stop:]
    language = language_expert(torch.cat([head, tail], dim=1))
    return torch.cat([language[:, :vision.start], vision_expert(middle), language[:, vision.start:]], dim=1)


class Rotary(nn.Module):
    def __init__(self, head_dim):
        super().__init__()
        self.register_buffer("inv_freq", rotary_frequencies(head_dim))


class Attention(nn.Module):
    """Causal attention with grouped KV heads and two experts' projections."""

    def __init__(self, config):
        super().__init__()
        hidden = config["hidden_size"]
        self.heads = config["num_attention_heads"]
        self.kv_heads = config["num_multi_query_heads"]
        self.head_dim = hidden // self.heads
        width = hidden + 2 * self.kv_heads * self.head_dim
        self.vision_expert_query_key_value = nn.Linear(hidden, width)
        self.vision_expert_dense = nn.Linear(hidden, hidden, bias=False)
        self.language_expert_query_key_value = nn.Linear(hidden, width, bias=False)
        self.language_expert_dense = nn.Linear(hidden, hidden, bias=False)
        self.rotary_emb = Rotary(self.head_dim)

    def forward(self, x, vision, cos, sin, causal):
        batch, tokens, hidden = x.shape
        qkv = by_expert(x, vision, self.vision_expert_query_key_value, self.language_expert_query_key_value)
        qkv = qkv.view(batch, tokens, -1, self.head_dim).transpose(1, 2)
        query, key, value = qkv.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        query = rotate(query, cos, sin) * self.head_dim ** -0.5
        key = rotate(key, cos, sin)
        # The query heads that share a KV head become rows of one product.
        group = self.heads // self.kv_heads
        query = query.reshape(batch, self.kv_heads, group * tokens, self.head_dim)
        scores = (query @ key.transpose(-1, -2)).view(batch, self.kv_heads, group, tokens, tokens)
        weights = (scores + causal).softmax(dim=-1).view(batch, self.kv_heads, group * tokens, tokens)
        mixed = (weights @ value).view(batch, self.heads, tokens, self.head_dim)
        mixed = mixed.transpose(1, 2).reshape(batch, tokens, hidden)
        return by_expert(mixed, vision, self.vision_expert_dense, self.language_expert_dense)


class Mlp(nn.Module):
    def __init__(self, hidden, wide):
        super().__init__()
        self.gate_proj = nn.Linear(hidden, wide, bias=False)
        self.up_proj = nn.Linear(hidden, wide, bias=False)
        self.down_proj = nn.Linear(wide, hidden, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class ExpertMlp(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.language_mlp = Mlp(config["hidden_size"], config["intermediate_size"])
        self.vision_mlp = Mlp(config["hidden_size"], config["intermediate_size"])

    def forward(self, x, vision):
        return by_expert(x, vision, self.vision_mlp, self.language_mlp)


class RmsNorm(nn.Module):
    def __init__(self, hidden, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))
        self.eps = eps

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class DecoderLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = ExpertMlp(config)
        self.input_layernorm = RmsNorm(config["hidden_size"], config["rms_norm_eps"])
        self.post_attention_layernorm = RmsNorm(config["hidden_size"], config["rms_norm_eps"])

    def forward(self, x, vision, cos, sin, causal):
        x = x + self.self_attn(self.input_layernorm(x), vision, cos, sin, causal)
        return x + self.mlp(self.post_attention_layernorm(x), vision)


class Trunk(nn.Module):
    """Everything but the head: the published names put it under `model.`."""

    def __init__(self, config):
        super().__init__()
        self.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config["num_hidden_layers"]))
        self.norm = RmsNorm(config["hidden_size"], config["rms_norm_eps"])
        self.vision = Vision(config)


class CogVlm(nn.Module):
    def __init__(self, config, rope="bf16"):
        super().__init__()
        self.config = config
        self.rope = rope
        self.model = Trunk(config)
        self.lm_head = nn.Linear(config["hidden_size"], config["vocab_size"], bias=False)

    def embed(self, ids, features=None, image_start=1):
        """Token rows with the image's features put in before index `image_start` of the text."""
        rows = self.model.embed_tokens(ids)
        if features is None:
            return rows
        return torch.cat([rows[:, :image_start], features, rows[:, image_start:]], dim=1)

    def decode(self, x, layout):
        """Hidden rows [batch, tokens, hidden] through all layers and the last norm."""
        # Not from the stored inv_freq, which a bf16 checkpoint has rounded already.
        frequencies = rotary_frequencies(self.config["hidden_size"] // self.config["num_attention_heads"])
        cos, sin = (t.to(x.device) for t in rotary_table(layout.positions, frequencies, self.rope))
        tokens = x.shape[1]
        causal = torch.full((tokens, tokens), float("-inf"), device=x.device).triu(1)
        for layer in self.model.layers:
            x = layer(x, layout.vision, cos, sin, causal)
        return self.model.norm(x)

    def hidden(self, ids, features=None):
        """Last rows [batch, tokens, hidden] of `BOS + text`, the image after BOS if there is one."""
        x = self.embed(ids, features)
        image = (None, 0) if features is None else (1, features.shape[1])
        return self.decode(x, Layout.of(x.shape[1], *image))

    def forward(self, ids, features=None):
        """Logits [batch, tokens, vocabulary] of every token."""
        return self.lm_head(self.hidden(ids, features))


def initialize(model):
    """Starting weights for training from scratch."""
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight") or "norm1.weight" in name:
            nn.init.ones_(parameter)
            if "vision.transformer" in name:
                nn.init.constant_(parameter, 0.4)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif "embed" in name or name.endswith(("boi", "eoi", "cls_embedding")):
            if "patch_embedding.proj" in name:
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
            else:
                nn.init.normal_(parameter, std=0.5 if "vision" in name else 0.4)
        else:
            fan_in = parameter[0].numel()
            nn.init.normal_(parameter, std=fan_in ** -0.5)
            if name.endswith(("down_proj.weight", "expert_dense.weight")):
                parameter.data *= (2 * len(model.model.layers)) ** -0.5
    nn.init.normal_(model.lm_head.weight, std=0.5 * model.lm_head.in_features ** -0.5)


def read_safetensors(path):
    """Every tensor of one safetensors file, as f32 torch tensors."""
    raw = pathlib.Path(path).read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    tensors = {}
    for name, entry in json.loads(raw[8:8 + length]).items():
        if name == "__metadata__":
            continue
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        if entry["dtype"] == "BF16":
            bits = np.frombuffer(raw[start:end], "<u2").astype(np.uint32) << 16
            values = bits.view(np.float32)
        else:
            values = np.frombuffer(raw[start:end], {"F32": "<f4", "F16": "<f2"}[entry["dtype"]])
        tensors[name] = torch.from_numpy(values.astype(np.float32).reshape(entry["shape"]))
    return tensors


def load(folder, rope="bf16"):
    """The model of a checkpoint folder, in f32."""
    folder = pathlib.Path(folder)
    model = CogVlm(json.loads((folder / "config.json").read_text()), rope)
    model.load_state_dict(read_safetensors(folder / "model.safetensors"))
    return model.eval()
