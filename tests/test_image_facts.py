"""Sizes and faults of image files: by processes, once, and remembered while a file keeps its length and its time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import data_sets
import pytest
from children import HERE, child_environment
from PIL import Image

from retinanet_fast.engine.data import image_facts as module
from retinanet_fast.engine.data.image_facts import FEW, image_facts
from retinanet_fast.engine.data.remembered import ImageFacts, cache_folder, record_of


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RETINANET_FAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are opened, in this process."""
    names: list[str] = []
    look = module.look_at

    def counted(path: str, decode: bool) -> ImageFacts:
        names.append(Path(path).name)
        return look(path, decode)

    monkeypatch.setattr(module, "look_at", counted)
    return names


def pictures(folder: Path, count: int = 3) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{index}.png" for index in range(count)]
    for index, path in enumerate(paths):
        Image.new("RGB", (8 + index, 6)).save(path)
    return paths


def facts(paths: list[Path], decode: bool = False, workers: int = 0) -> list[ImageFacts]:
    found = dict(image_facts(paths, "look", decode, workers))
    return [found[index] for index in range(len(paths))]


def test_a_file_is_opened_again_only_where_it_has_changed(tmp_path: Path, opened: list[str]) -> None:
    paths = pictures(tmp_path / "images")
    first = facts(paths)
    assert [fact[:2] for fact in first] == [(8, 6), (9, 6), (10, 6)]
    assert facts(paths) == first
    assert opened == ["0.png", "1.png", "2.png"]
    # Of another length, of another time, and new.
    opened.clear()
    Image.new("RGB", (80, 60)).save(paths[0])
    os.utime(paths[1], ns=(0, 12345))
    paths += pictures(tmp_path / "more", 1)
    assert [fact[:2] for fact in facts(paths)] == [(80, 60), (9, 6), (10, 6), (8, 6)]
    assert opened == ["0.png", "1.png", "0.png"]


def test_to_decode_is_more_than_to_look(tmp_path: Path, opened: list[str]) -> None:
    paths = pictures(tmp_path / "images", 2)
    Image.effect_noise((64, 64), 50).save(paths[1])
    data_sets.truncate(paths[1])  # the header is whole
    assert [fact.fault for fact in facts(paths)] == [None, None]
    decoded = facts(paths, decode=True)
    assert decoded[0] == ImageFacts(8, 6, decoded=True)
    assert decoded[1].fault is not None
    assert decoded[1].fault.startswith("not a readable image: ")
    assert len(opened) == 4
    assert facts(paths, decode=True) == facts(paths) == decoded
    assert len(opened) == 4


def test_what_is_no_image_and_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("text")
    (tmp_path / "b.jpg").mkdir()
    found = facts([tmp_path / "a.jpg", tmp_path / "b.jpg", tmp_path / "c.jpg", tmp_path / "d\0.jpg"])
    assert [fact.fault and fact.fault.split(":")[0] for fact in found] == [
        "not a readable image",
        "not a readable image",
        "no such image",
        "embedded null byte",
    ]


def test_exif_exchanges_the_sides(tmp_path: Path) -> None:
    exif = Image.Exif()
    for turn in (1, 3, 6, 9):
        exif[0x0112] = turn
        Image.new("RGB", (8, 6)).save(tmp_path / f"{turn}.jpg", exif=exif)
    found = facts([tmp_path / f"{turn}.jpg" for turn in (1, 3, 6, 9)])
    assert [fact.upright for fact in found] == [(8, 6), (8, 6), (6, 8), (8, 6)]
    assert [fact.turn for fact in found] == [1, 3, 6, 1]  # 9 is none of EXIF's


def test_processes_find_the_same(tmp_path: Path) -> None:
    paths = [*pictures(tmp_path / "images", FEW + 10), tmp_path / "images" / "gone.png"]
    data_sets.truncate(paths[3])
    by_two = facts(paths, decode=True, workers=2)
    for record in cache_folder().iterdir():
        record.unlink()
    assert facts(paths, decode=True, workers=0) == by_two
    assert sum(fact.fault is not None for fact in by_two) == 2


def test_a_damaged_record_is_made_anew(tmp_path: Path, opened: list[str]) -> None:
    paths = pictures(tmp_path / "images")
    first = facts(paths)
    record = record_of(tmp_path / "images")
    for text in ("", "{", "[1]", '{"0.png": 3}', '{"0.png": [1, 2, [3]]}', "[" * 100_000, "\xff"):
        record.write_text(text, encoding="latin-1")
        opened.clear()
        assert facts(paths) == first
        assert len(opened) == 3


def test_a_look_that_is_broken_off_is_remembered_as_far_as_it_went(tmp_path: Path, opened: list[str]) -> None:
    paths = pictures(tmp_path / "images", 5)
    looking = image_facts(paths, "look", workers=0)
    next(looking)
    next(looking)
    looking.close()  # as an exception in the loop over it does
    opened.clear()
    facts(paths)
    assert opened == ["2.png", "3.png", "4.png"]


def test_a_cache_folder_that_cannot_be_written_is_said_once(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.write_text("a file is in its place")
    paths = [*pictures(tmp_path / "images"), *pictures(tmp_path / "more")]
    assert len(facts(paths)) == 6
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1
    assert "cannot be written" in said[0]


def test_a_process_that_is_killed_is_told(tmp_path: Path) -> None:
    paths = pictures(tmp_path / "images", FEW)
    code = (
        "import os; from pathlib import Path\n"
        "from retinanet_fast.engine.data import image_facts as module\n"
        "def die(path, decode): os._exit(9)\n"
        "module.look_at = die\n"
        "from retinanet_fast.engine.errors import ProcessLost\n"
        f"paths = [Path({str(tmp_path)!r}) / 'images' / f'{{i}}.png' for i in range({len(paths)})]\n"
        "if __name__ == '__main__':\n"
        "    try: list(module.image_facts(paths, 'look', workers=2))\n"
        "    except ProcessLost as error: print(error)\n"
    )
    script = tmp_path / "killed.py"
    script.write_text(code)
    found = subprocess.run(
        [sys.executable, script],
        cwd=HERE,
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.stdout.startswith("a process that opens images ended"), found.stderr
