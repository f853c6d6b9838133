"""The flags that say where a data set is, and those of the commands that need nothing else."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

DATA_HELP = """\
data set, by what --data DIR holds:
  coco         annotations/instances_{train,val,test}.json with images/ (or images/{train,val,test}/),
               or COCO's own annotations/instances_{train,val}2017.json with {train,val}2017/
  lvis         lvis_v1_{train,val}.json with COCO's {train,val}2017/
  objects365   annotations/zhiyuan_objv2_{train,val}.json with {train,val}/patch*/
  voc          ImageSets/Main/{train,val,test}.txt with Annotations/ and JPEGImages/
  yolo         data.yaml that names the classes and the folders images/..., with labels/... beside
"""
FORMATS = ("auto", "coco", "lvis", "objects365", "voc", "yolo")
SPLITS = ("train", "val", "test")


def add_data(parser: argparse.ArgumentParser, splits: Sequence[str]) -> None:
    parser.add_argument("--data", type=Path, metavar="DIR", help="a data set, see below")
    _add_format(parser)
    for split in splits:
        parser.add_argument(f"--{split}-json", type=Path, metavar="FILE", help=f"{split} annotations")
        parser.add_argument(
            f"--{split}-images", type=Path, metavar="DIR", help=f"folder of the {split} images"
        )


def _add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="auto",
        help="of the data set; auto (default): told from what its folder holds",
    )


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, metavar="DIR", required=True, help="a data set, see below")
    _add_format(parser)
    parser.add_argument(
        "--split",
        nargs="+",
        choices=SPLITS,
        metavar="SPLIT",
        help="train, val, test (default: all there are)",
    )


def add_check_data(parser: argparse.ArgumentParser) -> None:
    _add_source(parser)
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes that decode images (default: one for each core)"
    )


def add_convert(parser: argparse.ArgumentParser) -> None:
    _add_source(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--copy-images",
        action="store_true",
        help="copy the images to DIR/images/ (default: the json refers to them where they lie)",
    )
    parser.add_argument("--skip-bad", action="store_true", help="leave bad entries out and count them")
