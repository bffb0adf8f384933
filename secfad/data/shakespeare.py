"""Plays by speaking role: one client per role, from a local text file.

The file has one speech per block, blocks apart by a blank line, each `NAME:` and then its text.
Blocks without text are left out, and a role's speeches from all plays are joined. It is the user's
file: nothing is downloaded. These are not the clients of LEAF or TFF: another edition, and roles of
the same name are merged across plays.

Source: the layout of the `tinyshakespeare` text.
"""

from pathlib import Path

import numpy as np

from secfad.data.errors import FormatError

_LEAST_NAMED = 0.9


def roles(path: str | Path, *, min_characters: int = 0) -> dict[str, str]:
    """Role name to everything that it says, in the order of the names.

    Args:
      path: The text file, in UTF-8.
      min_characters: Roles that say less are left out.

    Raises:
      FormatError: Fewer than nine tenths of the blocks begin with a name and a colon.
    """
    blocks = [b for b in Path(path).read_text("utf-8").split("\n\n") if b.strip()]
    spoken: dict[str, list[str]] = {}
    named = 0
    for block in blocks:
        first, _, text = block.strip("\n").partition("\n")
        if not first.endswith(":") or len(first) < 2:
            continue
        named += 1
        if text:
            spoken.setdefault(first[:-1], []).append(text)
    if not named or named < _LEAST_NAMED * len(blocks):
        raise FormatError(
            f"Expected speeches that begin with a line `NAME:` in {path}, got {named} such blocks of "
            f"{len(blocks)}. Separate speeches by blank lines."
        )
    joined = {name: "\n".join(spoken[name]) for name in sorted(spoken)}
    return {name: text for name, text in joined.items() if len(text) >= min_characters}


def vocabulary(texts: dict[str, str]) -> str:
    """All symbols, sorted; a symbol's place is its number."""
    return "".join(sorted(set("".join(texts.values()))))


def windows(text: str, symbols: str, context: int) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of `context` symbols and of the next one, at every place of a text.

    Returns:
      int32 arrays of shapes (rows, context) and (rows,).

    Raises:
      FormatError: The text holds a symbol that is not among `symbols`.
    """
    unknown = set(text) - set(symbols)
    if unknown:
        raise FormatError(f"Expected symbols of the vocabulary only, got also {sorted(unknown)}.")
    numbers = {symbol: index for index, symbol in enumerate(symbols)}
    codes = np.array([numbers[symbol] for symbol in text], np.int32)
    if len(codes) <= context:
        return np.zeros((0, context), np.int32), np.zeros(0, np.int32)
    rows = np.lib.stride_tricks.sliding_window_view(codes, context + 1)
    return rows[:, :-1].copy(), rows[:, -1].copy()
