"""The command line as a whole: fast help, exit codes, one sentence for a mistake."""

import json
import subprocess
import sys

import pytest

from densevit.cli.main import COMMANDS, main

HEAVY = ("torch", "torchvision", "timm", "lightning", "numpy", "PIL", "matplotlib", "jsonargparse", "rich", "yaml")


def imported_by(code):
    """Modules of `HEAVY` that a fresh interpreter has imported after `code`."""
    code += f"\nimport sys, json; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def test_help_imports_nothing_heavy():
    code = """
from densevit.cli.main import main
for arguments in (["--help"], ["fit", "--help"], ["validate", "--help"], ["recipes", "--help"]):
    try:
        main(arguments)
    except SystemExit as end:
        assert end.code == 0
"""
    assert imported_by(code) == []


def test_importing_the_package_imports_nothing_heavy():
    assert imported_by("import densevit, densevit.errors; dir(densevit)") == []


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["fit", "--recipe", "demoo"], "densevit fit: unknown recipe 'demoo'; did you mean 'demo'?"),
        (["fit"], "densevit fit: give --recipe NAME (see `densevit recipes`) or --config FILE"),
        (
            ["fit", "--recipe=demo", "--train.num_step=3"],
            "densevit fit: unknown setting 'train.num_step'; did you mean",
        ),
        (["fit", "--recipe=demo", "--set", "train.lr=3"], "densevit fit: unknown setting 'train.lr'"),
        (["fit", "--config", "no such file.yaml"], "densevit fit: there is no configuration file no such file.yaml"),
        (["fit", "--resume", "no such run"], "densevit fit: nothing to resume in no such run"),
        (["fit", "--resume", "a", "--recipe", "demo"], "densevit fit: --resume takes everything from its run"),
        (["fit", "--recipe", "demo", "--train.num_steps"], "densevit fit: --train.num_steps needs a value"),
        (["fit", "--recipe", "demo", "stray"], "densevit fit: cannot place 'stray'"),
        (["recipes", "demoo"], "densevit recipes: unknown recipe 'demoo'; did you mean 'demo'?"),
        (["validate", "--model", "no/such/run"], "densevit validate: no model at no/such/run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(sentence)
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_unknown_commands_and_options(capsys):
    for arguments in (["fitt"], ["recipes", "--formatt=json"]):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2
    assert "fitt" in capsys.readouterr().err
