"""Our own model files: what goes in comes out, and everything else is refused in one sentence."""

import json
from dataclasses import replace

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

import densevit
from densevit.errors import UserError
from densevit.models.catalog import create_model
from densevit.weights.info import ModelInfo
from densevit.weights.pretrained import HEADER_KEY, find_model, load_pretrained, read_info, save_pretrained

CLASSES = ("Straße", "sky", "a | b")
TRAINING = {"data": {"name": "camvid", "root": "/home/me/camvid", "val_split": "val"}, "train": {"num_steps": 7}}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    small = {"patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2}
    model = create_model("setr_pup_vit_tiny", num_classes=3, image_size=(32, 48), channels=16, encoder_args=small)
    with torch.no_grad():  # statistics that are not those of a new model
        model.train()(torch.randn(2, 3, 32, 48))
    return model.eval()


@pytest.fixture
def info(model):
    return ModelInfo(
        task="segmentation",
        model=dict(model.config),
        classes=CLASSES,
        palette=((1, 2, 3), (4, 5, 6), (7, 8, 9)),
        mean=(1.0, 2.0, 3.0),
        std=(4.0, 5.0, 6.0),
        inference={"mode": "slide", "crop_size": [32, 48], "stride": [20, 32]},
        metrics={"mIoU": 0.5},
        training=TRAINING,
    )


def same_output(first, second):
    images = torch.randn(1, 3, 41, 59, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(first(images), second(images), rtol=0, atol=0)


def test_round_trip(model, info, tmp_path):
    path = densevit.save_pretrained(model, tmp_path / "my run é", info=info)
    for source in (path, path.parent, str(path)):
        loaded, stored = densevit.load_pretrained(source)
        assert stored.classes == CLASSES
        assert stored.palette == info.palette
        assert stored.mean == info.mean
        assert stored.inference == info.inference
        assert not loaded.training
    same_output(loaded, model)
    assert read_info(path) == stored
    assert not list(path.parent.glob("*.part"))


def test_header_and_config_say_the_same(model, info, tmp_path):
    path = save_pretrained(model, tmp_path, info=info)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[HEADER_KEY])
    assert header == json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert header["format_version"] == 1
    assert header["model"]["name"] == "setr_pup_vit_tiny"
    assert "Straße" in (tmp_path / "config.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_small_files_load_back_as_float32(model, info, tmp_path, dtype):
    full = save_pretrained(model, tmp_path / "full", info=info)
    small = save_pretrained(model, tmp_path / "small", info=info, dtype=dtype)
    assert small.stat().st_size < 0.65 * full.stat().st_size
    loaded, _ = load_pretrained(small)
    for (name, ours), theirs in zip(loaded.state_dict().items(), model.state_dict().values(), strict=True):
        assert ours.dtype == theirs.dtype, name  # float32, and the norms' counters whole numbers
        expected = theirs.to(getattr(torch, dtype)).to(theirs.dtype) if theirs.ndim > 1 else theirs
        assert torch.equal(ours, expected), name


def test_what_float16_cannot_hold_is_refused(model, info, tmp_path):
    weight = model.decoder.classifier.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.view(-1)[0] = 1e6
        with pytest.raises(UserError, match=r"classifier\.weight has values above 65504"):
            save_pretrained(model, tmp_path, info=info, dtype="float16")
        weight.copy_(kept)
    with pytest.raises(UserError, match="did you mean 'float16'"):
        save_pretrained(model, tmp_path, info=info, dtype="float61")


def test_a_table_shared_by_all_blocks(info, tmp_path):
    model = create_model(
        "setr_naive_beit_base_patch16_224",
        num_classes=3,
        image_size=32,
        encoder_args={"depth": 2, "embed_dim": 24, "num_heads": 2},
    )
    model.tied = model.decoder  # two names for one memory, which the format does not know
    save_pretrained(model, tmp_path, info=replace(info, model=dict(model.config)))
    del model.tied
    with pytest.raises(UserError, match="do not fit"):
        load_pretrained(tmp_path)  # the extra names are not skipped in silence


def test_a_pretrained_model_fetches_nothing_when_loaded(model, info, tmp_path):
    path = save_pretrained(model, tmp_path, info=replace(info, model={**model.config, "pretrained": True}))
    same_output(load_pretrained(path)[0], model)


def test_checkpoint_of_fit(model, info, tmp_path):
    checkpoint = {HEADER_KEY: info.to_json(), "state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}}
    checkpoint["state_dict"]["class_weights"] = torch.ones(3)  # of the training, not of the model
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(checkpoint, folder / "last.ckpt")
    for source in (folder / "last.ckpt", tmp_path / "run"):
        loaded, stored = load_pretrained(source)
        same_output(loaded, model)
        assert read_info(source).classes == stored.classes == CLASSES
    torch.save(checkpoint, folder / "best.ckpt")
    assert find_model(tmp_path / "run").name == "best.ckpt"
    torch.save({"state_dict": {}}, folder / "other.ckpt")
    torch.save([1], folder / "list.ckpt")
    (folder / "cut.ckpt").write_bytes((folder / "last.ckpt").read_bytes()[:500])
    for name, message in [("other", "of something else"), ("list", "of something else"), ("cut", "cannot be read")]:
        with pytest.raises(UserError, match=message):
            load_pretrained(folder / f"{name}.ckpt")


def test_damaged_and_foreign_files(model, info, tmp_path):
    path = save_pretrained(model, tmp_path, info=info)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-100])
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    for header, message in [
        (info.to_json().replace('"format_version": 1', '"format_version": 9'), "model format 9, this densevit reads 1"),
        ("{", "damaged densevit header"),
        ("[]", "damaged densevit header"),
        ('{"format_version": 1}', "incomplete densevit header"),
    ]:
        save_file({"a": torch.zeros(2)}, tmp_path / "header.safetensors", metadata={HEADER_KEY: header})
        for read in (load_pretrained, read_info):
            with pytest.raises(UserError, match=message):
                read(tmp_path / "header.safetensors")
    with pytest.raises(UserError, match="may be cut short"):
        load_pretrained(cut)
    with pytest.raises(UserError, match="no densevit header"):
        load_pretrained(tmp_path / "foreign.safetensors")


def test_weights_that_do_not_fit(model, info, tmp_path):
    other = replace(info, model={**model.config, "channels": 8})
    with pytest.raises(UserError, match=r"do not fit the model 'setr_pup_vit_tiny'.*\(and \d+ more\)") as caught:
        load_pretrained(save_pretrained(model, tmp_path, info=other))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"palette": ((0, 0, 0),)}, "3 classes but 1 colours"),
        ({"std": (1.0,)}, "3 means but 1 deviations"),
        ({"classes": ("a",), "palette": ((0, 0, 0),)}, "names 1 classes but its model has num_classes=3"),
    ],
)
def test_an_info_that_does_not_fit_is_not_saved(model, info, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        save_pretrained(model, tmp_path, info=replace(info, **changes))
    assert not list(tmp_path.iterdir())


def test_no_model_there(tmp_path, monkeypatch):
    monkeypatch.setattr("densevit.weights.pretrained.download_file", None)  # none of these may reach the network
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "notes.txt").write_text("notes")
    for source, message in [
        ("photos", "no model.safetensors in photos"),
        ("notes.txt", "is no model of densevit"),
        ("photos/run", "no model at photos/run"),  # "photos" is here: a mistyped path
        ("runs/demo", "no model at"),
        ("./a/b", "no model at"),
        ("x/model.safetensors", "no model at"),
        ("model", "no model at"),
        ("", "name is empty"),
    ]:
        with pytest.raises(UserError, match=message):
            find_model(source)


def test_model_card(model, info, tmp_path):
    save_pretrained(model, tmp_path, info=info)
    _, header, text = (tmp_path / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert yaml.safe_load(header) == {
        "license": "unknown",
        "library_name": "densevit",
        "pipeline_tag": "image-segmentation",
        "tags": ["semantic-segmentation", "vision-transformer", "setr"],
    }
    assert "one of 3 classes" in text
    assert "Straße, sky" in text
    assert "| mIoU | 50.00 % |" in text
    assert "split `val` of `camvid`" in text
    assert "windows of 32 x 48 every 20 x 32 pixels" in text
    assert "| updates | 7 |" in text
    save_pretrained(model, tmp_path, info=info, license="mit", name="me/streets")
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "license: mit" in card
    assert 'from_pretrained("me/streets")' in card


def test_the_cards_example_runs(model, info, tmp_path, monkeypatch):
    from PIL import Image

    save_pretrained(model, tmp_path / "m", info=info, name=str(tmp_path / "m"))
    Image.new("RGB", (50, 40)).save(tmp_path / "picture.jpg")
    monkeypatch.chdir(tmp_path)
    example = (tmp_path / "m" / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    exec(example, {})
    assert (tmp_path / "out" / "picture_labels.png").is_file()


def test_a_readme_of_the_users_own_is_left_alone(model, info, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    save_pretrained(model, tmp_path, info=info)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_card_without_scores_and_training(info):
    from densevit.weights.model_card import model_card

    card = model_card(replace(info, metrics={}, training={}, task="classification"))
    assert "None were stored" in card
    assert "No record of the training" in card
    assert "pipeline_tag: image-classification" in card
    assert "load_pretrained" in card
