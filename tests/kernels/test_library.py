"""The kernels are built once, told of once where they cannot be, and never stand in where they must not."""

import subprocess
import sys
import warnings

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from densevit.kernels import library as module


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """`library` as in a new process with an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    module.library.cache_clear()
    yield module.library
    module.library.cache_clear()


def test_built_once_and_found_again(fresh, tmp_path, monkeypatch):
    assert fresh() is not None
    built = list((tmp_path / "densevit").iterdir())
    assert [path.suffix for path in built] == [".so"]
    monkeypatch.setattr(subprocess, "run", None)
    fresh.cache_clear()
    assert fresh() is not None


def test_switched_off(fresh, monkeypatch):
    monkeypatch.setenv("DENSEVIT_KERNELS", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fresh() is None
    assert not module.usable(torch.zeros(1, 8))


def test_without_a_compiler(fresh, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.warns(UserWarning, match=r"no C\+\+ compiler.*DENSEVIT_KERNELS=0"):
        assert fresh() is None


def test_without_a_home_folder(fresh, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(module.Path, "home", no_home)
    with pytest.warns(UserWarning, match="Could not determine home directory"):
        assert fresh() is None


def test_compiler_with_arguments(fresh, monkeypatch):
    compiler = module.shutil.which("c++")
    if compiler is None:
        pytest.skip("no compiler")
    monkeypatch.setenv("CXX", f"env {compiler} -w")
    assert fresh() is not None


@pytest.mark.parametrize("given", [" ", "g++'"])
def test_no_command(given, fresh, monkeypatch):
    monkeypatch.setenv("CXX", given)
    with pytest.warns(UserWarning, match=r"no C\+\+ compiler"):
        assert fresh() is None


def test_compiler_that_fails(fresh, monkeypatch, tmp_path):
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\necho 'no such flag' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.warns(UserWarning, match="failed: no such flag"):
        assert fresh() is None
    assert list((tmp_path / "densevit").iterdir()) == []


def test_cache_folder_that_cannot_be_written(fresh, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="without its CPU kernels"):
        assert fresh() is None


def test_taken_for_float32_that_is_run_now():
    x = torch.zeros(1, 8)
    assert module.usable(x)
    assert not module.usable(x, x.double())
    assert not module.usable(x.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):  # a linear layer between two kernels would give them bfloat16
        assert not module.usable(x)
    with FlopCounterMode(display=False):
        assert not module.usable(x)
    torch.vmap(lambda row: torch.zeros(()).fill_(module.usable(row)))(x)
    assert torch.vmap(lambda row: row * module.usable(row) + 1)(x).eq(1).all()


def test_import_compiles_nothing(tmp_path):
    code = "import densevit, sys; from densevit.kernels.library import library; assert library.cache_info().misses == 0"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def interpreted(monkeypatch):
    """As with Triton's interpreter, and as in a new process."""
    kernels = module.gpu_kernels
    monkeypatch.setattr(module, "INTERPRETED", True)
    kernels.cache_clear()
    yield
    kernels.cache_clear()


def test_gpu_kernels_switched_off(interpreted, monkeypatch):
    monkeypatch.setenv("DENSEVIT_KERNELS", "0")
    assert not module.usable(torch.zeros(1, 8))


def test_without_triton(interpreted, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(module.importlib, "import_module", missing)
    with pytest.warns(UserWarning, match=r"without its GPU kernels.*Triton cannot run: No module.*DENSEVIT_KERNELS=0"):
        assert not module.usable(torch.zeros(1, 8))


def test_a_failure_without_a_message(interpreted, monkeypatch):
    def fail(name):
        raise RuntimeError

    monkeypatch.setattr(module.importlib, "import_module", fail)
    with pytest.warns(UserWarning, match="Triton cannot run: RuntimeError"):
        assert not module.usable(torch.zeros(1, 8))


def test_gpu_kernels_take_bfloat16_and_autocast_to_it(interpreted, monkeypatch):
    monkeypatch.setattr(module, "gpu_kernels", lambda device: module)
    x = torch.zeros(1, 8)
    assert module.usable(x)
    assert module.usable(x, x.bfloat16())
    assert not module.usable(x, x.half())
    with torch.autocast("cpu", torch.bfloat16):
        assert module.usable(x)
    with torch.autocast("cpu", torch.float16):
        assert not module.usable(x)
