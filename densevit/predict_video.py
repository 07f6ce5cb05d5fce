"""A video in, the same video with its classes in colour out, frame by frame: memory does not grow with its length."""

from collections.abc import Callable
from pathlib import Path

from densevit.errors import UserError
from densevit.predictor import Predictor
from densevit.video_io import VideoReader, VideoWriter
from densevit.visualize.overlay import overlay

OnFrame = Callable[[Path, int, int | None], None]
"""Called after each frame with the video, the number of frames done, and how many there are (None: not known)."""


def predict_video(
    predictor: Predictor,
    source: str | Path,
    target: str | Path,
    *,
    every: int = 1,
    alpha: float = 0.55,
    on_frame: OnFrame | None = None,
) -> str | None:
    """Write `source` with its classes in colour to `target` (.mp4): same size, frames and times, without sound.

    `every` 3 segments each third frame and keeps its labels for the two after it. Returns None, or one sentence on
    what of the video was damaged and left out. UserError if it cannot be read at all, PyAV is missing (extra `video`),
    or the model takes other than 1 or 3 channels.
    """
    source = Path(source)
    if every < 1:
        raise UserError(f"every is {every}; give 1 for each frame, 2 for each second one ...")
    with VideoReader(source, channels=predictor.model.in_channels) as video:
        with VideoWriter(target, rate=video.rate) as out:
            for number, frame in enumerate(video):
                if number % every == 0:
                    result = predictor(frame.pixels, probabilities=False, confidence=False)
                    picture = result.overlay(alpha=alpha)
                else:
                    shown = frame.pixels if frame.pixels.ndim == 3 else frame.pixels[..., None].repeat(3, axis=2)
                    picture = overlay(shown, result.labels, palette=result.palette, alpha=alpha)
                out.write(picture, time=frame.time)
                if on_frame:
                    on_frame(source, number + 1, video.num_frames)
        return video.problem()
