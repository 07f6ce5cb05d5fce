"""A trained classifier in, a picture in, its most probable classes out.

    classifier = Classifier.from_pretrained("runs/hlg_tiny_imagenet")
    result = classifier("cat.jpg")
    result.label, result.top(5)              # "tabby (n02123045)", [("tabby (n02123045)", 0.91), ...]

K classes; C channels, H W the picture's height and width.
"""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from densevit.data.classification_transforms import classification_eval_transform
from densevit.data.image_io import read_image
from densevit.data.imagenet import readable_class
from densevit.errors import UserError
from densevit.inference.device import autocast, choose_device, choose_dtype
from densevit.picture_input import PictureLike, to_tensor
from densevit.weights.pretrained import ModelInfo, load_pretrained

CHANNELS = 3


@dataclass(frozen=True, kw_only=True)
class ClassificationResult:
    """The classes of one picture."""

    probabilities: NDArray[np.float32] = field(repr=False)
    """(K,), summing to 1."""
    classes: tuple[str, ...] = field(repr=False)
    """Class names, in index order; WordNet ids with the name people use."""

    @property
    def index(self) -> int:
        """The most probable class, 0 .. K-1."""
        return int(self.probabilities.argmax())

    @property
    def label(self) -> str:
        """Its name."""
        return self.classes[self.index]

    @property
    def confidence(self) -> float:
        """Its probability."""
        return float(self.probabilities[self.index])

    def top(self, num_classes: int = 5) -> list[tuple[str, float]]:
        """The most probable classes and their probabilities, the highest first; all where there are fewer."""
        order = np.argsort(-self.probabilities, kind="stable")[:num_classes]
        return [(self.classes[index], float(self.probabilities[index])) for index in order]


class Classifier:
    """Classifies pictures with one trained model, resized and cropped as it was evaluated.

    `device` is the best there is when None; `dtype` is that of matrix products ("float32", "bfloat16").
    """

    def __init__(
        self,
        model: nn.Module,
        info: ModelInfo,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = "float32",
    ) -> None:
        if info.task != "classification":
            raise UserError(f"this is a model for {info.task}; use densevit.Predictor")
        self.device, self.dtype = choose_device(device), choose_dtype(dtype)
        self.model = model.to(self.device).eval()
        self.info = info
        self.classes = tuple(readable_class(name) for name in info.classes)
        height, width = info.inference["image_size"]
        self.prepare = classification_eval_transform(
            image_size=(height, width),
            crop_pct=info.inference["crop_pct"],
            interpolation=info.inference["interpolation"],
            mean=info.mean,
            std=info.std,
        )

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, device: str | torch.device | None = None, dtype: str | torch.dtype = "float32"
    ) -> "Classifier":
        """Load a run folder, a model file or a Hugging Face name. UserError if there is no classifier there."""
        return cls(*load_pretrained(source), device=device, dtype=dtype)

    @torch.inference_mode()
    def __call__(self, picture: PictureLike) -> ClassificationResult:
        """Classify one picture: a path, a PIL image, an array (H, W, C) or (H, W), or a tensor (C, H, W).

        Numbers are 0 .. 255 for uint8, 0 .. 65535 for uint16 and 0 .. 1 for floats. UserError if it cannot be read.
        """
        images = self.prepare.apply(self._read(picture))[None].to(self.device)
        with autocast(self.device, self.dtype):
            logits = self.model(images)
        return ClassificationResult(probabilities=logits[0].float().softmax(dim=0).cpu().numpy(), classes=self.classes)

    def _read(self, picture: PictureLike) -> Tensor:
        """uint8 (3, H, W)."""
        if isinstance(picture, (str, Path)):
            return read_image(picture, channels=CHANNELS).as_subclass(Tensor)
        return to_tensor(picture, channels=CHANNELS).round().to(torch.uint8)


class Classified(NamedTuple):
    """What became of one picture file."""

    path: Path
    result: ClassificationResult | None
    error: str | None
    """Why there is no result, in one sentence."""


def classify_files(classifier: Classifier, pictures: Iterable[Path]) -> Iterator[Classified]:
    """Classify picture files one by one; one that cannot be read is reported and skipped."""
    for path in pictures:
        try:
            yield Classified(path, classifier(path), None)
        except UserError as error:
            told = str(error)
            yield Classified(path, None, told if str(path) in told else f"{path}: {told}")


def write_predictions(classified: Iterable[Classified], path: Path, *, num_top: int) -> None:
    """A CSV of the `num_top` most probable classes: file, rank (from 1), class, probability."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "rank", "class", "probability"])
        for item in classified:
            if item.result is not None:
                for rank, (name, probability) in enumerate(item.result.top(num_top), start=1):
                    writer.writerow([item.path, rank, name, f"{probability:.6f}"])
