"""``farrier completion SHELL``: prints the script that shtab made from the command line's own parser.

The scripts are made when the command line changes (``make completions``) and shipped, so that a host
needs no extra package; a test holds them against the parser.
"""

from __future__ import annotations

import argparse
from importlib.resources import files

SHELLS = ("bash", "zsh", "fish")

WHERE = {
    "bash": "farrier completion bash > /etc/bash_completion.d/farrier",
    "zsh": "farrier completion zsh > /usr/local/share/zsh/site-functions/_farrier",
    "fish": "farrier completion fish > ~/.config/fish/completions/farrier.fish",
}


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "completion",
        help="print the completion script for a shell",
        description="Prints a completion script. To install it:\n"
        + "\n".join(f"  {line}" for line in WHERE.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=SHELLS)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    print(script(args.shell), end="")
    return 0


def script(shell: str) -> str:
    """The shipped completion script of one shell."""
    return files("farrier.cli").joinpath("completions").joinpath(f"farrier.{shell}").read_text()
