"""One sentence for a user's mistake, however deep it was found."""

import pytest
from torch.utils.data import DataLoader, Dataset

from densevit.cli.main import _sentence
from densevit.errors import UserError


class Broken(Dataset[int]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise UserError("mask a.png has label 200: correct the mask")


def test_an_error_of_a_loading_process_loses_its_traceback() -> None:
    with pytest.raises(UserError) as caught:
        list(DataLoader(Broken(), num_workers=1))
    assert "Traceback" in str(caught.value)
    assert _sentence(caught.value) == "mask a.png has label 200: correct the mask"


def test_files_are_named() -> None:
    assert _sentence(PermissionError(13, "Permission denied", "runs/a")) == "runs/a: Permission denied"
