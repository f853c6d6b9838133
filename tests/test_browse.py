"""The page of `browse`, read as a file; test_browse_page.py opens it in a browser."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from pathlib import Path

import browse_cases
import numpy as np
import pytest
from browse_cases import BIG, HEIGHT, IMAGES, WIDTH, WORST_FIRST, Parsed
from PIL import Image

from retinanet_fast.engine.data.split import Images
from retinanet_fast.engine.evaluation.error_kinds import KINDS, error_kinds
from retinanet_fast.engine.reporting.browse import BrowsePage
from retinanet_fast.engine.reporting.browse.arrays import UNIT, best_score, pack, worst_first
from retinanet_fast.engine.reporting.browse.photos import folder_address, thumbnails, turns_of

NAMES = [name for _, name, _, _ in IMAGES]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browse")
    path = folder / "run" / "browse.html"
    split = browse_cases.split_of(folder / "some data")
    BrowsePage("<i>run</i> & 1", split, browse_cases.results()).write(path)
    return path


def test_arrays_come_back(page: Path) -> None:
    split, results = browse_cases.split_of(page.parents[1] / "some data"), browse_cases.results()
    arrays = Parsed(page).arrays()
    assert arrays["image-ids"].tolist() == [image_id for image_id, *_ in IMAGES]
    assert arrays["truth-starts"].tolist() == split.starts.tolist()
    assert arrays["truth-crowd"].tolist() == split.boxes.crowd.tolist()
    # Half a step of 1/65535 of the image's larger side; and each of a box's corners is rounded.
    close = WIDTH / UNIT / 2 + 1e-9
    corners = arrays["truth-boxes"].reshape(-1, 4) / UNIT * [WIDTH, HEIGHT, WIDTH, HEIGHT]
    expected = split.boxes.xywh.copy()
    expected[:, 2:] += expected[:, :2]
    np.testing.assert_allclose(corners, expected, rtol=0, atol=close)
    # Image 13's, by falling score; the results have them in another order.
    own = slice(*arrays["found-starts"][2:4].tolist())
    assert [KINDS[kind] for kind in arrays["found-kinds"][own]] == ["correct", "background", "duplicate"]
    np.testing.assert_allclose(arrays["found-scores"][own] / UNIT, [0.95, 0.8, 0.7], rtol=0, atol=0.5 / UNIT)
    assert arrays["found-classes"][own].tolist() == [1, 0, 1]
    assert arrays["found-truths"][own].tolist() == [3, -1, 3]
    assert len(arrays["found-scores"]) == len(results)


def test_what_is_missed_follows_from_the_arrays(page: Path) -> None:
    """As count.js counts it, at a score of 0."""
    arrays = Parsed(page).arrays()
    kinds, truths = arrays["found-kinds"], arrays["found-truths"]
    explaining = np.isin(kinds, [KINDS.index(name) for name in ("correct", "classification", "localisation")])
    missed = arrays["truth-crowd"] == 0
    missed[truths[explaining & (truths >= 0)]] = False
    split = browse_cases.split_of(page.parents[1] / "some data")
    assert missed.tolist() == error_kinds(split, browse_cases.results()).missed.tolist()
    assert missed.sum() == 2


def test_names_are_text_wherever_they_come_from(page: Path) -> None:
    parsed = Parsed(page)
    assert parsed.content()["names"] == NAMES
    assert parsed.content()["categories"] == [[c.id, c.name] for c in browse_cases.CATEGORIES]
    assert parsed.title == "<i>run</i> & 1"
    tags = [tag for tag, _ in parsed.tags]
    assert tags.count("script") == 2 + len(parsed.arrays())  # no other than json, arrays and the page's own
    assert not {"img", "b"} & set(tags)


def test_only_the_pages_own_script_may_run_and_nothing_is_loaded(page: Path) -> None:
    parsed = Parsed(page)
    policy = next(attrs["content"] for tag, attrs in parsed.tags if tag == "meta" and "http-equiv" in attrs)
    digest = base64.b64encode(hashlib.sha256(parsed.scripts[""].encode()).digest()).decode()
    assert (
        f"default-src 'none'; img-src 'self' file: data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
        == policy
    )
    assert not [attrs for _, attrs in parsed.tags if {"src", "href", "action"} & attrs.keys()]
    assert not re.search(r"https?://|url\(|@import|\bfetch\(|innerHTML", page.read_text(encoding="utf-8"))


def test_worst_images_come_first(tmp_path: Path) -> None:
    split, results = browse_cases.split_of(tmp_path), browse_cases.results()
    found = error_kinds(split, results)
    assert split.images.ids[worst_first(split, results, found, 0.5)].tolist() == WORST_FIRST
    # From 0.75 on the duplicate, the classification and the localisation are gone, and two more objects are missed.
    assert split.images.ids[worst_first(split, results, found, 0.75)].tolist()[:4] == [12, 14, BIG, 13]
    assert split.images.ids[worst_first(split, results, found, 0.0)].tolist()[-3:] == [17, 11, 16]


def test_the_page_opens_at_the_best_f1(tmp_path: Path) -> None:
    split, results = browse_cases.split_of(tmp_path), browse_cases.results()
    found = error_kinds(split, results)
    # Two right, of six objects: from 0.81 on there is nothing else, F1 = 2 * 2 / (2 + 6).
    assert best_score(split, results, found) == 0.81
    assert (
        best_score(
            split, results.rows(results.score < 0), error_kinds(split, results.rows(results.score < 0))
        )
        == 0.5
    )


def test_a_page_to_send_holds_the_worst_images_alone(tmp_path: Path) -> None:
    split = browse_cases.split_of(tmp_path / "data")
    (tmp_path / "data" / NAMES[1]).unlink()
    BrowsePage("run", split, browse_cases.results(), embed=3).write(tmp_path / "browse.html")
    parsed = Parsed(tmp_path / "browse.html")
    # At the best F1's score 14 and 2**53 + 1 each miss one; in the data set's order.
    assert sorted(parsed.arrays()["image-ids"].tolist()) == [12, 14, BIG]
    lost, *small = parsed.content()["thumbnails"]
    assert lost == ""  # its file is gone
    for text in small:
        assert Image.open(io.BytesIO(base64.b64decode(text))).size == (WIDTH, HEIGHT)


def test_pictures_are_found_from_the_page(tmp_path: Path) -> None:
    assert folder_address(tmp_path / "a b" / "c#", tmp_path / "run" / "browse.html") == "../a%20b/c%23/"
    assert folder_address(tmp_path, tmp_path / "browse.html") == "./"


def test_photos_that_browsers_turn_although_their_boxes_are_not_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    for orientation in (1, 3, 6):
        exif[0x0112] = orientation
        Image.new("RGB", (20, 10)).save(tmp_path / f"{orientation}.jpg", exif=exif)
    entries = [
        (1, "1.jpg", 20, 10),
        (2, "3.jpg", 20, 10),
        (3, "6.jpg", 20, 10),
        (4, "6.jpg", 10, 20),
        (5, "no.jpg", 9, 9),
    ]
    images = Images.of(entries, tmp_path)
    for orientation in ("auto", "stored"):
        assert turns_of(images, orientation).tolist() == [0, 3, 6, 0, 0]
    assert turns_of(images, "upright").tolist() == [0] * 5
    small = [Image.open(io.BytesIO(base64.b64decode(text))).size for text in thumbnails(images, "auto")[:4]]
    assert small == [(20, 10), (20, 10), (20, 10), (10, 20)]


def test_a_detection_that_is_not_on_the_split_is_refused(tmp_path: Path) -> None:
    split, results = browse_cases.split_of(tmp_path), browse_cases.results()
    found = error_kinds(split, results)
    results.category_id[0] = 3
    with pytest.raises(ValueError, match=r"browse: category 3 is not one of the split's"):
        pack(split, results, found, np.zeros(len(split.images)))
