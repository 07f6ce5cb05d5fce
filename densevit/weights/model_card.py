"""The README.md of a saved model: a Hugging Face model card made from what the model knows about itself."""

from collections.abc import Mapping
from typing import Any

import yaml

from densevit import __version__
from densevit.weights.info import ModelInfo

MARKER = "<!-- Written by densevit and written anew when the model is saved; remove this line to keep your changes. -->"
"""Stands in every generated card; a README.md without it belongs to the user and is left alone."""

PIPELINE_TAGS = {
    "segmentation": "image-segmentation",
    "detection": "object-detection",
    "classification": "image-classification",
}
_TASKS = {
    "segmentation": "A semantic segmentation model: it gives every pixel of an image one of {} classes.",
    "detection": "A detection model: it finds the objects of {} classes in an image.",
    "classification": "A classification model: it gives an image one of {} classes.",
}
_TRAINING_ROWS = (
    ("data set", "data", "name"),
    ("training split", "data", "train_split"),
    ("encoder started from", "model", "pretrained"),
    ("updates", "train", "num_steps"),
    ("batch size", "data", "batch_size"),
    ("crop (H, W)", "data", "crop_size"),
    ("short sides", "data", "short_sides"),
    ("long side at most", "data", "long_side"),
    ("optimizer", "optim", "optimizer"),
    ("learning rate", "optim", "lr"),
    ("precision", "train", "precision"),
    ("seed", "train", "seed"),
)
_USE = """\
```python
import densevit

predictor = densevit.Predictor.from_pretrained("{name}")
result = predictor("picture.jpg")                # a path, PIL image, array or tensor
result.labels, result.shares()                   # (H, W) class numbers; share of each class
result.save("out", "picture")                    # label map and overlay
```

or from the command line: `densevit predict picture.jpg --model {name}`. The images' mean and deviation, the class names
and the way of evaluation are stored in `model.safetensors`; `config.json` repeats them for people."""
_USE_DETECTION = """\
```python
import densevit

detector = densevit.ObjectDetector.from_pretrained("{name}")
result = detector("picture.jpg", score_threshold=0.5)      # a path, PIL image, array or tensor; or a list of them
{result}
result.draw().save("picture_detections.png")               # the objects on the picture
```

or from the command line: `densevit predict picture.jpg --model {name}`. The images' mean and deviation, the class names
and the way of evaluation are stored in `model.safetensors`; `config.json` repeats them for people."""
_WITH_MASKS = (
    "result.names, result.scores, result.boxes, result.masks    # boxes (n, 4) XYXY in pixels; masks (n, H, W)"
)
_BOXES_ALONE = "result.names, result.scores, result.boxes                  # boxes (n, 4) XYXY in pixels"
_USE_OTHER = """\
```python
import densevit

model, info = densevit.load_pretrained("{name}")   # a torch module in eval mode; info.classes, info.mean, info.std
```"""
_LIMITS_OF = {
    "segmentation": "Every pixel gets one of the classes above, also where none of them fits.",
    "detection": "Objects of other classes are not found, or taken for one of those above; crowded and tiny ones are "
    "missed most. A score is no probability: choose the threshold on images of your own.",
    "classification": "Every image gets one of the classes above, also where none of them fits.",
}
_LIMITS = """\
- {own}
- The scores hold for images like those of the data set named here; other cameras, places, seasons or scales may score
  far lower. Measure on images of your own before relying on it.
- It has not been examined for fairness or safety; do not use it alone where a mistake can harm someone.
- The data and the encoder's pretrained weights have licences of their own."""


def model_card(info: ModelInfo, *, name: str = "user/model", license: str = "unknown") -> str:
    """The card as Markdown with its YAML header; `name` is what readers give to `from_pretrained`."""
    architecture = str(info.model.get("name", "model"))
    sections = {
        "Classes": ", ".join(info.classes),
        "Scores": _scores(info),
        "How to use it": _how_to_use(info, name),
        "Training": _training(info.training),
        "Limits": _LIMITS.format(own=_LIMITS_OF.get(info.task, "It knows no other classes than those above.")),
    }
    what = _TASKS.get(info.task, "A model of {} classes.").format(len(info.classes)).replace(" 1 classes", " 1 class")
    head = f"# {name if name != 'user/model' else architecture}\n\n{what}\nArchitecture: `{architecture}` of densevit."
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"---\n{_header(info, license=license)}---\n{MARKER}\n\n{head}\n\n{body}\n"


def _how_to_use(info: ModelInfo, name: str) -> str:
    if info.task == "segmentation":
        return _USE.format(name=name)
    if info.task == "detection":
        with_masks = str(info.model.get("name", "")).startswith("mask_")
        return _USE_DETECTION.format(name=name, result=_WITH_MASKS if with_masks else _BOXES_ALONE)
    return _USE_OTHER.format(name=name)


def _header(info: ModelInfo, *, license: str) -> str:
    words = str(info.model.get("name", "")).split("_")
    task_tags = ["semantic-segmentation"] if info.task == "segmentation" else []
    if words[:2] == ["mask", "rcnn"]:
        task_tags = ["instance-segmentation"]
    tags = [*task_tags, "vision-transformer", *(family for family in ("setr", "hlg") if family in words)]
    values: dict[str, Any] = {"license": license, "library_name": "densevit"}
    if info.task in PIPELINE_TAGS:
        values["pipeline_tag"] = PIPELINE_TAGS[info.task]
    return yaml.safe_dump(values | {"tags": tags}, sort_keys=False, allow_unicode=True)


def _scores(info: ModelInfo) -> str:
    if not info.metrics:
        return "None were stored with the model."
    data = info.training.get("data", {})
    where = f"On the split `{data['val_split']}` of `{data['name']}`" if "val_split" in data else "On validation data"
    rows = [f"| {name.replace('_', ' ')} | {100 * value:.2f} % |" for name, value in info.metrics.items()]
    return "\n".join(
        [f"{where}, evaluated as stored ({_evaluation(info.inference)}):", "", "| | |", "|---|---|", *rows]
    )


def _evaluation(inference: Mapping[str, Any]) -> str:
    if "short_side" in inference:
        return f"short side {inference['short_side']} pixels, long side at most {inference['long_side']}; COCO's scores"
    if inference.get("mode") == "slide":
        text = f"windows of {_text(inference['crop_size'])} every {_text(inference['stride'])} pixels"
    else:
        text = "whole image"
    scales = list(inference.get("scales", [1.0]))
    if scales != [1.0]:
        text += f", scales {_text(scales)}"
    return text + (", with mirror images" if inference.get("flip") else "")


def _training(training: Mapping[str, Any]) -> str:
    rows = []
    for title, group, key in _TRAINING_ROWS:
        value = training.get(group, {}).get(key)
        if value is not None:
            if key == "pretrained":
                value = {True: "its timm weights", False: "random numbers"}.get(value, value)
            if key == "short_sides":
                value = ", ".join(map(str, value))
            rows.append(f"| {title} | {_text(value)} |")
    if not rows:
        return "No record of the training was stored with the model."
    note = f"\n\nSaved by densevit {__version__}; every setting is under `training` in `config.json`."
    return "\n".join(["| setting | value |", "|---|---|", *rows]) + note


def _text(value: Any) -> str:
    return " x ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
