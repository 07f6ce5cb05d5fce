"""To and from the Hugging Face hub, with the hub replaced by a folder: no test reaches a network."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import errors

import densevit
from densevit.errors import UserError
from densevit.models.catalog import create_model
from densevit.weights import hub
from densevit.weights.info import ModelInfo
from densevit.weights.pretrained import find_model, load_pretrained, save_pretrained


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    small = {"patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 2}
    return create_model("setr_naive_vit_tiny", num_classes=2, image_size=32, channels=8, encoder_args=small).eval()


@pytest.fixture
def info(model):
    return ModelInfo(
        task="segmentation",
        model=dict(model.config),
        classes=("road", "sky"),
        palette=((1, 2, 3), (4, 5, 6)),
        mean=(0.0,) * 3,
        std=(255.0,) * 3,
        training={"data": {"name": "folder", "root": "data", "args": {"classes": "/home/me/classes.txt"}}},
    )


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A stand-in for the hub: repositories are folders; `server.calls` lists what was asked."""
    root, calls = tmp_path / "hub", []

    class Api:
        endpoint = "https://hub.example"

        def __init__(self, token=None):
            calls.append(("token", token))

        def create_repo(self, repo_id, **kwargs):
            calls.append(("create", repo_id, kwargs))
            (root / repo_id).mkdir(parents=True, exist_ok=True)

        def upload_folder(self, *, repo_id, folder_path, commit_message, repo_type):
            calls.append(("upload", commit_message))
            shutil.copytree(folder_path, root / repo_id, dirs_exist_ok=True)

        def repo_info(self, repo_id, *, revision, timeout):
            calls.append(("info", repo_id, revision))
            if not (root / repo_id).is_dir():
                raise missing(errors.RepositoryNotFoundError)

    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(hub, "hf_hub_download", lambda repo, file, revision: str(root / repo / file))
    return SimpleNamespace(root=root, calls=calls)


def missing(kind, status=404):
    response = SimpleNamespace(status_code=status, headers={}, request=None)
    return kind(f"{status} Client Error\nRequest ID: 7\n\nmore lines", response=response)


def test_push_and_fetch(model, info, server):
    address = densevit.push_to_hub(model, "me/streets", info=info, license="mit", private=True, token="secret")
    assert address == "https://hub.example/me/streets"
    assert server.calls[0] == ("token", "secret")
    assert server.calls[1] == ("create", "me/streets", {"private": True, "exist_ok": True, "repo_type": "model"})
    assert sorted(path.name for path in (server.root / "me/streets").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    card = (server.root / "me/streets/README.md").read_text(encoding="utf-8")
    assert "license: mit" in card
    assert 'from_pretrained("me/streets")' in card
    predictor = densevit.Predictor.from_pretrained("me/streets", device="cpu")
    assert predictor.info.classes == ("road", "sky")
    images = torch.randn(1, 3, 20, 30)
    with torch.no_grad():
        assert torch.equal(predictor.model(images), model(images))
    load_pretrained("me/streets@v1")
    assert server.calls[-1] == ("info", "me/streets", "v1")


def test_only_the_model_of_a_run_goes_out_and_no_local_path(model, info, server, tmp_path):
    run = tmp_path / "run"
    save_pretrained(model, run, info=info)
    (run / "metrics.csv").write_text("step\n")
    densevit.push_to_hub(run, "me/streets", dtype="bfloat16")
    out = server.root / "me/streets"
    assert not (out / "metrics.csv").exists()
    assert (out / "model.safetensors").stat().st_size < (run / "model.safetensors").stat().st_size
    training = json.loads((out / "config.json").read_text(encoding="utf-8"))["training"]
    assert training["data"] == {"name": "folder", "root": None, "args": {"classes": "classes.txt"}}
    assert load_pretrained(out)[1].training == training  # the header of the model file says the same


def test_a_card_of_the_users_own_goes_along(model, info, server, tmp_path):
    save_pretrained(model, tmp_path / "run", info=info)
    (tmp_path / "run" / "README.md").write_text("my own words", encoding="utf-8")
    densevit.push_to_hub(tmp_path / "run", "me/streets")
    assert (server.root / "me/streets/README.md").read_text(encoding="utf-8") == "my own words"
    with pytest.raises(UserError, match="write `license: mit` into its first lines"):
        densevit.push_to_hub(tmp_path / "run", "me/streets", license="mit")


def test_a_model_needs_its_info(model, server):
    with pytest.raises(UserError, match="give info=ModelInfo"):
        densevit.push_to_hub(model, "me/streets")
    assert server.calls == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (missing(errors.RepositoryNotFoundError), "neither a local path nor a Hugging Face repository"),
        (missing(errors.GatedRepoError, 403), "asks for its terms to be accepted"),
        (missing(errors.RevisionNotFoundError), "has no revision 'v2'"),
        (missing(errors.RemoteEntryNotFoundError), "has no model.safetensors"),
        (errors.LocalEntryNotFoundError("no connection"), r"cannot be fetched .*\(no connection\)"),
        (errors.HFValidationError("bad name"), "neither a local path nor a Hugging Face name"),
        (OSError("disk full"), r"cannot be fetched .*\(disk full\)"),
    ],
)
def test_what_a_download_can_run_into(server, monkeypatch, error, message):
    def fail(*_, **__):
        raise error

    (server.root / "me/streets").mkdir(parents=True)
    monkeypatch.setattr(hub, "hf_hub_download", fail)
    with pytest.raises(UserError, match=message) as caught:
        find_model("me/streets@v2")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (missing(errors.HfHubHTTPError, 403), "refuses to write to me/streets; log in"),
        (errors.LocalTokenNotFoundError("no token"), "log in"),
        (errors.HFValidationError("bad"), "is no Hugging Face name"),
        (missing(errors.HfHubHTTPError, 500), "cannot be uploaded to Hugging Face \\(500 Client Error\\)"),
    ],
)
def test_what_an_upload_can_run_into(model, info, server, monkeypatch, error, message):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(hub.HfApi, "create_repo", fail)
    with pytest.raises(UserError, match=message) as caught:
        densevit.push_to_hub(model, "me/streets", info=info)
    assert "\n" not in str(caught.value)


def test_a_cached_model_needs_no_network(model, info, server, monkeypatch):
    densevit.push_to_hub(model, "me/streets", info=info)
    server.calls.clear()
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_, **__: "somewhere")
    load_pretrained("me/streets")
    assert server.calls == []
