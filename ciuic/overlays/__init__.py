"""What was built for boards: bitstreams, reports, and the manifest of them.

A wheel holds these files beside this module, a checkout in ``bitstreams/``. That folder comes first
in ``__path__``, where PYNQ looks for them (entry point ``pynq.overlays``).
"""

from pathlib import Path

from .manifest import MANIFEST, Entry, read_manifest, sha256_of, write_manifest

__all__ = [
    "FOLDER",
    "MANIFEST",
    "Entry",
    "read_manifest",
    "sha256_of",
    "write_manifest",
]

_ROOT = Path(__file__).parents[2]  # of a checkout
FOLDER = _ROOT / "bitstreams" if (_ROOT / "pyproject.toml").is_file() else Path(__file__).parent
"""The folder."""

if not FOLDER.samefile(__path__[0]):
    __path__.insert(0, str(FOLDER))
