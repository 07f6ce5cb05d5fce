"""Augmentation that follows from the seed and a sample's place in the training stream, and from nothing else."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int, position: int) -> Iterator[None]:
    """Within it, torch's, Python's and numpy's generators draw what belongs to this position.

    Torch's own state is put back afterwards; the other two are used for augmentation only.
    """
    state = int(np.random.SeedSequence((seed, position)).generate_state(1)[0])
    with torch.random.fork_rng(devices=[]):  # a worker's own generator, or the main process's: left as it was
        torch.manual_seed(state)
        random.seed(state)
        np.random.seed(state)
        yield
