"""Frames of videos, by PyAV where it is installed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from retinanet_fast.engine.errors import InputError, one_line

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg")
# Seconds that are decoded to go forward; for more, a key frame is looked for.
FORWARD = 4


def frame_times(path: Path) -> np.ndarray:
    """When each frame is shown, in the stream's own units, ascending: ``[N]`` int64. Nothing is decoded.

    Raises:
        InputError: PyAV is not installed, or the file has no frames whose times are known.
    """
    av = _library(path)
    try:
        with _opened(av, path) as container:
            if not container.streams.video:
                raise InputError(f"{path}: no video in this file")
            packets = container.demux(container.streams.video[0])
            times = [packet.pts for packet in packets if packet.size and not packet.is_discard]
    except (OSError, ValueError, av.FFmpegError) as error:
        raise InputError(f"{path}: not a readable video: {one_line(error)}") from None
    if not times or None in times:
        what = (
            "no frames"
            if not times
            else "frames without times (ffmpeg -i FILE -c copy NEW.mp4 gives them some)"
        )
        raise InputError(f"{path}: a video with {what}")
    return np.unique(np.array(times, dtype=np.int64))


class VideoReader:
    """Reads frames of a video; quickest in their order, since all from a key frame on have to be decoded."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._container = _opened(_library(path), path)
        self._stream = self._container.streams.video[0]
        self._frames: Iterator[Any] = iter(())
        self._last: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a frame, as it is stored."""
        return self._stream.width, self._stream.height

    def frame(self, time: int) -> np.ndarray:
        """The frame that is shown at ``time``, turned as the file says: ``[H, W, 3]`` uint8, RGB.

        Raises:
            ValueError: it cannot be decoded.
        """
        if self._last is None or not self._last < time <= self._last + FORWARD / self._stream.time_base:
            self._seek(time)
        frame = next((frame for frame in self._frames if frame.pts is not None and frame.pts >= time), None)
        self._last = frame.pts if frame is not None else None
        if frame is None or frame.pts != time:
            self._last = None  # the next is looked for anew
            raise ValueError("the video has no such frame")
        pixels: np.ndarray = frame.to_ndarray(format="rgb24")
        return np.rot90(pixels, round(frame.rotation / 90))  # counter-clockwise, both

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _seek(self, time: int) -> None:
        """Go to a key frame that is not shown after ``time``. A file is sought by the times of decoding, and what is
        decoded before ``time`` may be shown after it: then the search begins earlier."""
        start, second = self._stream.start_time or 0, int(1 / self._stream.time_base)
        for back in (0, second, 8 * second, time - start):
            self._container.seek(max(start, time - back), stream=self._stream)
            frames = self._container.decode(self._stream)
            first = next(frames, None)
            if first is not None and first.pts is not None and first.pts <= time:
                break
        self._frames = itertools.chain([first] * (first is not None), frames)


def _opened(av: Any, path: Path) -> Any:
    return av.open(str(path), metadata_errors="replace")  # titles, which are not read, may be in any encoding


def _library(path: Path) -> Any:
    try:
        import av
    except ImportError:
        raise InputError(
            f'{path}: a video needs PyAV, which is not installed here: pip install "retinanet_fast[video]"'
        ) from None
    return av
