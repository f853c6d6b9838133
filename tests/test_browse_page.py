"""The page of `browse`, opened in headless Chromium as a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browse_cases
import numpy as np
import pytest
from browse_cases import BIG, HEIGHT, HERE, IMAGES, WIDTH, WORST_FIRST
from PIL import Image

from benchmarks import browse_scale
from benchmarks.chromium import Chromium, chromium, executable
from retinanet_fast.engine.data.split import Boxes, Category, Images, Split
from retinanet_fast.engine.evaluation.results import from_list
from retinanet_fast.engine.reporting.browse import BrowsePage

READY = "document.body?.dataset.ready"
CARDS = "[...document.querySelectorAll('.card')].map((card) => card.dataset.id)"
LOADED = (
    "document.images.length && [...document.images].every((image) => image.complete && image.naturalWidth)"
)
PROGRAM = executable()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no chromium or google-chrome on PATH")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("browse")
    path = folder / "run" / "browse.html"
    BrowsePage("<i>run</i> & 1", browse_cases.split_of(folder / "some data"), browse_cases.results()).write(
        path
    )
    return path.as_uri()


@pytest.fixture(scope="module")
def started() -> Iterator[Chromium]:
    assert PROGRAM is not None
    with chromium(PROGRAM) as browser:
        yield browser


@pytest.fixture
def browser(started: Chromium) -> Iterator[Chromium]:
    """The browser; a page's exception, or something that its policy forbids, fails the test."""
    started.resize(1280, 900)
    started.faults.clear()
    yield started
    assert started.evaluate("window.hacked") is None
    assert started.faults == []


def cards(browser: Chromium) -> list[int]:
    return [int(image_id) for image_id in browser.evaluate(CARDS)]


def counts(browser: Chromium) -> dict[str, int]:
    pair = "(one) => [one.dataset.kind, Number(one.querySelector('b').textContent)]"
    return dict(browser.evaluate(f"[...document.querySelectorAll('.kind')].map({pair})"))


def wait_for_hash(browser: Chromium, expected: str) -> None:
    """The address follows what is looked at within a moment."""
    browser.wait(f"location.hash === {json.dumps(expected)}")


def test_worst_images_come_first_and_kinds_are_counted(browser: Chromium, page: str) -> None:
    browser.open(f"{page}#score=0.5", READY)
    assert cards(browser) == WORST_FIRST
    assert counts(browser) == {
        "correct": 2,
        "classification": 1,
        "localisation": 1,
        "both": 0,
        "duplicate": 1,
        "background": 1,
        "ignored": 1,
        "missed": 2,
    }
    assert browser.evaluate("document.querySelectorAll('.class').length") == len(browse_cases.CATEGORIES)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("kind=missed", [12]),
        ("kind=missed&score=0.75", [12, 14, BIG]),
        ("kind=background,duplicate", [13]),
        ("kind=correct", [11, 13]),
        ("class=2", [12, 13, 14, 11]),  # 14: a dog that is a cat, by its truth
        ("class=9", []),
        ("class=5&kind=missed", [12]),
        ("q=PNG&sort=order", [image_id for image_id, *_ in IMAGES]),
        ("q=plain", [11]),
        (f"q={BIG}", [BIG]),
        ("q=%3Cscript%3E", [12]),
        ("sort=best", [11, 16, 17, BIG, 14, 13, 12]),
        ("sort=name", [14, 12, 13, 17, 16, 11, BIG]),
        ("sort=errors", [12, 13, 14, BIG, 11, 16, 17]),
        ("sort=nonsense&kind=nonsense&class=77", WORST_FIRST),
        ("score=nonsense", [12, 14, BIG, 11, 13, 16, 17]),  # that at which the page opens, 0.81
    ],
)
def test_a_link_holds_the_filter(browser: Chromium, page: str, words: str, shown: list[int]) -> None:
    score = "" if "score" in words else "score=0.5&"
    browser.open(f"{page}#{score}{words}", READY)
    assert cards(browser) == shown
    assert browser.evaluate("document.getElementById('count').textContent").startswith(str(len(shown)))


def test_what_is_clicked_goes_into_the_address(browser: Chromium, page: str) -> None:
    browser.open(f"{page}#score=0.5", READY)
    browser.evaluate("document.querySelector('.kind.background').click()")
    browser.evaluate("document.querySelector('.kind.missed').click()")
    browser.evaluate(
        "document.querySelectorAll('.class')[0].click()"
    )  # the class of most such errors: one of each
    wait_for_hash(browser, "#score=0.5&kind=background,missed&class=2")
    assert cards(browser) == [12, 13]
    browser.open(browser.evaluate("location.href"), READY)
    assert cards(browser) == [12, 13]
    browser.evaluate("document.getElementById('reset').click()")
    assert cards(browser) == WORST_FIRST
    wait_for_hash(browser, "#score=0.5")


def test_the_back_button_closes_a_picture(browser: Chromium, page: str) -> None:
    browser.open(f"{page}#score=0.5", READY)
    browser.evaluate("document.querySelector('.kind.missed').click()")
    browser.evaluate("document.querySelector('.card').click()")
    wait_for_hash(browser, "#score=0.5&kind=missed&image=12")
    browser.evaluate("history.back()")
    wait_for_hash(browser, "#score=0.5&kind=missed")
    browser.wait("!document.getElementById('viewer').open")
    assert cards(browser) == [12]


def test_by_keys_alone(browser: Chromium, page: str) -> None:
    browser.open(f"{page}#score=0.5", READY)
    focused = "document.activeElement.dataset.id"
    for key, image_id in [("ArrowRight", 12), ("ArrowRight", 13), ("ArrowDown", BIG), ("ArrowUp", 13)]:
        browser.press(key)
        assert browser.evaluate(focused) == str(image_id)  # two columns at this width
    browser.press("Enter")
    assert browser.evaluate("document.getElementById('viewer').open")
    browser.press("ArrowRight")
    wait_for_hash(browser, "#score=0.5&image=14")
    browser.press("b")
    assert browser.evaluate("document.querySelectorAll('#stage .picture').length") == 1
    browser.press("]")
    browser.press("m")
    wait_for_hash(browser, "#score=0.55&view=overlay&theme=dark&image=14")
    assert browser.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"
    browser.press("t")
    assert not browser.evaluate("document.querySelector('#stage .box.known').checkVisibility()")
    assert browser.evaluate("document.querySelector('#stage .box.classification').checkVisibility()")
    browser.press("Escape")
    assert not browser.evaluate("document.getElementById('viewer').open")
    browser.wait(f"{focused} === '14'")
    browser.press("/")
    for letter in "b]":  # letters, not commands
        browser.press(letter)
    assert browser.evaluate("document.getElementById('search').value") == "b]"


def test_names_are_shown_as_they_are(browser: Chromium, page: str) -> None:
    browser.open(f"{page}#score=0.5&sort=order", READY)
    shown = browser.evaluate("[...document.querySelectorAll('.caption b')].map((name) => name.textContent)")
    assert shown == [name for _, name, *_ in IMAGES]
    classes = browser.evaluate(
        "[...document.querySelectorAll('.class span')].map((name) => name.textContent)"
    )
    assert set(classes) == {category.name for category in browse_cases.CATEGORIES}
    assert browser.evaluate("document.title") == "<i>run</i> & 1"
    assert browser.evaluate("document.querySelectorAll('main script, main .caption img, h1 i').length") == 0
    browser.wait(LOADED)  # whatever is in a file's name


def test_boxes_lie_on_their_objects(browser: Chromium, page: str) -> None:
    browser.open(f"{page}#score=0.5&image=11", READY)
    place = """(() => {
      const picture = document.querySelector("#stage .picture.found"), whole = picture.getBoundingClientRect();
      const box = picture.querySelector(".box.correct").getBoundingClientRect();
      return [box.x - whole.x, box.y - whole.y, box.width, box.height, whole.width, whole.height];
    })()"""
    *box, width, height = browser.evaluate(place)
    assert width / height == pytest.approx(WIDTH / HEIGHT, rel=1e-2)  # a pixel of the window
    # Half a pixel of the window.
    assert box == pytest.approx([value * width / WIDTH for value in HERE], abs=0.5)
    row = browser.evaluate("document.querySelector('#objects tr.correct').innerText").split("\t")
    assert row == ["correct", "<b>cat</b>", "0.90", "1.00"]


def test_a_turned_photo_is_shown_as_its_boxes_are(browser: Chromium, tmp_path: Path) -> None:
    """Stored 60x40 with a red upper left quarter; the browser turns it by its EXIF, the page turns it back."""
    browser.resize(1280, 1600)
    photo = Image.new("RGB", (60, 40), "blue")
    photo.paste("red", (0, 0, 30, 20))
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        photo.save(tmp_path / f"{orientation}.jpg", exif=exif, quality=95)
    entries = Images.of(((number, f"{number}.jpg", 60, 40) for number in range(1, 9)), tmp_path)
    split = Split.of(
        tmp_path / "a.json", [Category(1, "a")], entries, Boxes.of([]), np.zeros(0, dtype=np.int64)
    )
    BrowsePage("photos", split, from_list([])).write(tmp_path / "browse.html")
    browser.open((tmp_path / "browse.html").as_uri() + "#view=overlay&sort=order", READY)
    browser.wait(LOADED)
    browser.screenshot(tmp_path / "shown.png")
    rectangles: list[Any] = browser.evaluate(
        "[...document.querySelectorAll('.picture')].map((one) => one.getBoundingClientRect().toJSON())"
    )
    assert len(rectangles) == 8
    with Image.open(tmp_path / "shown.png") as shown:
        for rectangle in rectangles:
            quarters = []
            for across, down in ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)):
                x = rectangle["x"] + across * rectangle["width"]
                y = rectangle["y"] + down * rectangle["height"]
                red, _, blue = shown.convert("RGB").getpixel((round(x), round(y)))  # type: ignore[misc]
                quarters.append("red" if red > blue else "blue")
            assert quarters == ["red", "blue", "blue", "blue"]


def test_a_picture_that_is_gone_is_told(browser: Chromium, tmp_path: Path) -> None:
    split = browse_cases.split_of(tmp_path / "data")
    (tmp_path / "data" / "plain.png").unlink()
    BrowsePage("run", split, browse_cases.results()).write(tmp_path / "browse.html")
    browser.open((tmp_path / "browse.html").as_uri() + "#q=plain", READY)
    browser.wait("document.querySelector('.lost')")
    assert (
        browser.evaluate("document.querySelector('.lost').textContent") == "the browser cannot show plain.png"
    )
    faults = [fault for fault in browser.faults if "ERR_FILE_NOT_FOUND" not in fault]
    browser.faults[:] = faults


def test_a_page_to_send_needs_no_other_file(browser: Chromium, tmp_path: Path) -> None:
    BrowsePage("run", browse_cases.split_of(tmp_path / "data"), browse_cases.results(), 3).write(
        tmp_path / "browse.html"
    )
    (tmp_path / "data").rename(tmp_path / "gone")
    browser.open((tmp_path / "browse.html").as_uri(), READY)
    browser.wait(LOADED)
    assert sorted(cards(browser)) == [12, 14, BIG]


def test_on_a_narrow_window_nothing_sticks_out(browser: Chromium, page: str) -> None:
    browser.resize(420, 900)
    for words in ("", "#view=overlay", "#image=13"):
        browser.open(page + words, READY)
        assert browser.evaluate("document.documentElement.scrollWidth") <= 420


def test_many_images_come_as_one_scrolls_and_an_open_one_keeps_its_place(
    browser: Chromium, tmp_path: Path
) -> None:
    """90 links to one picture: 24 cards at a time."""
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    for number in range(90):
        (tmp_path / f"{number}.png").symlink_to("a.png")
    entries = Images.of(((number, f"{number}.png", 60, 40) for number in range(90)), tmp_path)
    none = np.zeros(0, dtype=np.int64)
    split = Split.of(tmp_path / "a.json", [Category(1, "a")], entries, Boxes.of([]), none)
    BrowsePage("many", split, from_list([])).write(tmp_path / "browse.html")
    browser.open((tmp_path / "browse.html").as_uri() + "#image=70", READY)
    first = len(cards(browser))
    assert first % 24 == 0
    assert first < 70
    browser.press("b")
    wait_for_hash(browser, "#view=overlay&image=70")
    browser.press("ArrowLeft")
    browser.press("Escape")
    browser.wait("document.activeElement.dataset.id === '69'")
    browser.evaluate("scrollTo(0, document.body.scrollHeight)")
    browser.wait(f"{CARDS}.length === 90")
    assert cards(browser) == list(range(90))


def test_the_benchmark_opens_what_it_generates(tmp_path: Path) -> None:
    assert PROGRAM is not None
    measured = browse_scale.measure(tmp_path, images=30, rounds=1, program=PROGRAM)
    numbers = {number.name: number for number in measured}
    assert numbers["written"].about == "219 boxes, 2,640 detections"
    assert 0 < numbers["opened, drawn"].value <= numbers["opened, pictures shown"].value
