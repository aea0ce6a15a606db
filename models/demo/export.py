#!/usr/bin/env python3
"""Writes a training checkpoint as `model.safetensors`: bf16, in the published layout.

    export.py --work DIR --out FOLDER

The file is put in place whole or not at all.
"""

import argparse
import json
import os
import pathlib
import struct

import torch

from model import CogVlm

HERE = pathlib.Path(__file__).parent


def to_bf16_bytes(tensor):
    return tensor.detach().cpu().to(torch.bfloat16).contiguous().view(torch.int16).numpy().astype("<i2").tobytes()


def write_safetensors(path, tensors):
    """Writes `tensors` as bf16: header length, JSON header padded to 8 bytes, then the data."""
    header, blobs, offset = {"__metadata__": {"format": "pt"}}, [], 0
    for name, tensor in tensors.items():
        blob = to_bf16_bytes(tensor)
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape),
                        "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    partial = path.with_suffix(".partial")
    with open(partial, "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        file.writelines(blobs)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    return 8 + len(head) + offset


def main():
    parser = argparse.ArgumentParser(description="Export a training checkpoint of the demo model.")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="the trainer's folder")
    parser.add_argument("--out", type=pathlib.Path, default=HERE, help="folder of the checkpoint")
    options = parser.parse_args()
    kept = torch.load(options.work / "checkpoint.pt", map_location="cpu")
    model = CogVlm(json.loads((HERE / "config.json").read_text()))
    model.load_state_dict(kept["model"])  # names and shapes must be exactly the architecture's
    size = write_safetensors(options.out / "model.safetensors", model.state_dict())
    print(f"{options.out / 'model.safetensors'}: {size} bytes, batch {kept['index']}, "
          f"minute {kept['seconds'] / 60:.1f}")


if __name__ == "__main__":
    main()
