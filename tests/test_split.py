"""Packed splits: what goes in comes out, whatever is taken out of them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from retinanet_fast.engine.data.split import Box, Boxes, Category, Images, Split, Texts, index_of

NAMES = [
    "a.jpg",
    "",
    "ü/日本.png",
    "x" * 300,
    "a.jpg",
    "\udcff.png",
]  # the last as Linux gives bytes that are no UTF-8
BOXES = [Box(float(i), 0.5, 2.0, 3.0 + i, 5 + i % 2, 7.25, i == 2) for i in range(6)]
OWNERS = np.array([2, 0, 2, 3, 0, 2])


def split() -> Split:
    images = Images.of(
        [(70, "a", 8, 9), (-3, "b/c", 10, 11), (2**62, "d", 12, 13), (1, "e", 14, 15)], Path("f")
    )
    return Split.of(Path("x.json"), [Category(5, "cat"), Category(6, "dog")], images, Boxes.of(BOXES), OWNERS)


def test_texts_come_back() -> None:
    texts = Texts.of(NAMES)
    assert list(texts) == NAMES
    assert (texts[-1], texts[2:4]) == (NAMES[-1], NAMES[2:4])
    assert list(texts.rows(np.array([4, 2]))) == ["a.jpg", "ü/日本.png"]
    assert list(texts.rows(np.array([True, False, False, False, True, False]))) == ["a.jpg", "a.jpg"]
    assert list(Texts.of([])) == []
    with pytest.raises(IndexError):
        texts[6]


def test_an_image_s_boxes_are_side_by_side_in_their_order() -> None:
    made = split()
    assert [list(made.boxes_of(index)) for index in range(4)] == [
        [BOXES[1], BOXES[4]],
        [],
        [BOXES[0], BOXES[2], BOXES[5]],
        [BOXES[3]],
    ]
    assert made.owners.tolist() == [0, 0, 2, 2, 2, 3]
    assert made.count_boxes() == 6
    entry = made.images[2]
    assert (entry.id, entry.path, entry.width, entry.height) == (2**62, Path("f/d"), 12, 13)


@pytest.mark.parametrize("which", [[2, 0], [False, True, True, False], [], [3, 3]])
def test_a_split_of_some_images(which: list[int]) -> None:
    whole = split()
    index = np.array(which, dtype=bool if which[:1] == [False] else np.int64)
    part = whole.of_images(index)
    numbers = np.arange(4)[index].tolist()
    assert [image.id for image in part.images] == [whole.images[number].id for number in numbers]
    assert [list(part.boxes_of(i)) for i in range(len(numbers))] == [
        list(whole.boxes_of(number)) for number in numbers
    ]
    assert part.count_boxes() == sum(len(whole.boxes_of(number)) for number in numbers)


def test_the_digest_is_of_the_content() -> None:
    whole = split()
    assert split().digest() == whole.digest() == pickle.loads(pickle.dumps(whole)).digest()
    assert whole.first(4).digest() == whole.digest()
    moved = Split(whole.annotations, whole.categories, whole.images.at(Path("g")), whole.boxes, whole.starts)
    assert moved.digest() == whole.digest()
    others = [
        whole.first(3),
        Split(
            whole.annotations,
            [Category(5, "cat"), Category(6, "Dog")],
            whole.images,
            whole.boxes,
            whole.starts,
        ),
        Split.of(whole.annotations, whole.categories, whole.images, Boxes.of(BOXES), OWNERS[::-1].copy()),
    ]
    assert len({whole.digest(), *(other.digest() for other in others)}) == 4


def test_ids_are_found() -> None:
    assert index_of(np.array([5, -1, 9]), np.array([9, 9, 4, 5, 100, -1])).tolist() == [2, 2, -1, 0, -1, 1]
    assert index_of(np.array([], dtype=np.int64), np.array([1])).tolist() == [-1]
