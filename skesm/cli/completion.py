"""``skesm completion``: scripts that complete commands and options in shells, made from the parsers themselves."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from skesm.cli.arguments import HelpFormatter, examples

if TYPE_CHECKING:
    from skesm.cli.arguments import Commands

_HOW = """
Add it to your shell's start-up file:

  bash   eval "$(skesm completion bash)"      in ~/.bashrc
  zsh    eval "$(skesm completion zsh)"       in ~/.zshrc, after compinit
  fish   skesm completion fish | source       in ~/.config/fish/config.fish
"""


@dataclass(frozen=True)
class Command:
    """A command or action, and the words that may follow it.

    Attributes
    ----------
    path : tuple of str
        ``("cache", "merge")``. Empty for the program.
    parser : ArgumentParser
    options : dict of str to (list of str, bool)
        Its options, with their values, and whether one must follow.
    words : list of str
        Its actions, or the values of its first argument.
    """

    path: tuple[str, ...]
    parser: argparse.ArgumentParser
    options: dict[str, tuple[list[str], bool]] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)


def commands_of(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[Command]:
    """A parser's command, and those below it."""
    command = Command(path, parser)
    below: list[tuple[str, argparse.ArgumentParser]] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            below += list(action.choices.items())
        elif action.option_strings:
            takes_value = action.nargs != 0
            for option in action.option_strings:
                command.options[option] = ([str(choice) for choice in action.choices or ()], takes_value)
        elif action.choices:
            command.words.extend(map(str, action.choices))
    command.words.extend(name for name, _ in below)
    yield command
    for name, each in below:
        yield from commands_of(each, (*path, name))


def add_completion(commands: Commands, root: argparse.ArgumentParser) -> None:
    """Add the command ``completion``, for the commands of `root`."""
    parser = commands.add_parser(
        "completion",
        help="print a script that completes commands and options in a shell",
        description=f"Print a script that completes commands and options in a shell.\n{_HOW}",
        epilog=examples("completion bash"),
        formatter_class=HelpFormatter,
    )
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    parser.set_defaults(run=lambda args: print(script(args.shell, list(commands_of(root)))))


def script(shell: str, commands: list[Command]) -> str:
    """The script for a shell."""
    if shell == "fish":
        return "\n".join(_fish(commands))
    lines = list(_bash(commands))
    if shell == "zsh":
        lines = ["autoload -U +X bashcompinit && bashcompinit", *lines]
    return "\n".join(lines)


def _bash(commands: list[Command]) -> Iterator[str]:
    """Zsh runs the same function, by its bashcompinit."""
    yield "_skesm() {"
    yield '    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" place="" each'
    yield '    for each in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do'
    yield '        case "$place $each" in'
    known = "|".join(f'"{" ".join(("", *command.path))}"' for command in commands if command.path)
    yield f'            {known}) place="$place $each" ;;'
    yield "        esac"
    yield "    done"
    yield '    case "$place $before" in'
    for command in commands:
        for option, (choices, takes_value) in command.options.items():
            if takes_value:
                place = " ".join(("", *command.path, option))
                words = f'compgen -W "{" ".join(choices)}"' if choices else "compgen -f"
                yield f'        "{place}") COMPREPLY=($({words} -- "$word")); return ;;'
    yield "    esac"
    yield '    case "$place" in'
    for command in commands:
        words = " ".join([*command.words, *command.options])
        place = " ".join(("", *command.path)) if command.path else ""
        yield f'        "{place}") COMPREPLY=($(compgen -W "{words}" -- "$word")) ;;'
    yield "    esac"
    yield '    if [ ${#COMPREPLY[@]} -eq 0 ]; then COMPREPLY=($(compgen -f -- "$word")); fi'
    yield "}"
    yield "complete -o filenames -F _skesm skesm"


def _fish(commands: list[Command]) -> Iterator[str]:
    for command in commands:
        below = [each.path[-1] for each in commands if each.path[:-1] == command.path and each.path]
        condition = " and ".join(f"__fish_seen_subcommand_from {word}" for word in command.path)
        if not command.path:
            condition = "__fish_use_subcommand"
        elif below:
            condition += f" and not __fish_seen_subcommand_from {' '.join(below)}"
        condition = condition.replace(" and ", "; and ")
        for word in command.words:
            yield f"complete -c skesm -f -n '{condition}' -a {word}"
        for option, (choices, takes_value) in command.options.items():
            kind = f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
            values = f" -x -a '{' '.join(choices)}'" if choices else " -r" if takes_value else ""
            yield f"complete -c skesm -n '{condition}' {kind}{values}"
