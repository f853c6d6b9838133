"""Reads mutated image files, in a process of its own: ``python fuzzed_images.py COUNT SEED FOLDER``. Prints a line for
each case that ends in something else than an image of the size it says, or one line of what is wrong; and, last, how
the cases ended."""

from __future__ import annotations

import collections
import io
import json
import random
import struct
import sys
import traceback
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from fuzzing import SECONDS, limit_memory, mutated_bytes, within
from PIL import Image

from retinanet_fast.engine.data.dataset import BadImage, CocoDataset
from retinanet_fast.engine.data.decode import Decoding
from retinanet_fast.engine.data.image_facts import look_at
from retinanet_fast.engine.data.split import Boxes, Category, Images, Split

# A model's sizes, so that JPEGs are decoded in part, and none, so that they are not.
DECODINGS = (Decoding("auto", 32, 48), Decoding("auto"), Decoding("stored"), Decoding("upright"))


def originals() -> dict[str, bytes]:
    """Small images of many kinds."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 4), dtype=np.uint8)
    rgb = Image.fromarray(noise[..., :3])
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(noise[..., :2].reshape(48, 128).view(np.uint16))
    kinds = {
        "plain.jpg": (rgb, {}),
        "progressive.jpg": (rgb, {"progressive": True}),
        "turned.jpg": (rgb, {"exif": exif}),
        "gray.jpg": (rgb.convert("L"), {}),
        "cmyk.jpg": (rgb.convert("CMYK"), {}),
        "rgb.png": (rgb, {}),
        "turned.png": (rgb, {"exif": exif}),
        "rgba.png": (Image.fromarray(noise), {}),
        "palette.png": (rgb.convert("P"), {"transparency": 3}),
        "deep.png": (deep, {}),
        "bits.png": (rgb.convert("1"), {}),
        "rgb.bmp": (rgb, {}),
        "rgb.gif": (rgb, {"save_all": True, "append_images": [rgb.rotate(90)]}),
        "rgb.webp": (rgb, {}),
        "rgb.tiff": (rgb, {}),
        "lzw.tiff": (rgb, {"compression": "tiff_lzw"}),
        "float.tiff": (Image.fromarray(noise[..., 0].astype(np.float32)), {}),
        "lab.tiff": (Image.merge("LAB", rgb.split()), {}),
        "rgb.ppm": (rgb, {}),
        "rgb.tga": (rgb, {}),
    }
    found = {}
    for name, (picture, options) in kinds.items():
        content = io.BytesIO()
        picture.save(content, format=Image.registered_extensions()[Path(name).suffix], **options)
        found[name] = content.getvalue()
    return found


def png(width: int, height: int, rows: int, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG that says one size and holds ``rows`` rows of black."""
    samples = {0: 1, 2: 3, 6: 4}[colour]
    row = b"\0" * (1 + -(-width * samples * depth // 8))
    packed = zlib.compressobj(1)
    data = b"".join(packed.compress(row) for _ in range(rows)) + packed.flush()

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def bombs() -> Iterator[tuple[str, bytes]]:
    """Small files of many pixels, and headers that promise them."""
    # As many as are decoded, and more: of these, all that is there, or a few rows.
    yield "bomb 9400.png", png(9400, 9400, 9400, colour=6)
    yield "bomb 1 bit.png", png(13000, 13000, 13000, depth=1, colour=0)
    yield "bomb 13000.png", png(13000, 13000, 20, colour=6)
    yield "bomb 16 bits.png", png(13000, 13000, 20, depth=16, colour=6)
    yield "bomb wide.png", png(150_000_000, 1, 1)
    yield "bomb 20000.png", png(20000, 20000, 20)
    yield "bomb header.png", png(2**31 - 1, 2**31 - 1, 1)
    black = Image.new("L", (12000, 12000))
    for suffix in (".jpg", ".gif"):
        content = io.BytesIO()
        black.save(content, format=Image.registered_extensions()[suffix])
        yield f"bomb{suffix}", content.getvalue()


def with_other_header(name: str, content: bytes, draw: random.Random) -> bytes:
    """An image whose header states another size."""
    width, height = (draw.choice((0, 1, 7, 64, 1000, 13000, 65535, 2**31 - 1, 2**32 - 1)) for _ in range(2))
    changed = bytearray(content)
    if name.endswith("png"):
        changed[16:24] = struct.pack(">II", width, height)
        changed[29:33] = struct.pack(">I", zlib.crc32(bytes(changed[12:29])))
    elif name.endswith("jpg"):
        place = next(i for i in range(len(changed)) if changed[i] == 0xFF and changed[i + 1] in (0xC0, 0xC2))
        changed[place + 5 : place + 9] = struct.pack(">HH", height % 2**16, width % 2**16)
    elif name.endswith("bmp"):
        changed[18:26] = struct.pack("<II", width, height)
    elif name.endswith("gif"):
        changed[6:10] = struct.pack("<HH", width % 2**16, height % 2**16)
    elif name.endswith("ppm"):
        return f"P6\n{width} {height}\n255\n".encode() + content[-64 * 48 * 3 :]
    else:
        place = draw.randrange(min(60, len(changed) - 4))
        changed[place : place + 4] = struct.pack("<I", width)
    return bytes(changed)


def outcome(path: Path) -> str:
    """How reading ends; raises where it ends as it must not."""
    with within(SECONDS):
        header, whole = look_at(str(path), False), look_at(str(path), True)
        stated = header.upright if header.width > 0 and header.height > 0 else (64, 48)
        split = Split.of(
            path, [Category(1, "x")], Images.of([(1, path.name, *stated)], path.parent), Boxes.of([])
        )
        ends = set()
        for decoding in DECODINGS:
            found = CocoDataset(split, split.categories, decoding=decoding)[0]
            if isinstance(found, BadImage):
                lines = found.message.splitlines()
                assert len(lines) == 1, found.message
                assert "MemoryError" not in found.message, found.message
                ends.add("error")
            else:
                scale = found.scale
                assert found.size == stated
                assert found.image.shape == (3, -(-stated[1] // scale), -(-stated[0] // scale)), (
                    found.image.shape
                )
                ends.add("read")
    assert "MemoryError" not in f"{header.fault} {whole.fault}", (header, whole)
    if whole.fault is None:
        # What check-data finds without fault can be read by the default.
        assert "read" in ends, whole
    return " and ".join(sorted(ends))


def main(count: int, seed: int, folder: Path) -> None:
    images = originals()
    for name, content in images.items():
        (folder / name).write_bytes(content)
        assert "read" in outcome(folder / name) or name == "lab.tiff", name
    cases = list(bombs())
    limit_memory()
    names = sorted(images)
    for number in range(count - len(cases)):
        draw = random.Random(f"image {seed} {number}")
        name = draw.choice(names)
        change = draw.randrange(8)
        content = images[name]
        if change == 0:
            content = with_other_header(name, content, draw)
        elif change == 1:
            name = f"{name}{draw.choice(names)}"  # another kind than its name says
        elif change == 2:
            content = draw.randbytes(draw.choice((0, 1, 100, 10_000)))
        else:
            content = mutated_bytes(content, draw)
        cases.append((name, content))
    ends: collections.Counter[str] = collections.Counter()
    for number, (name, content) in enumerate(cases):
        path = folder / f"{seed}-{number}-{name}"
        path.write_bytes(content)
        try:
            ends[outcome(path)] += 1
            path.unlink()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            where = traceback.extract_tb(error.__traceback__)[-1]
            print(f"{path}: {type(error).__name__}: {error} at {where.filename}:{where.lineno}", flush=True)
    print(json.dumps(ends))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
