"""Opens pictures, wherever they lie."""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image

from retinanet_fast.engine.data.decode import ORIENTATION, QUARTER_TURNS, Decoded, Decoding, Size
from retinanet_fast.engine.errors import InputError, one_line
from retinanet_fast.engine.prediction.pictures import FILE, VIDEO, Picture
from retinanet_fast.engine.prediction.video import VideoReader


class Unreadable(InputError):
    """A picture that cannot be read; its one line names it."""


class Reader:
    """Reads pictures for one process. The tar, or the video, that the last one was in stays open."""

    def __init__(self, decoding: Decoding) -> None:
        self.decoding = decoding
        self._tar: IO[bytes] | None = None
        self._video: VideoReader | None = None

    def size(self, picture: Picture) -> Size:
        """Width and height, as it is read; only a file's header is.

        Raises:
            Unreadable: missing or not an image.
        """
        try:
            if picture.kind == VIDEO:
                return self._open_video(picture.path).size
            with Image.open(self._file(picture)) as opened:
                width, height = opened.size
                if (
                    self.decoding.orientation != "stored"
                    and opened.getexif().get(ORIENTATION, 1) in QUARTER_TURNS
                ):
                    return height, width
                return width, height
        except Exception as error:  # PIL raises many kinds on a file that is not an image
            raise self._unreadable(picture, error) from None

    def decode(self, picture: Picture) -> Decoded:
        """Its pixels, as ``decoding`` asks for them.

        Raises:
            Unreadable: missing, truncated or not an image.
        """
        try:
            if picture.kind == VIDEO:
                pixels = np.ascontiguousarray(self._open_video(picture.path).frame(picture.place))
                height, width = pixels.shape[:2]
                return Decoded(torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), (width, height))
            return self.decoding(self._file(picture))
        except Exception as error:  # PIL and PyAV raise many kinds
            raise self._unreadable(picture, error) from None

    def close(self) -> None:
        """Close what is open."""
        for opened in (self._tar, self._video):
            if opened is not None:
                opened.close()
        self._tar = self._video = None

    def _file(self, picture: Picture) -> Path | IO[bytes]:
        if picture.kind == FILE:
            return picture.path
        if self._tar is None or self._tar.name != str(picture.path):
            self.close()
            self._tar = open(picture.path, "rb")  # noqa: SIM115  # closed by `close`
        self._tar.seek(picture.place)
        return io.BytesIO(self._tar.read(picture.size))

    def _open_video(self, path: Path) -> VideoReader:
        if self._video is None or self._video.path != path:
            self.close()
            self._video = VideoReader(path)
        return self._video

    @staticmethod
    def _unreadable(picture: Picture, error: Exception) -> Unreadable:
        if isinstance(error, FileNotFoundError):
            return Unreadable(f"{picture}: no such picture")
        return Unreadable(f"{picture}: not a readable image: {one_line(error)}")
