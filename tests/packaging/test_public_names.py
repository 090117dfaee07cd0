"""Every exported name exists, once, in order; `import ciuic` needs numpy and nothing else."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

from ciuic.cli.extras import extra_of_module

PACKAGES = ("ciuic", "ciuic_host", "ciuic_hw", "ciuic_sim")

BLOCKER = """
import sys

class Blocker:
    allowed = {*sys.stdlib_module_names, "numpy", *sys.argv[2:]}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in self.allowed:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

sys.meta_path.insert(0, Blocker())
__import__(sys.argv[1])
"""


def modules() -> list[str]:
    names = list(PACKAGES)
    for package in PACKAGES:
        path = importlib.import_module(package).__path__
        names += [found.name for found in pkgutil.walk_packages(path, f"{package}.")]
    return [name for name in names if not name.endswith("__main__")]


def in_order(name: str) -> tuple[int, str]:
    """Return the key of the order that ruff keeps: constants, classes, functions."""
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2, name)


@pytest.mark.parametrize("name", modules())
def test_exported_names_exist_and_are_sorted(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        extra = extra_of_module(str(error.name))
        if extra is None:  # no package that may be absent
            raise
        pytest.skip(f"needs {error.name}: {extra.install}")
    exported = getattr(module, "__all__", [])
    assert [word for word in exported if not hasattr(module, word)] == []
    assert len(set(exported)) == len(exported)
    assert list(exported) == sorted(exported, key=in_order)


def test_the_library_has_a_public_surface() -> None:
    import ciuic

    assert ciuic.__all__


@pytest.mark.parametrize(
    ("package", "beside"),
    [
        ("ciuic", []),
        ("ciuic.cli", ["ciuic"]),
        ("ciuic_host", ["ciuic"]),
        ("ciuic_host.pynq", ["ciuic"]),
    ],
)
def test_import_needs_numpy_only(package: str, beside: list[str]) -> None:
    own = package.partition(".")[0]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKER, package, own, *beside], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_blocker_blocks() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKER, "pytest"], capture_output=True, text=True)
    assert "blocked: pytest" in done.stderr
