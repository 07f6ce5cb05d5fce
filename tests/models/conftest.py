"""What the tests of models share."""

import pytest
import torch


@pytest.fixture
def assert_trained_alike():
    """Two modules, an input and an output of each: outputs, gradients of one backward pass and buffers are equal."""

    def check(modules, inputs, outputs):
        torch.testing.assert_close(*outputs)
        grad = torch.randn_like(outputs[0])
        for output in outputs:
            output.backward(grad)
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
        for a, b in zip(*(module.parameters() for module in modules), strict=True):
            torch.testing.assert_close(a.grad, b.grad)
        for a, b in zip(*(module.buffers() for module in modules), strict=True):
            torch.testing.assert_close(a, b)

    return check
