"""What the command line of ``predict`` names, as a list of pictures."""

from __future__ import annotations

import gzip
import importlib.util
import io
import os
import random
import tarfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retinanet_fast.engine.data.decode import Decoding
from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.prediction.pictures import Pictures
from retinanet_fast.engine.prediction.reading import Reader, Unreadable
from retinanet_fast.engine.prediction.sources import list_pictures

# Frames of the clip that is written; B-frames are stored in another order than they are shown in.
FRAMES = 40


def save(path: Path, grey: int = 0, size: tuple[int, int] = (8, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (grey, grey, grey)).save(path)
    return path


def names(pictures: Pictures) -> list[str]:
    return [picture.name for picture in pictures]


def greys(pictures: Pictures) -> list[int]:
    """The first pixel of each, in a list."""
    reader = Reader(Decoding())
    return [int(reader.decode(picture).image[0, 0, 0]) for picture in pictures]


def tar_of(path: Path, files: dict[str, int | bytes]) -> Path:
    """A tar of pictures by their grey, and of other files by their content."""
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            if isinstance(content, int):
                buffer = io.BytesIO()
                Image.new("RGB", (8, 6), (content,) * 3).save(buffer, "PNG")
                content = buffer.getvalue()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_folders_are_walked_by_name_and_files_stay_in_their_order(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "sub/z.png", "sub/deep/c.png", "note.txt"):
        save(tmp_path / "in" / name) if name != "note.txt" else (tmp_path / "in" / name).write_text("")
    single = save(tmp_path / "single.png")
    listed = list_pictures([str(single), str(tmp_path / "in"), str(single)])
    assert names(listed) == [str(single), "a.JPG", "b.png", "sub/z.png", "sub/deep/c.png", str(single)]
    assert [picture.path.is_file() for picture in listed] == [True] * 6


def test_what_a_prediction_wrote_is_not_its_input(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "found" / "a.png")
    assert names(list_pictures([str(tmp_path)], out=tmp_path / "found")) == ["a.png"]
    assert names(list_pictures([str(tmp_path / "found")], out=tmp_path / "found")) == ["a.png"]


def test_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("s-8.png", "s-9.png", "s-10.png", "s-[1].png", "x/y/t.png"):
        save(Path(name))
    assert names(list_pictures(["s-?.png"])) == ["s-8.png", "s-9.png"]
    assert names(list_pictures(["s-{8..10}.png"])) == ["s-8.png", "s-9.png", "s-10.png"]
    assert names(list_pictures(["**/t.png"])) == ["x/y/t.png"]
    assert names(list_pictures(["s-[1].png"])) == ["s-[1].png"]  # a file of that name comes first
    assert names(list_pictures(["{0..1}/{08..11}.png"]))[2:6] == [
        "0/10.png",
        "0/11.png",
        "1/08.png",
        "1/09.png",
    ]


def test_lists_and_the_standard_input(tmp_path: Path) -> None:
    files = [save(tmp_path / f"{index}.png", index) for index in range(4)]
    (tmp_path / "list.txt").write_text(f"{files[2]}\n\n{files[0]}\r\n")
    stdin = io.BytesIO(f"{files[3]}\n{files[1]}".encode())
    listed = list_pictures([f"@{tmp_path / 'list.txt'}", "-"], stdin=stdin)
    assert greys(listed) == [2, 0, 3, 1]


def test_names_that_are_no_unicode(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff.png"
    try:
        os.rename(save(tmp_path / "a.png", 7), name)
    except OSError:
        pytest.skip("this file system takes only names in Unicode")
    assert greys(list_pictures([str(tmp_path)])) == [7]
    assert greys(list_pictures(["-"], stdin=io.BytesIO(name))) == [7]


def test_tar_shards(tmp_path: Path) -> None:
    tar_of(tmp_path / "s-0.tar", {"a.png": 1, "a.json": b"{}", "b.png": 2})
    tar_of(tmp_path / "s-1.tar", {"sub/c.png": 3, "bad.jpg": b"no picture"})
    listed = list_pictures([str(tmp_path / "s-{0..1}.tar")])
    assert names(listed) == ["s-0.tar/a.png", "s-0.tar/b.png", "s-1.tar/sub/c.png", "s-1.tar/bad.jpg"]
    reader = Reader(Decoding())
    order = [2, 0, 1, 2]  # from one tar to another and back
    assert [int(reader.decode(listed[index]).image[0, 0, 0]) for index in order] == [3, 1, 2, 3]
    with pytest.raises(Unreadable, match=r"s-1\.tar/bad\.jpg: not a readable image"):
        reader.decode(listed[3])


def test_ids_are_the_numbers_of_the_names_or_the_places() -> None:
    def ids(*words: str) -> list[int]:
        return list_pictures(words).ids().tolist()

    assert ids("a/000139.jpg", "b/12.jpg") == [139, 12]
    assert ids("a/1.jpg", "b/1.jpg") == [1, 2]
    assert ids("7.jpg", "x.jpg") == [1, 2]
    assert ids("7.jpg", f"{10**20}.jpg") == [1, 2]  # more than an int64


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("empty", "empty: no pictures in this folder"),
        ("gone*.png", r"gone\*.png: no file fits this pattern"),
        ("@gone.txt", "gone.txt: cannot be read as a list of pictures"),
        ("@none.txt", "no pictures: the lists that were given are empty"),
        ("gone.tar", "gone.tar: cannot be read: No such file"),
        ("zipped.tar.gz", "zipped.tar.gz: expected a whole, uncompressed tar file"),
        ("text.tar", "text.tar: no pictures in this tar file"),
        ("torn.tar", "torn.tar: expected a whole, uncompressed tar file"),
    ],
)
def test_what_cannot_be_listed(
    word: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.txt").write_text("\n")
    tar_of(tmp_path / "text.tar", {"a.txt": b"text"})
    whole = tar_of(tmp_path / "torn.tar", {f"{index}.png": index for index in range(3)}).read_bytes()
    (tmp_path / "torn.tar").write_bytes(whole[: 2 * 1024 + 700])  # within the third member's header
    (tmp_path / "zipped.tar.gz").write_bytes(gzip.compress(whole))
    with pytest.raises(InputError, match=expected):
        list_pictures([word])


def write_clip(path: Path) -> None:
    av = pytest.importorskip("av", reason="videos are read by PyAV")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = 12, 2
        for index in range(FRAMES):
            bits = [255 * (index >> place & 1) for place in range(8)]  # the frame's number, as eight columns
            pixels = np.broadcast_to(np.repeat(bits, 8)[:, None], (48, 64, 3)).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def test_the_frames_of_a_video(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4")
    listed = list_pictures([str(tmp_path / "clip.mp4")])
    assert len(listed) == FRAMES
    assert names(listed)[0] == "clip.mp4/000001"
    assert listed.ids().tolist() == list(range(1, FRAMES + 1))
    reader = Reader(Decoding())
    # In their order, backwards, and in any.
    for index in [*range(FRAMES), *reversed(range(FRAMES)), 31, 3, 4, 39, 0]:
        columns = reader.decode(listed[index]).image[0, 24, 4::8]  # the middle of each
        assert sum((int(value) > 127) << place for place, value in enumerate(columns)) == index
    assert reader.size(listed[0]) == (64, 48)


def test_a_damaged_container_is_told_or_its_pictures_are(tmp_path: Path) -> None:
    """Bytes are changed and cut at random, with fixed seeds: no error but ours, which the program tells in a line."""
    containers = [tar_of(tmp_path / "whole.tar", {"x" * 120 + ".png": 1, "ü.png": 2, "c.png": 3})]
    if importlib.util.find_spec("av") is not None:
        write_clip(tmp_path / "whole.mp4")
        containers.append(tmp_path / "whole.mp4")
    for container in containers:
        whole, damaged = container.read_bytes(), tmp_path / f"damaged{container.suffix}"
        told: list[str] = []
        for seed in range(150):
            draw = random.Random(seed)
            content = bytearray(whole)
            for _ in range(draw.choice([1, 3, 10, 50])):
                content[draw.randrange(len(content))] = draw.randrange(256)
            damaged.write_bytes(content[: draw.choice([len(content), draw.randrange(len(content))])])
            reader = Reader(Decoding())
            try:
                for picture in list_pictures([str(damaged)]):
                    reader.decode(picture)
            except InputError as error:
                told.append(str(error))
            finally:
                reader.close()
        assert 0 < len(told) < 150  # some damage is not seen
        assert not any("\n" in message for message in told)


def test_a_video_that_is_none(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="videos are read by PyAV")
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match=r"clip\.mp4: not a readable video"):
        list_pictures([str(tmp_path / "clip.mp4")])


def test_a_video_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(
        InputError, match=r"clip\.mp4: a video needs PyAV.*pip install \"retinanet_fast\[video\]\""
    ):
        list_pictures([str(tmp_path / "clip.mp4")])
