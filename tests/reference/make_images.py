"""Makes tests/data/images: tiny pictures in every mode that the server reads, and what Pillow says
of each.

    pip install "pillow>=10,<13" numpy && python make_images.py

For each picture `<name>` there is `<name>.rgb`: the bytes of `Image.open(name).convert("RGB")`,
followed by those of the same image resized with BICUBIC. `index.txt` holds one line a picture:
name, width, height, resized width, resized height. Pillow 13.0 changed the order of the two
resampling passes, and the upstream model was made with earlier ones, hence the upper bound.
"""

import io
import pathlib
import struct
import sys
import zlib

import numpy as np
import PIL
from PIL import Image

TARGET = pathlib.Path(__file__).resolve().parent.parent / "data" / "images"
RNG = np.random.default_rng(20240520)
SIZES = [(23, 17), (16, 16), (31, 9), (8, 40), (4, 5), (29, 30)]
RESIZED = [(19, 29), (16, 16), (8, 31), (40, 9), (14, 14), (29, 12), (5, 30)]


def pixels(width, height, channels, top=255):
    """A gradient with noise, edges and flat parts: [height, width, channels] of 0..top."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (2.0 + c) + c) + np.cos(y / (3.0 - 0.5 * c)) for c in range(channels)]
    image = (np.stack(waves, -1) + 2) / 4
    image += RNG.normal(0, 0.1, image.shape)
    image[: height // 3, : width // 3] = 0
    image[height // 2 :, width // 2 :] = 1
    return np.clip(np.rint(image * top), 0, top).astype(np.int64)


def rgb_image(size):
    return Image.fromarray(pixels(*size, 3).astype(np.uint8))


def encode(image, form, **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


# ---- PNG, written by hand: Pillow writes neither interlaced files nor most bit depths.


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def pack_row(row, depth):
    """One row of samples as bytes."""
    flat = row.reshape(-1)
    if depth == 16:
        return flat.astype(">u2").tobytes()
    if depth == 8:
        return flat.astype(np.uint8).tobytes()
    bits = "".join(format(int(v), f"0{depth}b") for v in flat)
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))


def paeth(a, b, c):
    p = a + b - c
    return min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]


def filter_row(kind, row, above, step):
    out = bytearray([kind])
    for i, value in enumerate(row):
        left = row[i - step] if i >= step else 0
        corner = above[i - step] if i >= step else 0
        up = above[i]
        guess = (0, left, up, (left + up) // 2, paeth(left, up, corner))[kind]
        out.append((value - guess) & 0xFF)
    return bytes(out)


def png_pass(samples, depth):
    step = max(1, samples.shape[2] * depth // 8)
    above = bytes(len(pack_row(samples[0], depth)))
    out = b""
    for y, line in enumerate(samples):
        row = pack_row(line, depth)
        out += filter_row(y % 5, row, above, step)
        above = row
    return out


ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def png(samples, depth, color_type, *, before=b"", interlaced=False, pieces=1, after=b""):
    height, width, _ = samples.shape
    if interlaced:
        grids = [samples[y::dy, x::dx] for y, x, dy, dx in ADAM7]
        raw = b"".join(png_pass(g, depth) for g in grids if g.size)
    else:
        raw = png_pass(samples, depth)
    data = zlib.compress(raw, 9)
    cut = -(-len(data) // pieces)
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, int(interlaced))
    body = b"".join(chunk(b"IDAT", data[i : i + cut]) for i in range(0, len(data), cut))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + body + chunk(b"IEND", b"") + after
    )


def palette(entries):
    return chunk(b"PLTE", RNG.integers(0, 256, 3 * entries).astype(np.uint8).tobytes())


def png_files():
    kinds = {  # name: depth, color type, channels
        "grey1": (1, 0, 1), "grey2": (2, 0, 1), "grey4": (4, 0, 1), "grey8": (8, 0, 1),
        "grey16": (16, 0, 1), "rgb8": (8, 2, 3), "rgb16": (16, 2, 3), "greya8": (8, 4, 2),
        "greya16": (16, 4, 2), "rgba8": (8, 6, 4), "rgba16": (16, 6, 4), "palette1": (1, 3, 1),
        "palette2": (2, 3, 1), "palette4": (4, 3, 1), "palette8": (8, 3, 1),
    }  # fmt: skip
    for number, (name, (depth, color_type, channels)) in enumerate(kinds.items()):
        for interlaced in (False, True):
            size = SIZES[(number + interlaced) % len(SIZES)]
            # Dark 16-bit grey, so that more than white is left when it is cut at 255.
            top = 400 if name == "grey16" else 2**depth - 1
            before = palette(2**depth) if color_type == 3 else b""
            data = pixels(*size, channels, top)
            ending = "-interlaced" if interlaced else ""
            yield f"{name}{ending}.png", png(
                data, depth, color_type, before=before, interlaced=interlaced, pieces=1 + number % 3
            )
    size = SIZES[0]
    color = chunk(b"gAMA", struct.pack(">I", 100000)) + chunk(b"sRGB", b"\0")
    profile = chunk(b"iCCP", b"odd\0\0" + zlib.compress(b"not a profile"))
    turned = chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(4096)))
    yield "ancillary.png", png(
        pixels(*size, 3), 8, 2, before=color + profile + turned + text, after=b"trailing bytes"
    )
    yield "grey8-key.png", png(
        pixels(*size, 1), 8, 0, before=chunk(b"tRNS", struct.pack(">H", 255))
    )
    yield "rgb8-key.png", png(
        pixels(*size, 3), 8, 2, before=chunk(b"tRNS", struct.pack(">HHH", 0, 0, 0))
    )
    alpha = chunk(b"tRNS", bytes(range(0, 256, 16)))
    yield "palette4-alpha.png", png(pixels(*size, 1, 15), 4, 3, before=palette(16) + alpha)
    yield "palette8-short.png", png(pixels(*size, 1, 255), 8, 3, before=palette(100))


# ---- JPEG and WebP, written by Pillow, some of them changed by hand.


def without_segment(jpeg, marker):
    at = jpeg.index(marker)
    return jpeg[:at] + jpeg[at + 2 + struct.unpack(">H", jpeg[at + 2 : at + 4])[0] :]


def jpeg_files():
    options = {
        "444": dict(subsampling=0), "422": dict(subsampling=1), "420": dict(subsampling=2),
        "411": dict(subsampling="4:1:1"), "low": dict(quality=5), "optimized": dict(optimize=True),
        "restarts": dict(restart_marker_blocks=1), "progressive": dict(progressive=True),
        "progressive-444": dict(progressive=True, subsampling=0), "rgb": dict(keep_rgb=True),
    }  # fmt: skip
    for number, (name, option) in enumerate(options.items()):
        image = rgb_image(SIZES[number % len(SIZES)])
        yield f"{name}.jpg", encode(image, "JPEG", **({"quality": 85} | option))
    grey = rgb_image(SIZES[0]).convert("L")
    yield "grey.jpg", encode(grey, "JPEG")
    yield "grey-progressive.jpg", encode(grey, "JPEG", progressive=True)
    turned = Image.Exif()
    turned[0x0112] = 6
    yield "orientation.jpg", encode(rgb_image(SIZES[2]), "JPEG", exif=turned)
    yield "profile.jpg", encode(rgb_image(SIZES[2]), "JPEG", icc_profile=bytes(700)) + b"trailing"
    pair = rgb_image(SIZES[0]), rgb_image(SIZES[0])
    yield "two-pictures.mpo.jpg", encode(pair[0], "MPO", save_all=True, append_images=[pair[1]])
    inks = Image.fromarray(pixels(*SIZES[0], 4).astype(np.uint8), "CMYK")
    cmyk = encode(inks, "JPEG", quality=90)
    yield "cmyk.jpg", cmyk
    yield "cmyk-progressive.jpg", encode(inks, "JPEG", quality=90, progressive=True)
    yield "cmyk-no-adobe.jpg", without_segment(cmyk, b"\xff\xee")
    adobe = cmyk.index(b"Adobe")
    yield "ycck.jpg", cmyk[: adobe + 11] + b"\x02" + cmyk[adobe + 12 :]


def webp_files():
    for number, size in enumerate(SIZES[:3]):
        yield f"lossy{number}.webp", encode(rgb_image(size), "WEBP", quality=40 + 25 * number)
        yield f"lossless{number}.webp", encode(rgb_image(size), "WEBP", lossless=True)
    seen = Image.fromarray(pixels(*SIZES[0], 4).astype(np.uint8), "RGBA")
    yield "lossy-alpha.webp", encode(seen, "WEBP", quality=70)
    yield "lossless-alpha.webp", encode(seen, "WEBP", lossless=True)
    yield "lossless-exact-alpha.webp", encode(seen, "WEBP", lossless=True, exact=True)
    turned = Image.Exif()
    turned[0x0112] = 6
    yield "extended.webp", encode(
        rgb_image(SIZES[2]), "WEBP", exif=turned, icc_profile=bytes(333)
    ) + b"trailing"


def main():
    if not (10,) <= tuple(int(n) for n in PIL.__version__.split(".")[:1]) < (13,):
        sys.exit(f"needs Pillow 10, 11 or 12; this is {PIL.__version__}")
    TARGET.mkdir(parents=True, exist_ok=True)
    lines = [f"# Made by tests/reference/make_images.py with Pillow {PIL.__version__}"]
    files = [*jpeg_files(), *png_files(), *webp_files()]
    for number, (name, data) in enumerate(files):
        resized = RESIZED[number % len(RESIZED)]
        image = Image.open(io.BytesIO(data)).convert("RGB")
        (TARGET / name).write_bytes(data)
        (TARGET / f"{name}.rgb").write_bytes(
            image.tobytes() + image.resize(resized, Image.Resampling.BICUBIC).tobytes()
        )
        lines.append(" ".join(str(v) for v in (name, *image.size, *resized)))
    (TARGET / "index.txt").write_text("\n".join(lines) + "\n")
    print(f"{len(files)} pictures in {TARGET.name}")


if __name__ == "__main__":
    main()
