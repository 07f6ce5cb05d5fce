"""A trained model in, a picture in, a typed result out.

    predictor = Predictor.from_pretrained("runs/demo")
    result = predictor("street.jpg")
    result.labels                      # (H, W) class of each pixel
    result.save("out", "street")       # label PNG and overlay

H W are the picture's own height and width; K classes; C channels.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from densevit.data.image_io import read_image
from densevit.errors import UserError
from densevit.inference.device import autocast, choose_device, choose_dtype
from densevit.inference.labels import labels_from_logits
from densevit.inference.segment import segment_labels, segment_probabilities
from densevit.inference.settings import InferenceConfig
from densevit.models.segmenter import Segmenter
from densevit.picture_input import PictureLike, display_picture, to_tensor
from densevit.visualize.overlay import overlay
from densevit.visualize.palette import write_label_png
from densevit.weights.default_model import default_model
from densevit.weights.pretrained import load_pretrained

if TYPE_CHECKING:
    from densevit.weights.pretrained import ModelInfo


@dataclass(frozen=True, kw_only=True)
class SegmentationResult:
    """The classes of one picture, at its own size."""

    labels: NDArray[np.int64]
    """(H, W) most probable class of each pixel, 0 .. K-1."""
    probabilities: NDArray[np.float32] | None = field(repr=False)
    """(K, H, W), summing to 1 over the classes; None if it was not asked for."""
    confidence: NDArray[np.float32] | None = field(repr=False)
    """(H, W) probability of the class in `labels`; None if it was not asked for."""
    classes: tuple[str, ...]
    """Class names, in index order."""
    palette: tuple[tuple[int, int, int], ...] = field(repr=False)
    """One RGB colour for each class."""
    image: NDArray[np.uint8] = field(repr=False)
    """(H, W, 3) the picture as shown below the overlay."""

    def overlay(self, *, alpha: float = 0.55, outline: bool = True) -> NDArray[np.uint8]:
        """The picture with its classes in colour: (H, W, 3) uint8. `alpha` is the colours' opacity, 0 .. 1."""
        return overlay(self.image, self.labels, palette=self.palette, alpha=alpha, outline=outline)

    def shares(self) -> dict[str, float]:
        """Share of the picture's pixels for each class that occurs, the largest first."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.classes)) / self.labels.size
        return {self.classes[k]: float(counts[k]) for k in np.argsort(-counts, kind="stable") if counts[k]}

    def save(self, folder: str | Path, stem: str, *, alpha: float = 0.55) -> list[Path]:
        """Write `<stem>_labels.png` (classes as pixel values, palette inside) and `<stem>_overlay.png` into `folder`.

        With probabilities also `<stem>_probabilities.npy`, (K, H, W) float16; with confidence also
        `<stem>_confidence.png`, grey, 255 being certain. Returns the files written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"{stem}_labels.png", folder / f"{stem}_overlay.png"]
        write_label_png(self.labels, files[0], palette=self.palette)
        Image.fromarray(self.overlay(alpha=alpha)).save(files[1])
        if self.probabilities is not None:
            files.append(folder / f"{stem}_probabilities.npy")
            np.save(files[-1], self.probabilities.astype(np.float16))
        if self.confidence is not None:
            files.append(folder / f"{stem}_confidence.png")
            Image.fromarray(np.rint(255 * self.confidence).astype(np.uint8)).save(files[-1])
        return files


class Predictor:
    """Segments pictures with one trained model, in the way it was evaluated (whole image or sliding window, scales).

    `device` is the best there is when None; `dtype` is that of matrix products ("float32", "bfloat16").
    `inference` replaces the evaluation setting stored with the model.
    """

    def __init__(
        self,
        model: Segmenter,
        info: "ModelInfo",
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = "float32",
        inference: InferenceConfig | None = None,
    ) -> None:
        self.device, self.dtype = choose_device(device), choose_dtype(dtype)
        self.model = model.to(self.device).eval()
        self.info = info
        self.inference = inference or InferenceConfig.from_dict(info.inference)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = "float32",
        inference: InferenceConfig | None = None,
    ) -> "Predictor":
        """Load a run folder, a model file or a Hugging Face name; None: the model that comes with the package.

        A classifier comes as a `densevit.Classifier`, a detector as a `densevit.ObjectDetector`. UserError if there is
        no model there.
        """
        model, info = load_pretrained(default_model() if source is None else source)
        if inference is not None and info.task != "segmentation":
            raise UserError(f"inference is for segmentation, but {source} is a model for {info.task}; leave it out")
        if info.task == "classification":
            from densevit.classifier import Classifier

            return Classifier(model, info, device=device, dtype=dtype)  # type: ignore[return-value]
        if info.task == "detection":
            from densevit.object_detector import ObjectDetector

            return ObjectDetector(model, info, device=device, dtype=dtype)  # type: ignore[return-value,arg-type]
        if not isinstance(model, Segmenter):
            raise UserError(f"{source} is a model for {info.task}; the predictor takes segmentation models")
        return cls(model, info, device=device, dtype=dtype, inference=inference)

    @torch.inference_mode()
    def __call__(
        self, picture: PictureLike, *, probabilities: bool = True, confidence: bool = True
    ) -> SegmentationResult:
        """Segment one picture: a path, a PIL image, an array (H, W, C) or (H, W), or a tensor (C, H, W).

        Numbers are 0 .. 255 for uint8, 0 .. 65535 for uint16 and 0 .. 1 for floats. Without `probabilities` and
        `confidence` it takes less time and much less memory. UserError if the picture cannot be read or does not fit
        the model's channels.
        """
        pixels = self._read(picture)
        images = self._normalized(pixels)
        probs = certain = None
        with autocast(self.device, self.dtype):
            if probabilities or confidence:
                scores = segment_probabilities(
                    self.model, images, num_classes=len(self.info.classes), config=self.inference
                )
                best = scores[0].max(dim=0)
                labels = best.indices
                probs = scores[0].cpu().numpy() if probabilities else None
                certain = best.values.cpu().numpy() if confidence else None
            else:
                labels = self._labels(images)
        return SegmentationResult(
            labels=labels.cpu().numpy(),
            probabilities=probs,
            confidence=certain,
            classes=self.info.classes,
            palette=self.info.palette,
            image=display_picture(pixels),
        )

    def _read(self, picture: PictureLike) -> Tensor:
        channels = self.model.in_channels
        if isinstance(picture, (str, Path)):
            return read_image(picture, channels=channels).as_subclass(Tensor)
        return to_tensor(picture, channels=channels)

    def _normalized(self, pixels: Tensor) -> Tensor:
        """(C, H, W) on the 0 .. 255 scale -> (1, C, H, W) as the model was trained."""
        mean, std = (
            torch.tensor(values, device=self.device)[:, None, None] for values in (self.info.mean, self.info.std)
        )
        return ((pixels.to(self.device).float() - mean) / std)[None]

    def _labels(self, images: Tensor) -> Tensor:
        """(1, C, H, W) -> (H, W). A whole image at its own size needs no full-size logits: labels come straight from
        the decoder's map, upsampled class by class; they are the same.
        """
        config = self.inference
        if config.mode == "whole" and not config.averages and config.resize is None:
            (H, W), padded = images.shape[-2:], self.model.padded_size(images)
            logits = self.model.decoder(self.model.features(images))
            return labels_from_logits(logits, size=padded)[0, :H, :W]
        return segment_labels(self.model, images, num_classes=len(self.info.classes), config=config)[0]
