"""`densevit push` from the command line, without a network."""

from densevit.cli.main import main


def test_arguments_arrive(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(
        "densevit.weights.pretrained.push_to_hub",
        lambda model, repo, **options: calls.append((model, repo, options)) or f"https://hub.example/{repo}",
    )
    assert main(["push", "runs/a b", "me/streets", "--private", "--license", "mit", "--dtype", "float16"]) == 0
    assert calls == [("runs/a b", "me/streets", {"private": True, "license": "mit", "dtype": "float16"})]
    assert "uploaded: https://hub.example/me/streets" in capsys.readouterr().out


def test_no_model(tmp_path, capsys):
    assert main(["push", str(tmp_path), "me/streets"]) == 2
    assert capsys.readouterr().err.startswith("densevit push: no model.safetensors in")
