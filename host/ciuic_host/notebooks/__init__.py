"""The notebooks, where ``pynq get-notebooks ciuic`` finds them (entry point ``pynq.notebooks``).

A wheel holds them beside this module, a checkout in ``host/notebooks``. That folder comes first in
``__path__``, which is where PYNQ copies from.
"""

from pathlib import Path

_CHECKOUT = Path(__file__).parents[2] / "notebooks"
if _CHECKOUT.is_dir():
    __path__.insert(0, str(_CHECKOUT))
