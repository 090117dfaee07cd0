"""Download SmolLM2-135M-Instruct into the cache folder, if need be, and verify its checksum."""

from __future__ import annotations

import argparse

from . import output

EXAMPLES = """
ciuic fetch
XDG_CACHE_HOME=/big/disk ciuic fetch
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ciuic fetch``."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Fetch the model and print where it is."""
    from ciuic.models.fetch import fetch_smollm2

    with output.progress() as report:
        path = fetch_smollm2(report)
    if arguments.json:
        output.print_json({"path": path})
    else:
        print(path)
    return 0
