"""Signals while training: what the first does, what the second does, and that handlers are put back."""

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from densevit.training.callbacks import SIGNALS, StopOnSignal, Stopped


@dataclass
class Trainer:
    """As much of Lightning's trainer as the callback looks at."""

    world_size: int = 1
    training: bool = True
    global_step: int = 7
    saved: list = field(default_factory=list)

    def save_checkpoint(self, path):
        self.saved.append(path)


@pytest.fixture
def stop():
    return StopOnSignal(Path("last.ckpt"), accumulate=2)


def play(stop, trainer, *events):
    """Run `events` in order inside the callback's context: "start", "train 2", "validate 0", or a signal."""
    with stop:
        for event in events:
            if isinstance(event, signal.Signals):
                os.kill(os.getpid(), event)
            elif event == "start":
                stop.on_train_start(trainer, None)
            elif event.startswith("train"):
                stop.on_train_batch_start(trainer, None, None, int(event.split()[1]))
            else:
                stop.on_validation_batch_start(trainer, None, None, int(event.split()[1]))


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_saves_between_two_updates(stop, number):
    trainer = Trainer()
    play(stop, trainer, "start", "train 0", number, "train 1")  # 1 is in the middle of an update of two batches
    assert not trainer.saved
    with pytest.raises(Stopped, match="stopped at step 7"):
        play(stop, trainer, "train 2")
    assert trainer.saved == [Path("last.ckpt")]


def test_in_validation_too(stop):
    trainer = Trainer(training=False)
    with pytest.raises(Stopped):
        play(stop, trainer, "start", "validate 0", signal.SIGINT, "validate 1")
    assert trainer.saved == [Path("last.ckpt")]


def test_the_second_signal_ends_at_once(stop):
    with pytest.raises(KeyboardInterrupt):
        play(stop, Trainer(), "start", signal.SIGINT, signal.SIGINT)


def test_before_training_there_is_nothing_to_save(stop):
    trainer = Trainer()
    with pytest.raises(KeyboardInterrupt):
        play(stop, trainer, "validate 0", signal.SIGINT)  # in the check before training
    assert not trainer.saved


def test_handlers_are_put_back(stop):
    before = [signal.getsignal(number) for number in SIGNALS]
    with stop:
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_several_devices_stop_together(stop):
    """In training they agree on the step; in validation, where each has its own images, none stops alone."""

    class Strategy:
        asked: list = []  # noqa: RUF012

        def reduce_boolean_decision(self, decision, all):
            self.asked.append(decision)
            return True

    trainer = Trainer(world_size=2)
    trainer.strategy = Strategy()
    with pytest.raises(Stopped):
        play(stop, trainer, "start", "train 0")
    assert trainer.strategy.asked == [False]
    trainer.training = False
    play(stop, trainer, signal.SIGINT, "validate 0")
