"""Devices and number types by name."""

import pytest
import torch

from densevit.errors import UserError
from densevit.inference.device import autocast, choose_device, choose_dtype


def test_names():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device(torch.device("cpu")) == torch.device("cpu")
    assert choose_device(None).type in ("cpu", "cuda", "mps")
    assert choose_dtype("bfloat16") == choose_dtype(torch.bfloat16) == torch.bfloat16


def test_mistakes_are_named():
    with pytest.raises(UserError, match="did you mean 'cuda'"):
        choose_device("cuda0")
    with pytest.raises(UserError, match="'cuda:99' is not available"):
        choose_device("cuda:99")
    with pytest.raises(UserError, match="did you mean 'bfloat16'"):
        choose_dtype("bfloat")
    with pytest.raises(UserError, match="unknown dtype 'int64'"):
        choose_dtype(torch.int64)


def test_autocast():
    a = torch.rand(3, 3)
    with autocast(torch.device("cpu"), torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
    with autocast(torch.device("cpu"), torch.float32):
        assert (a @ a).dtype == torch.float32
