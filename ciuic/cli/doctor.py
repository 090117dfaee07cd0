"""Show what is installed, what is missing and for what, and the command that mends it.

Exit status 0 if everything that the roles need is there, otherwise 1.
"""

from __future__ import annotations

import argparse

from . import checks, output

EXAMPLES = """
ciuic doctor                  every role that this machine can have
ciuic doctor --for simulate   only what RTL simulation needs
ciuic doctor --for build      what builds for boards, AMD's and openXC7's programs included
ciuic doctor --json           for programs
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ciuic doctor``."""
    parser.add_argument(
        "--for",
        dest="roles",
        metavar="ROLE",
        action="append",
        choices=list(checks.ROLES),
        help=f"check for this role only: {', '.join(checks.ROLES)}; may be given several times",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the checks; return 1 if one failed."""
    found = checks.examine(arguments.roles or checks.roles_here())
    failed = [check for check in found if not check.ok]
    if arguments.json:
        output.print_json({"ok": not failed, "checks": found})
        return 1 if failed else 0
    output.print_table(
        [
            {"": "ok" if check.ok else "MISSING", "for": check.role, "what": check.what}
            | {"found": check.found}
            for check in found
        ]
    )
    if failed:
        print("\nmend with:")
        for command in dict.fromkeys(check.mend for check in failed if check.mend):
            print(f"  {command}")
    return 1 if failed else 0
