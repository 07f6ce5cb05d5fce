"""Numbers that are no numbers: the sentence, and which tensor is named."""

import pytest
import torch
from torch import nn

from densevit.errors import UserError
from densevit.training.fit import fit
from densevit.training.nan_guard import first_bad_tensor
from densevit.training.segmentation import SegmentationTask


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def test_the_first_bad_tensor():
    images = torch.ones(2, 3)
    assert first_bad_tensor(network(), images) == "the loss itself"
    assert first_bad_tensor(network(), images * torch.nan) == "the input images"
    model = network()
    model[2].weight.data[0, 1] = torch.inf
    assert first_bad_tensor(model, images) == "parameter 2.weight"
    model = network()
    model[0].weight.data.fill_(3e38)
    assert first_bad_tensor(model, images) == "output of 0 (Linear)"


def test_training_stops_and_the_checkpoint_before_is_intact(tiny, tmp_path, monkeypatch):
    step = SegmentationTask.training_step

    def poisoned(self, batch, batch_idx):
        if self.trainer.global_step == 3:  # the update after the first validation but one
            with torch.no_grad():
                self.model.decoder.classifier.weight[0, 0] = torch.nan
        return step(self, batch, batch_idx)

    monkeypatch.setattr(SegmentationTask, "training_step", poisoned)
    with pytest.raises(
        UserError, match=r"the loss became nan at step 4 .*parameter decoder\.classifier\.weight"
    ) as error:
        fit(tiny(train={"log_every_steps": 50}), tmp_path / "run")  # seen before the next validation all the same
    assert "\n" not in str(error.value)
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 2
    assert all(torch.isfinite(value).all() for value in last["state_dict"].values() if value.is_floating_point())


def test_weights_damaged_by_the_last_update_reach_no_checkpoint(tiny, tmp_path, monkeypatch):
    done = SegmentationTask.on_train_batch_end

    def damage(self, outputs, batch, batch_idx):
        done(self, outputs, batch, batch_idx)
        with torch.no_grad():
            self.model.decoder.classifier.bias.fill_(torch.inf)

    monkeypatch.setattr(SegmentationTask, "on_train_batch_end", damage)
    with pytest.raises(UserError, match=r"weights became .* at step 1 .*parameter decoder\.classifier\.bias"):
        fit(tiny(train={"log_every_steps": 50, "val_every_steps": 1, "accumulate": 1}), tmp_path / "run")
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
