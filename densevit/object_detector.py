"""A trained detector in, a picture in, the objects found in it out.

    detector = ObjectDetector.from_pretrained("runs/mask_rcnn_hlg_tiny")
    result = detector("street.jpg", score_threshold=0.5)
    result.names, result.scores, result.boxes, result.masks
    result.draw().save("street_detections.png")

n objects of K classes; H W are the picture's own height and width, and boxes and masks are in its pixels.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from densevit.data.image_io import read_image
from densevit.data.transforms import eval_transform
from densevit.errors import UserError, unknown_name
from densevit.evaluation.coco_results import run_length_codes, shortest
from densevit.inference.detection_settings import DetectionConfig
from densevit.inference.device import autocast, choose_device, choose_dtype
from densevit.models.detector import Detector
from densevit.picture_input import PictureLike, display_picture, to_tensor
from densevit.visualize.boxes import draw_objects
from densevit.weights.pretrained import ModelInfo, load_pretrained

SCORE_THRESHOLD = 0.5
"""Objects below this score are not shown, unless it is said otherwise; scores of the evaluation go much lower."""


@dataclass(frozen=True, kw_only=True)
class Detections:
    """The n objects found in one picture, the highest score first."""

    boxes: NDArray[np.float32]
    """(n, 4) left, top, right, bottom."""
    labels: NDArray[np.int64]
    """(n,) classes 0 .. K-1."""
    scores: NDArray[np.float32]
    """(n,) 0 .. 1."""
    masks: NDArray[np.bool_] | None = field(repr=False)
    """(n, H, W); None for a model of boxes alone."""
    classes: tuple[str, ...] = field(repr=False)
    """Names of the K classes, in index order."""
    palette: tuple[tuple[int, int, int], ...] = field(repr=False)
    """One RGB colour for each class."""
    image: NDArray[np.uint8] = field(repr=False)
    """(H, W, 3) the picture as it is drawn on."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def names(self) -> tuple[str, ...]:
        """The class name of each object."""
        return tuple(self.classes[label] for label in self.labels)

    def counts(self) -> dict[str, int]:
        """Number of objects of each class that occurs, the most frequent first."""
        counts = np.bincount(self.labels, minlength=len(self.classes))
        return {self.classes[k]: int(counts[k]) for k in np.argsort(-counts, kind="stable") if counts[k]}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON: the picture's "image_size" (H, W) and "objects", a list of one dict each.

        An object has "name", "label", "score", "box_xyxy" and, with masks, "area" in pixels and "segmentation", COCO's
        run-length code.
        """
        objects: list[dict[str, Any]] = [
            {"name": name, "label": int(label), "score": shortest(score), "box_xyxy": [shortest(side) for side in box]}
            for name, label, score, box in zip(self.names, self.labels, self.scores, self.boxes, strict=True)
        ]
        if self.masks is not None:
            for entry, mask, code in zip(objects, self.masks, run_length_codes(self.masks), strict=True):
                entry |= {"area": int(mask.sum()), "segmentation": code}
        return {"image_size": list(self.image.shape[:2]), "objects": objects}

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def draw(self, *, alpha: float = 0.5, text_size: int | None = None) -> Image.Image:
        """The picture with masks, boxes, names and scores. `alpha` is the masks' opacity, `text_size` in pixels."""
        texts = [f"{name} {100 * score:.0f} %" for name, score in zip(self.names, self.scores, strict=True)]
        drawn = draw_objects(
            self.image,
            boxes=self.boxes,
            labels=self.labels,
            texts=texts,
            palette=self.palette,
            masks=self.masks,
            alpha=alpha,
            text_size=text_size,
        )
        return Image.fromarray(drawn)

    def save(self, folder: str | Path, stem: str, *, alpha: float = 0.5) -> list[Path]:
        """Write the drawn picture, `<stem>_detections.png`, into `folder`; returns the files written."""
        path = Path(folder) / f"{stem}_detections.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.draw(alpha=alpha).save(path)
        return [path]


class ObjectDetector:
    """Finds the objects of pictures with one trained model, at the size at which it was evaluated.

    `device` is the best there is when None; `dtype` is that of matrix products ("float32", "bfloat16").
    `inference` replaces the evaluation setting stored with the model.
    """

    def __init__(
        self,
        model: Detector,
        info: ModelInfo,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = "float32",
        inference: DetectionConfig | None = None,
    ) -> None:
        if info.task != "detection":
            raise UserError(f"this is a model for {info.task}; use densevit.Predictor")
        self.device, self.dtype = choose_device(device), choose_dtype(dtype)
        self.model = model.to(self.device).eval()
        self.info = info
        self.inference = inference or DetectionConfig.from_dict(info.inference)
        self.prepare = eval_transform(
            resize=(self.inference.long_side, self.inference.short_side), mean=info.mean, std=info.std
        )

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = "float32",
        inference: DetectionConfig | None = None,
    ) -> "ObjectDetector":
        """Load a run folder, a model file or a Hugging Face name. UserError if there is no detector there."""
        model, info = load_pretrained(source)
        if info.task != "detection":
            raise UserError(f"{source} is a model for {info.task}; use densevit.Predictor")
        assert isinstance(model, Detector)
        return cls(model, info, device=device, dtype=dtype, inference=inference)

    @overload
    def __call__(
        self, picture: PictureLike, *, score_threshold: float | None = ..., classes: Sequence[str] | None = ...
    ) -> Detections: ...

    @overload
    def __call__(
        self,
        picture: list[Any] | tuple[Any, ...],
        *,
        score_threshold: float | None = ...,
        classes: Sequence[str] | None = ...,
    ) -> list[Detections]: ...

    @torch.inference_mode()
    def __call__(
        self,
        picture: PictureLike | list[Any] | tuple[Any, ...],
        *,
        score_threshold: float | None = SCORE_THRESHOLD,
        classes: Sequence[str] | None = None,
    ) -> Detections | list[Detections]:
        """Find the objects of one picture, or of each of a list of them.

        A picture is a path, a PIL image, an array (H, W, C) or (H, W), or a tensor (C, H, W); numbers are 0 .. 255 for
        uint8, 0 .. 65535 for uint16 and 0 .. 1 for floats. Objects below `score_threshold` are left out; None takes the
        threshold of the evaluation, which serves scores rather than eyes. `classes` keeps only these, by name.
        UserError if a picture cannot be read, does not fit the model's channels, or a class is unknown.
        """
        threshold = self.inference.score_threshold if score_threshold is None else score_threshold
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
            raise UserError(f"score_threshold is {threshold!r}; it must be a number in 0 .. 1")
        wanted = class_indices(classes, self.info.classes)
        if isinstance(picture, (list, tuple)):
            return [self._detect(each, threshold, wanted) for each in picture]
        return self._detect(picture, threshold, wanted)

    def _detect(self, picture: PictureLike, threshold: float, wanted: Sequence[int] | None) -> Detections:
        pixels = self._read(picture)
        image = self.prepare({"image": tv_tensors.Image(pixels)})["image"].as_subclass(Tensor).to(self.device)
        self.model.set_thresholds(**self.inference.thresholds | {"score_threshold": threshold})
        with autocast(self.device, self.dtype):
            found = self.model([image], sizes=[(pixels.shape[-2], pixels.shape[-1])])[0]
        kept = found["scores"] >= threshold
        if wanted is not None:
            kept &= torch.isin(found["labels"], torch.tensor(wanted, device=self.device, dtype=torch.int64))
        boxes, labels, scores = (found[name][kept].cpu() for name in ("boxes", "labels", "scores"))
        return Detections(
            boxes=boxes.float().numpy(),
            labels=labels.numpy(),
            scores=scores.float().numpy(),
            masks=found["masks"][kept].cpu().numpy() if self.model.with_masks else None,
            classes=self.info.classes,
            palette=self.info.palette,
            image=display_picture(pixels),
        )

    def _read(self, picture: PictureLike) -> Tensor:
        channels = self.model.in_channels
        if isinstance(picture, (str, Path)):
            return read_image(picture, channels=channels).as_subclass(Tensor)
        return to_tensor(picture, channels=channels)


def class_indices(names: Sequence[str] | None, classes: Sequence[str]) -> list[int] | None:
    """Indices of class names; None stays None. UserError for a name that is no class, with near matches."""
    if names is None:
        return None
    names = [names] if isinstance(names, str) else names
    for name in names:
        if name not in classes:
            raise unknown_name("class", name, classes)
    return [classes.index(name) for name in names]
