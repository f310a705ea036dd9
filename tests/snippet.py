"""Python of a user's own as a command, ``main([code])``: run on several ranks, its errors said, as any other."""

from __future__ import annotations


def main(argv: list[str] | None = None) -> None:
    for code in argv or []:
        exec(compile(code, "snippet", "exec"), {"__name__": "snippet"})
