"""Which options of `densevit predict` a model of which task takes, and the settings of its evaluation."""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from densevit.weights.info import ModelInfo

TASKS = {
    "probabilities": ("segmentation",),
    "confidence": ("segmentation",),
    "every": ("segmentation",),
    "alpha": ("segmentation", "detection"),
    "submission": ("segmentation", "detection"),
    "score-threshold": ("detection",),
    "classes": ("detection",),
    "annotations": ("detection",),
    "top": ("classification",),
}
"""Option -> the tasks it has a meaning for."""
SUBMISSIONS = {"ade20k": "segmentation", "cityscapes": "segmentation", "coco": "detection"}
"""Test server -> the task it judges."""
COMMON = ("model", "out", "device", "dtype", "set")


def check_options(args: argparse.Namespace, task: str) -> None:
    """UserError for an option that a model for `task` does not take, and for values out of range."""
    from densevit.errors import UserError, unknown_name

    given = {option: getattr(args, option.replace("-", "_")) for option in TASKS}
    if given["submission"] and given["submission"] not in SUBMISSIONS:
        raise unknown_name("submission format", given["submission"], SUBMISSIONS)
    for option, value in given.items():
        if value is not None and value is not False and task not in TASKS[option]:
            takes = [f"--{name}" for name, tasks in TASKS.items() if task in tasks]
            raise UserError(
                f"--{option} is for {' and '.join(TASKS[option])}; {args.model} is a model for {task}, "
                f"which takes {', '.join(takes)}"
            )
    server = given["submission"]
    if server and SUBMISSIONS[server] != task:
        fitting = ", ".join(name for name, fits in SUBMISSIONS.items() if fits == task)
        raise UserError(
            f"--submission {server} is for {SUBMISSIONS[server]}; {args.model} is a model for {task}, "
            f"which takes --submission {fitting}"
        )
    for option, lowest, highest, meaning in (
        ("alpha", 0, 1, "it must lie in 0 .. 1"),
        ("score-threshold", 0, 1, "it must lie in 0 .. 1"),
        ("every", 1, None, "give 1 for each frame of a video, 2 for each second one ..."),
        ("top", 1, None, "it must be at least 1"),
    ):
        value = given[option]
        if value is not None and not (lowest <= value and (highest is None or value <= highest)):
            raise UserError(f"--{option} is {value}; {meaning}")
    if args.annotations and not server:
        raise UserError("--annotations gives image ids to --submission coco; leave it out or add that")


def changed_inference(info: "ModelInfo", changes: list[str]) -> Any:
    """The evaluation setting stored with a model, with some values of `eval` replaced; None if `changes` is empty.

    UserError for any other setting and for a misspelt option, which looks like one.
    """
    from dataclasses import asdict

    from densevit.inference.detection_settings import DetectionConfig
    from densevit.inference.settings import InferenceConfig
    from densevit.training.settings import override

    if not changes:
        return None
    kind: Any = DetectionConfig if info.task == "detection" else InferenceConfig
    keys = [f"eval.{name}" for name in asdict(kind())]
    for argument in changes:
        key = argument.removeprefix("--").partition("=")[0]
        if argument.startswith("--") and key not in keys:
            raise _unknown(key, info.task, keys)
    stored = asdict(kind.from_dict(info.inference))
    experiment: Any = override({"task": info.task, "eval": stored}, changes)
    return experiment.eval


def refuse_settings(changes: list[str], *, task: str) -> None:
    """UserError for any setting, and for a misspelt option, which looks like one, of a task without settings."""
    from densevit.errors import UserError

    if not changes:
        return
    key = changes[0].removeprefix("--").partition("=")[0]
    if "." in key:
        raise UserError(f"{changes[0]} cannot be set for a model for {task}; it evaluates as it was trained")
    raise _unknown(key, task, [])


def _unknown(key: str, task: str, settings: list[str]) -> Exception:
    from densevit.errors import unknown_name

    options = [option for option, tasks in TASKS.items() if task in tasks]
    return unknown_name("option or setting" if settings else "option", key, [*COMMON, *options, *settings])
