"""From a recipe name, a YAML file and command-line overrides to one resolved experiment, and back to files.

Order, later wins: the recipe, the file, the overrides (`--train.num_steps=10`). A file may name its recipe with a
top-level `recipe:` key. Unknown keys are refused with near matches.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from densevit.errors import UserError, unknown_name
from densevit.training.config import SegmentationExperiment
from densevit.training.config_classification import ClassificationExperiment
from densevit.training.config_detection import DetectionExperiment
from densevit.training.recipes import Experiment, get_recipe
from densevit.training.setting_errors import wrong_type

EXPERIMENTS: dict[str, type[Any]] = {
    "segmentation": SegmentationExperiment,
    "detection": DetectionExperiment,
    "classification": ClassificationExperiment,
}
"""Task -> its experiment."""


def resolve(
    *, recipe: str | None = None, config: str | Path | None = None, overrides: Sequence[str] = ()
) -> Experiment:
    """Build the experiment that a command line means; UserError for anything unknown or out of range.

    `overrides` are arguments such as ["--train.num_steps=10"] or ["--train.num_steps", "10"].
    """
    values = _read_yaml(config) if config is not None else {}
    named = values.pop("recipe", None)
    if recipe is not None and named is not None and recipe != named:
        raise UserError(f"--recipe {recipe} and the recipe {named} of {config} disagree; give one of them")
    recipe = recipe or named
    if recipe is None and config is None:
        raise UserError("give --recipe NAME (see `densevit recipes`) or --config FILE")
    base = get_recipe(recipe) if recipe is not None else _default(values.get("task"), config)
    return _parse(base, values, [*overrides])


def override(values: Mapping[str, Any], overrides: Sequence[str]) -> Experiment:
    """The experiment stored as plain values (of a trained model), changed by `--KEY=VALUE` arguments."""
    return _parse(experiment_from_dict(values), {}, [*overrides])


def experiment_from_dict(values: Mapping[str, Any]) -> Experiment:
    """The experiment stored as plain values, such as the `config.yaml` of a run."""
    return _parse(_default(values.get("task"), None), dict(values), [])


def experiment_to_dict(experiment: Experiment) -> dict[str, Any]:
    """Plain values: dicts, lists, strings, numbers, booleans, None."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(experiment)))
    return values


def save_experiment(experiment: Experiment, path: Path) -> None:
    """Write an experiment as YAML that `--config` reads back."""
    text = yaml.safe_dump(experiment_to_dict(experiment), sort_keys=False, allow_unicode=True, default_flow_style=None)
    path.write_text(text, encoding="utf-8")


MAY_CHANGE = ("data.root", "data.num_workers", "data.val_split", "eval.", "train.")
"""Settings that a resumed run may change; what the checkpoint holds or what orders the samples may not."""
MAY_NOT_CHANGE = ("train.seed", "train.accumulate", "train.ema")


def check_same_run(experiment: Experiment, config: Path) -> None:
    """UserError where `experiment` differs from the run's own `config` in what cannot change half-way."""
    keys = setting_keys(type(experiment))
    stored = _flatten(experiment_to_dict(resolve(config=config)), keys)
    asked = _flatten(experiment_to_dict(experiment), keys)
    for key, value in asked.items():
        if value != stored.get(key) and (key in MAY_NOT_CHANGE or not key.startswith(MAY_CHANGE)):
            raise UserError(
                f"a resumed run keeps its {key} ({stored.get(key)}, not {value}); "
                "leave it as it is, or start a new run with --config"
            )


def setting_keys(experiment_type: type[Any]) -> list[str]:
    """Every dotted key, such as "train.num_steps"."""
    keys = []
    hints = get_type_hints(experiment_type)
    for item in fields(experiment_type):
        kind = hints[item.name]
        if is_dataclass(kind):
            keys += [f"{item.name}.{key}" for key in setting_keys(kind)]  # type: ignore[arg-type]
        else:
            keys.append(item.name)
    return keys


def _default(task: str | None, source: str | Path | None) -> Experiment:
    if task is None:
        raise UserError(
            f"{source or 'the configuration'} must say its task; add one of: "
            + ", ".join(f"task: {name}" for name in EXPERIMENTS)
            + " (or recipe: NAME)"
        )
    if not isinstance(task, str) or task not in EXPERIMENTS:
        raise unknown_name("task", str(task), EXPERIMENTS)
    experiment: Experiment = EXPERIMENTS[task]()
    return experiment


def _read_yaml(path: str | Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"there is no configuration file {path}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold settings such as 'train: {{num_steps: 100}}', not {type(values).__name__}")
    return values


def _parse(base: Experiment, values: dict[str, Any], overrides: list[str]) -> Experiment:
    from jsonargparse import ArgumentParser

    keys = setting_keys(type(base))
    flat = _flatten(values, keys)
    overrides = _joined(overrides)
    for key in [*flat, *(item[2:].partition("=")[0] for item in overrides)]:
        if not _is_known(key, keys):
            raise _unknown_setting(key, keys)
    defaults = asdict(base)
    named = dict(item[2:].partition("=")[::2] for item in overrides).get("data.name")
    if named is not None and named != flat.get("data.name", base.data.name):
        flat.pop("data.args", None)  # a file's arguments belong to its own data set
    changed = flat | dict(item[2:].partition("=")[::2] for item in overrides)
    if changed.get("data.name", base.data.name) != base.data.name:
        defaults["data"]["args"] = {}  # a recipe's arguments belong to its own data set
    for key in [key for key, value in flat.items() if f"{key}." in OPEN_ENDED and isinstance(value, Mapping)]:
        section, _, name = key.partition(".")
        defaults[section][name] = dict(flat.pop(key))  # so that an override of one argument keeps the others
    arguments = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in flat.items()]
    arguments += [item for item in overrides if not _put_open_ended(defaults, item)]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(type(base), None)
    parser.set_defaults(defaults)
    try:
        namespace = parser.instantiate(parser.parse_args(arguments))
        experiment: Experiment = type(base)(**vars(namespace))
    except UserError:
        raise
    except Exception as error:  # argparse's own kinds differ between versions
        raise wrong_type(error, type(base), given=changed) from error
    return experiment


def _flatten(values: Mapping[str, Any], keys: Sequence[str], prefix: str = "") -> dict[str, Any]:
    """Nested settings -> dotted ones; a dictionary that is itself a value (`model.args`) stays whole."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and key not in keys:
            if not any(known.startswith(key + ".") for known in keys):
                raise _unknown_setting(key, keys)
            flat |= _flatten(value, keys, key + ".")
        else:
            flat[key] = value
    return flat


OPEN_ENDED = ("model.args.", "data.args.", "loss.terms.")
"""Settings below these are arguments of a model or a data set, or losses, checked by themselves."""


def _is_known(key: str, keys: Sequence[str]) -> bool:
    return key in keys or any(key.startswith(part) and part[:-1] in keys for part in OPEN_ENDED)


def _unknown_setting(key: str, keys: Sequence[str]) -> UserError:
    """The error for an unknown key: near matches, or else the keys beside it."""
    section, dot, _ = key.partition(".")
    sections = list(dict.fromkeys(known.partition(".")[0] for known in keys))
    if key in sections:
        name = next(known for known in keys if known.startswith(key + "."))
        return UserError(f"{key!r} is a section, not a setting; set one of its own, such as {name}")
    if not dot or section not in sections:
        near = get_close_matches(key, [*keys, *sections], n=3, cutoff=0.6)
        return unknown_name("setting", key, near or [f"{name}..." for name in sections])
    return unknown_name("setting", key, [known for known in keys if known.startswith(section + ".")])


def _put_open_ended(values: dict[str, Any], argument: str) -> bool:
    """Put `--model.args.encoder_args.depth=6` into nested `values`, typed as YAML; False for any other setting."""
    key, _, text = argument[2:].partition("=")
    if not key.startswith(OPEN_ENDED):
        return False
    *path, name = key.split(".")
    for part in path:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise UserError(f"{argument} goes below {part!r}, which is a single value")
    try:
        values[name] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{argument} is no YAML value; lists look like [1, 2], mappings like {{a: 1}}") from error
    return True


def _joined(arguments: Sequence[str]) -> list[str]:
    """["--a.b", "1", "--c=2"] -> ["--a.b=1", "--c=2"]; UserError for a stray word or a key without value."""
    joined: list[str] = []
    waiting: str | None = None
    for argument in arguments:
        if waiting is not None:
            joined.append(f"{waiting}={argument}")
            waiting = None
        elif not argument.startswith("--"):
            raise UserError(f"cannot place {argument!r}; settings look like --train.num_steps=100")
        elif "=" in argument:
            joined.append(argument)
        else:
            waiting = argument
    if waiting is not None:
        raise UserError(f"{waiting} needs a value, as in {waiting}=VALUE")
    return joined
