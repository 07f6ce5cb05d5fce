"""Reading files of weights: wrappers, damage, unsafe pickles, URLs and their cache."""

from urllib.error import URLError

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from densevit.errors import UserError
from densevit.weights.files import read_tensors
from densevit.weights.rename import fold_conv_biases, rename

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.bias": torch.ones(2)}


def assert_tensors(found):
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


@pytest.mark.parametrize(
    "content",
    [
        TENSORS,
        {"state_dict": TENSORS, "epoch": 3},
        {"model": TENSORS, "optimizer": {"lr": 0.1}},
        {"state_dict": {"module": TENSORS}},
        {f"module.{name}": tensor for name, tensor in TENSORS.items()},
        {"state_dict": {f"model.{name}": tensor for name, tensor in TENSORS.items()}},
    ],
)
def test_pth_with_its_wrappers(tmp_path, content):
    torch.save(content, tmp_path / "ünicode name.pth")
    assert_tensors(read_tensors(tmp_path / "ünicode name.pth"))


def test_safetensors_and_npz(tmp_path):
    save_file(TENSORS, tmp_path / "a.safetensors")
    assert_tensors(read_tensors(str(tmp_path / "a.safetensors")))
    np.savez(tmp_path / "a.npz", **{name: tensor.numpy() for name, tensor in TENSORS.items()})
    assert_tensors(read_tensors(tmp_path / "a.npz"))


class Surprise:
    def __reduce__(self):
        return (print, ("code in a checkpoint was run",))


def test_code_in_a_checkpoint_is_not_run(tmp_path, capsys):
    torch.save({"state_dict": TENSORS, "hook": Surprise()}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="no checkpoint of tensors that can be read safely"):
        read_tensors(tmp_path / "a.pth")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a.npz"])
@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", b"PK\x03\x04 cut short"])
def test_damaged_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name) as caught:
        read_tensors(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_missing_files_and_files_without_names(tmp_path):
    with pytest.raises(UserError, match=r"no weights file at .*vit\.pth"):
        read_tensors(tmp_path / "vit.pth")
    torch.save([torch.ones(3)], tmp_path / "list.pth")
    with pytest.raises(UserError, match="holds no tensors by name"):
        read_tensors(tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    with pytest.raises(UserError, match="holds no tensors by name"):
        read_tensors(tmp_path / "epoch.pth")


def test_urls_are_fetched_once_and_their_hash_is_asked_for(tmp_path, monkeypatch):
    calls = []

    def fetch(url, path, *, hash_prefix):
        calls.append((url, hash_prefix))
        torch.save(TENSORS, path)

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    url = "https://example.org/weights/jx_vit_large_p16_384-b3be5167.pth?download=1"
    assert_tensors(read_tensors(url))
    assert_tensors(read_tensors(url))
    assert calls == [(url, "b3be5167")]
    assert (tmp_path / "checkpoints" / "jx_vit_large_p16_384-b3be5167.pth").is_file()


@pytest.mark.parametrize("error", [URLError("no route"), RuntimeError("invalid hash value")])
def test_failed_downloads(tmp_path, monkeypatch, error):
    def fetch(*args, **kwargs):
        raise error

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    with pytest.raises(UserError, match=r"cannot download https://example.org/a\.pth"):
        read_tensors("https://example.org/a.pth")


def test_rename_takes_the_first_rule_for_whole_names():
    rules = [(r"a\.(.+)", r"x.\1"), (r"a\.weight", "never"), (r"b", "never"), (r"b\.(.+)", lambda m: m[1].upper())]
    renamed, unused = rename(TENSORS | {"c": TENSORS["b.bias"]}, rules)
    assert list(renamed) == ["x.weight", "BIAS"]
    assert unused == ["c"]


def test_conv_bias_folds_into_the_norm_behind_it():
    conv, norm = torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4)
    norm.running_mean.normal_()
    block = torch.nn.Sequential(conv, norm, torch.nn.ReLU()).eval()
    images = torch.randn(2, 3, 5, 7)
    folded = fold_conv_biases({f"x.{name}": tensor for name, tensor in block.state_dict().items()})
    assert "x.0.bias" not in folded
    assert torch.equal(folded["x.1.bias"], norm.bias)  # the norm's own bias stays
    plain = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1, bias=False), torch.nn.BatchNorm2d(4), block[2])
    plain.load_state_dict({name.removeprefix("x."): tensor for name, tensor in folded.items()})
    torch.testing.assert_close(plain.eval()(images), block(images))
