"""Video files as streams of frames, and back; one frame in memory at a time. H W are upright, in pixels.

PyAV (extra `video`) is imported where it is used. Sound is not carried over.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densevit.errors import UserError

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mts", ".wmv", ".flv", ".3gp")
FALLBACK_RATE = Fraction(25)
BT709 = 1
"""FFmpeg's number of the colour space that players assume for H.264."""

Frame = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class TimedFrame:
    """One frame and when it is shown."""

    pixels: Frame
    """(H, W, 3) RGB or, for one channel, (H, W)."""
    time: Fraction
    """Seconds after the first frame."""


class VideoReader:
    """`with VideoReader(path) as frames: for frame in frames: ...`; UserError if it is no video that can be decoded.

    Turned as the camera says (phones). Damaged stretches are left out and told by `problem()` afterwards.
    """

    def __init__(self, path: str | Path, *, channels: int = 3) -> None:
        if channels not in (1, 3):
            raise UserError(f"{path} is a video of 3 channels, but the model takes {channels}")
        self.path, self.layout = Path(path), {1: "gray", 3: "rgb24"}[channels]
        self.num_read = self.num_damaged = 0

    def __enter__(self) -> "VideoReader":
        av = import_av(self.path)
        if not self.path.is_file():
            raise UserError(f"video {self.path} does not exist; check the path")
        try:
            self._container = av.open(str(self.path))
        except (av.FFmpegError, OSError) as error:
            raise UserError(f"cannot read video {self.path}: {reason(error)}; it is damaged or no video") from error
        if not self._container.streams.video:
            self._container.close()
            raise UserError(f"{self.path} holds no video stream; give a video file")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self._expected = int(self._stream.frames)
        self.rate = Fraction(self._stream.average_rate or self._stream.guessed_rate or FALLBACK_RATE)
        """Frames in a second."""
        return self

    def __exit__(self, *exc: object) -> None:
        self._container.close()

    @property
    def num_frames(self) -> int | None:
        """How many frames there will be, as far as the file tells."""
        if self._expected:
            return self._expected
        duration = self._container.duration  # in microseconds
        return round(duration * self.rate / 1_000_000) if duration else None

    def __iter__(self) -> Iterator[TimedFrame]:
        start = last = None
        size: dict[str, int] = {}
        for frame in self._decoded():
            if frame.pts is None or frame.time_base is None:
                time = last + 1 / self.rate if last is not None else Fraction(0)
            else:
                time = frame.pts * Fraction(frame.time_base)
            start = time if start is None else start
            if last is not None and time <= last:  # repeated or reversed time stamps, as some cameras write them
                time = last + 1 / self.rate
            last = time
            size = size or {"width": frame.width, "height": frame.height}  # a change in the middle is scaled away
            pixels = np.rot90(frame.to_ndarray(format=self.layout, **size), k=round(frame.rotation / 90))
            self.num_read += 1
            yield TimedFrame(pixels=np.ascontiguousarray(pixels), time=time - start)
        if not self.num_read:
            raise UserError(f"cannot read video {self.path}: no frame can be decoded; it is damaged")

    def problem(self) -> str | None:
        """After the last frame: what of the file could not be used, in one sentence."""
        if self.num_damaged:
            return f"{self.path} is damaged: {self.num_damaged} of its packets could not be decoded and were left out"
        if self.num_read < 0.95 * self._expected:  # a little less is usual: some frames are there to be skipped
            return f"{self.path} is cut short: it has {self.num_read} of the {self._expected} frames it announces"
        return None

    def _decoded(self) -> Iterator[Any]:
        from av import FFmpegError

        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except FFmpegError:  # the container itself breaks off
                self.num_damaged += 1
                return
            try:
                frames = packet.decode()
            except FFmpegError:
                self.num_damaged += 1
                continue
            yield from frames


class VideoWriter:
    """`with VideoWriter(path, rate=...) as video: video.write(pixels, time=...)`: an MP4 that any player shows.

    H.264 where FFmpeg has it, else MPEG-4. The file appears under its name when it is complete. Odd sides get one more
    row or column, a copy of the last, since these formats store colours for pairs of pixels.
    """

    TICKS = 90_000
    """Parts of a second in which times are stored; frame rates in use divide it or come within a millisecond."""

    def __init__(self, path: str | Path, *, rate: Fraction) -> None:
        self.path, self.rate = Path(path), rate
        self._partial = self.path.with_name(self.path.name + ".part")
        self._stream: Any = None

    def __enter__(self) -> "VideoWriter":
        av = import_av(self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(self._partial), "w", format="mp4", options={"movflags": "+faststart"})
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        try:
            if kind is None and self._stream is not None:
                self._container.mux(self._stream.encode())
            self._container.close()
        finally:
            if kind is None and self._stream is not None:
                self._partial.replace(self.path)
            else:
                self._partial.unlink(missing_ok=True)

    def write(self, pixels: Frame, *, time: Fraction) -> None:
        """Append (H, W, 3) uint8 RGB, shown `time` seconds after the start; times must increase."""
        from av import VideoFrame

        pixels = np.pad(pixels, ((0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)), mode="edge")
        if self._stream is None:
            self._stream = self._new_stream(height=pixels.shape[0], width=pixels.shape[1])
        frame = VideoFrame.from_ndarray(pixels, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
        frame.time_base = Fraction(1, self.TICKS)
        frame.pts = round(time * self.TICKS)
        self._container.mux(self._stream.encode(frame))

    def _new_stream(self, *, height: int, width: int) -> Any:
        from av import codecs_available

        codec = "libx264" if "libx264" in codecs_available else "mpeg4"
        options = {"crf": "18", "preset": "veryfast"} if codec == "libx264" else {"qscale": "3"}
        stream = self._container.add_stream(codec, rate=self.rate, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        context = stream.codec_context
        context.time_base = Fraction(1, self.TICKS)
        context.colorspace = context.color_primaries = context.color_trc = BT709
        return stream


def is_video(path: Path) -> bool:
    """Whether the name is that of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def import_av(path: object) -> Any:
    """PyAV, or a UserError with the command that installs it."""
    try:
        import av
    except ImportError:
        raise UserError(f"{path} is a video, which needs the package av: pip install 'densevit[video]'") from None
    return av


def reason(error: Exception) -> str:
    """FFmpeg's own words, without error number and file name."""
    return str(getattr(error, "strerror", None) or error)
