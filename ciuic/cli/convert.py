"""Write a model's weights as devices take them, once, into a folder that loads without work.

The folder holds the quantized weights, memory-mapped when a model is loaded from it, with its
configuration and tokenizer, and the sha256 of every file, which --check compares. It writes the
same tokens as the model that it was made of.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ciuic.errors import UsageError

from . import output

EXAMPLES = """
ciuic convert smollm2-135m-instruct -o smollm2-int8
ciuic run smollm2-int8 --prompt "What is an FPGA?"
ciuic convert smollm2-135m-instruct -o smollm2-int4 --format int4
ciuic run smollm2-int4 --prompt "What is an FPGA?"
ciuic convert smollm2-int8 --check
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ciuic convert``."""
    parser.add_argument("model", help="a model as `ciuic run` takes it; with --check a folder")
    parser.add_argument("-o", "--output", metavar="FOLDER", help="where to write")
    parser.add_argument(
        "--format", default="int8", choices=["int8", "int4"], help="of linear layers (%(default)s)"
    )
    parser.add_argument("--force", action="store_true", help="replace a converted model")
    parser.add_argument("--check", action="store_true", help="compare the files' checksums")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Convert or check, and print where and how much."""
    from ciuic.models.converted import check_target, convert, verify
    from ciuic.models.loading import load_model

    if arguments.check == (arguments.output is not None):
        raise UsageError("either --output FOLDER or --check must be given")
    folder = Path(arguments.model if arguments.check else arguments.output)
    with output.progress() as report:
        if arguments.check:
            verify(folder, report)
        else:
            check_target(folder, force=arguments.force)
            with load_model(arguments.model, quantize=arguments.format) as model:
                convert(model, folder, form=arguments.format, force=arguments.force, report=report)
    nbytes = sum(path.stat().st_size for path in folder.iterdir())
    if arguments.json:
        output.print_json({"path": folder, "bytes": nbytes, "checked": arguments.check})
    else:
        print(f"{folder}: {nbytes / 1e6:,.0f} MB{', as it was written' * arguments.check}")
    return 0
