"""From recipe, file and command line to one experiment, and every refusal in one sentence."""

import pytest
import yaml

from densevit.errors import UserError
from densevit.training.config import SegmentationExperiment
from densevit.training.recipes import get_recipe
from densevit.training.settings import (
    experiment_from_dict,
    experiment_to_dict,
    override,
    resolve,
    save_experiment,
    setting_keys,
)


def demo(*overrides):
    return resolve(recipe="demo", overrides=overrides)


def test_a_recipe_as_it_is():
    assert demo() == get_recipe("demo")


@pytest.mark.parametrize("spelling", [["--train.num_steps=12"], ["--train.num_steps", "12"]])
def test_both_spellings_of_an_override(spelling):
    assert demo(*spelling).train.num_steps == 12


def test_types_of_overrides():
    experiment = demo(
        "--data.crop_size=[64,80]",
        "--optim.clip_grad_norm=null",
        "--loss.class_weights=[1,2.5]",
        "--eval.flip=true",
        "--data.root=a folder/é",
        "--data.args.num_images=3",
        "--model.args.encoder_args.depth=2",
        "--model.pretrained=weights.pth",
        "--loss.terms={dice: 1, cross_entropy: 0.5}",
    )
    assert experiment.data.crop_size == (64, 80)
    assert experiment.optim.clip_grad_norm is None
    assert experiment.loss.class_weights == (1.0, 2.5)
    assert experiment.eval.flip is True
    assert experiment.data.root == "a folder/é"
    assert experiment.data.args["num_images"] == 3
    assert experiment.model.args["encoder_args"]["depth"] == 2
    assert experiment.model.args["encoder_args"]["patch_size"] == 8  # the rest of the recipe's stays
    assert experiment.model.pretrained == "weights.pth"
    assert experiment.loss.terms == {"dice": 1.0, "cross_entropy": 0.5}


def test_a_loss_can_be_added():
    assert demo("--loss.terms.lovasz=2").loss.terms == {"cross_entropy": 1.0, "lovasz": 2}


def test_the_arguments_of_a_recipe_belong_to_its_own_data_set():
    assert demo("--data.name=camvid").data.args == {}


def test_the_arguments_of_a_file_belong_to_its_own_data_set(tmp_path):
    (tmp_path / "a.yaml").write_text("task: segmentation\ndata: {name: folder, args: {val_ratio: 0.2}}\n")
    assert resolve(config=tmp_path / "a.yaml").data.args == {"val_ratio": 0.2}
    more = resolve(config=tmp_path / "a.yaml", overrides=["--data.args.val_split=dev"])
    assert more.data.args == {"val_ratio": 0.2, "val_split": "dev"}
    other = resolve(config=tmp_path / "a.yaml", overrides=["--data.name=scenes", "--data.args.num_images=3"])
    assert other.data.args == {"num_images": 3}


def test_later_wins_recipe_file_override(tmp_path):
    file = tmp_path / "my settings é.yaml"
    file.write_text("recipe: demo\ntrain: {num_steps: 7, val_every_steps: 3}\noptim:\n  lr: 0.5\n", encoding="utf-8")
    experiment = resolve(config=file, overrides=["--train.num_steps=9"])
    assert (experiment.train.num_steps, experiment.train.val_every_steps, experiment.optim.lr) == (9, 3, 0.5)
    assert experiment.model == get_recipe("demo").model


def test_saved_settings_read_back(tmp_path):
    experiment = demo("--data.root=a: b", "--loss.class_weights=balanced", "--data.resize_base=[200,100]")
    save_experiment(experiment, tmp_path / "config.yaml")
    assert experiment_to_dict(resolve(config=tmp_path / "config.yaml")) == experiment_to_dict(experiment)
    assert experiment_to_dict(experiment_from_dict(experiment_to_dict(experiment))) == experiment_to_dict(experiment)


def test_settings_stored_with_a_model_can_be_overridden():
    stored = experiment_to_dict(demo())
    assert override(stored, ["--eval.mode=slide", "--eval.crop_size=[64,64]", "--eval.stride=[40,40]"]).eval.stride == (
        40,
        40,
    )


def test_every_setting_has_a_key_and_a_docstring():
    keys = setting_keys(SegmentationExperiment)
    assert {"task", "model.name", "data.crop_size", "optim.lr", "loss.terms", "train.ema", "eval.stride"} <= set(keys)


REFUSED = [
    (["--train.num_step=3"], "unknown setting 'train.num_step'; did you mean 'train.num_steps'"),
    (["--nonsense=3"], "unknown setting 'nonsense'"),
    (["--model=hlg_small"], "'model' is a section, not a setting; set one of its own, such as model.name"),
    (["--train.num_steps=many"], "train.num_steps"),
    (["--train.num_steps=0"], "train.num_steps must be at least 1, not 0"),
    (["--train.num_steps"], "--train.num_steps needs a value"),
    (["stray"], "cannot place 'stray'"),
    (["--data.crop_size=5"], "data.crop_size"),
    (["--optim.optimizer=adam"], "optim.optimizer"),
    (["--eval.mode=slid"], "eval.mode"),
    (["--train.precision=fp8"], "train.precision"),
    (["--loss.terms.dicee=1"], "unknown loss 'dicee'; did you mean 'dice'"),
    (["--loss.terms.dice=much"], "loss.terms"),
    (["--optim.layer_decay=2"], r"optim.layer_decay must be in \(0, 1\], not 2"),
    (["--train.ema=1.5"], "train.ema"),
    (["--data.mean=[1,2]"], "one number per channel"),
    (["--model.args.image_size.x=3"], "goes below"),
    (["--model.args.image_size=[3"], r"--model.args.image_size=\[3 is no YAML value"),
]


@pytest.mark.parametrize(("arguments", "sentence"), REFUSED, ids=[" ".join(item[0]) for item in REFUSED])
def test_refused_in_one_sentence(arguments, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        demo(*arguments)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_unknown_keys_of_a_file(tmp_path):
    file = tmp_path / "a.yaml"
    for text, sentence in (
        (
            "task: segmentation\ntrain: {num_step: 3}",
            "unknown setting 'train.num_step'; did you mean 'train.num_steps'",
        ),
        ("task: segmentation\ntrian: {num_steps: 3}", "unknown setting 'trian'; did you mean 'train'"),
        ("task: segmentatoin", "unknown task 'segmentatoin'; did you mean 'segmentation'"),
        ("train: {num_steps: 3}", "must say its task"),
        ("recipe: demmo", "unknown recipe 'demmo'; did you mean 'demo'"),
        ("[1, 2]", "must hold settings"),
        ("a: [", "is not readable YAML"),
        ("", "must hold settings"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=sentence) as error:
            resolve(config=file)
        assert "\n" not in str(error.value)


def test_a_task_that_is_no_name(tmp_path):
    (tmp_path / "a.yaml").write_text("task: [segmentation]")
    with pytest.raises(UserError, match="unknown task"):
        resolve(config=tmp_path / "a.yaml")


def test_nothing_to_go_by(tmp_path):
    with pytest.raises(UserError, match="give --recipe NAME"):
        resolve()
    with pytest.raises(UserError, match="there is no configuration file"):
        resolve(config=tmp_path / "none.yaml")
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"recipe": "demo"}))
    with pytest.raises(UserError, match="disagree"):
        resolve(recipe="camvid", config=tmp_path / "a.yaml")
