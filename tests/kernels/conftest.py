"""The kernels are tested where they can be built, on one thread and on more."""

import pytest
import torch

from densevit.kernels.library import library


@pytest.fixture(autouse=True, params=[1, 3])
def threads(request):
    if library() is None:
        pytest.skip("no compiler for the kernels, see the warning of densevit.kernels.library")
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
