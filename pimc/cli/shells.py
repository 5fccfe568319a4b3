"""How shells ask for completions, and the scripts that make them ask.

click's own scripts add a space behind `batch=`, bash's takes words apart at `=` and `:`, fish's at commas.
"""

from __future__ import annotations

import os
from typing import Any

from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

GOES_ON = "=.:,"
"""Behind these a word goes on: no space is added."""


class Bash(BashComplete):
    """The line up to the cursor as it was typed; replies go on where bash has broken the last word."""

    source_template = """\
%(complete_func)s() {
    local IFS=$'\\n' kind value each
    COMPREPLY=()
    for each in $(COMP_WORDS="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" \\
            %(complete_var)s=bash_complete "$1" 2>/dev/null); do
        IFS=',' read -r kind value <<< "$each"
        case $kind in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            open) compopt -o nospace; COMPREPLY+=("$value") ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_WORDS"]
        words = split_arg_string(line)
        incomplete = "" if line[-1:].isspace() or len(words) < 2 else words.pop()
        self._kept = _broken_at(line, incomplete)
        return words[1:], incomplete

    def format_completion(self, item: CompletionItem[Any]) -> str:
        value = str(item.value)
        return f"{_kind(item)},{value[self._kept :]}"


def _broken_at(line: str, word: str) -> int:
    """How much of the last word of a line bash leaves alone: up to the last sign that breaks words, unless quoted."""
    before = line[: -len(word)] if word and line.endswith(word) else ""
    if before[-1:] in ("'", '"'):
        return 0
    return 1 + max((word.rfind(sign) for sign in os.environ.get("COMP_WORDBREAKS", "")), default=-1)


def _kind(item: CompletionItem[Any]) -> str:
    return "open" if item.type == "plain" and str(item.value)[-1:] in GOES_ON else item.type


class Zsh(ZshComplete):
    source_template = """\
#compdef %(prog_name)s

%(complete_func)s() {
    local -a said told plain open
    local kind value help
    said=("${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) \\
        %(complete_var)s=zsh_complete %(prog_name)s 2>/dev/null)}")
    for kind value help in ${said}; do
        case $kind in
            dir) _path_files -/ ;;
            file) _path_files -f ;;
            open) open+=("$value") ;;
            plain) [[ $help == _ ]] && plain+=("$value") || told+=("$value:$help") ;;
        esac
    done
    (( $#told )) && _describe -V unsorted told -U
    (( $#plain )) && compadd -U -V unsorted -a plain
    (( $#open )) && compadd -U -V unsorted -S '' -a open
    return 0
}
compdef %(complete_func)s %(prog_name)s
"""

    def format_completion(self, item: CompletionItem[Any]) -> str:
        _, _, rest = super().format_completion(item).partition("\n")
        return f"{_kind(item)}\n{rest}"


class Fish(FishComplete):
    source_template = """\
function %(complete_func)s
    for each in (env %(complete_var)s=fish_complete COMP_WORDS=(commandline -cp | string collect) \\
            COMP_CWORD=(commandline -ct | string collect) %(prog_name)s 2>/dev/null)
        set -l said (string split -m 1 "," -- $each)
        switch $said[1]
            case dir
                __fish_complete_directories $said[2]
            case file
                __fish_complete_path $said[2]
            case plain
                echo $said[2]
        end
    end
end
complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""


KINDS = {kind.name: kind for kind in (Bash, Zsh, Fish)}


def register() -> None:
    """Let click answer these shells by these classes."""
    for kind in KINDS.values():
        add_completion_class(kind)
