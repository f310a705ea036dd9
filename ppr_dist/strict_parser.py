"""A parser of options whose errors are one line each, that names the option as it is typed."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from argparse import SUPPRESS, Action
from collections.abc import Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, set_parsing_settings

from ppr_dist.errors import UserError
from ppr_dist.files import require_single_keys

MISSING = "the following arguments are required: "


class Help(DefaultHelpFormatter):
    """An option as it is typed, what it takes, the docstring of its field, its default."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _format_action_invocation(self, action: Action) -> str:
        return ", ".join(typed(name) for name in action.option_strings if name[-1] != "+") + takes(action)

    def _get_help_string(self, action: Action) -> str:
        said = (action.help or "").replace("``", "")
        if action.required:
            return f"{said} (required)"
        default = action.default
        if default is None or default is False or default == SUPPRESS or default in ([], {}):
            return said
        words = default if isinstance(default, list) else [default]
        return f"{said} (default: {' '.join('true' if word is True else str(word) for word in words)})"


class StrictParser(ArgumentParser):
    """A parser whose errors are :class:`UserError`, and whose options are written as everywhere else.

    ``--my-option`` for ``--my_option``, a bool as a flag (``--resume``), a list as words (``--task few-shot joint``).
    The docstring under a field is the help of its option.
    """

    positional: str | None = None
    """The option that a word without one in front is for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        set_parsing_settings(docstring_parse_attribute_docstrings=True)
        super().__init__(*args, allow_abbrev=False, add_help=False, formatter_class=Help, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        cause: BaseException | None = ex
        while cause is not None:
            if isinstance(cause, UserError):
                raise cause
            cause = cause.__cause__ or cause.__context__
        said = " ".join(str(message).split()).replace("typing.", "")
        # As options are written, not as jsonargparse calls them.
        said = re.sub(r'Parser key "([\w.]+)"', lambda key: typed(key[1]), said)
        said = re.sub(r"Group '(\w+)' does not accept option '([^']+)'", r"--\1.\2: no such option", said)
        said = re.sub(r"^unrecognized arguments: --([^\s=]+).*", lambda key: f"{typed(key[1])}: no such option", said)
        said = re.sub(r"^Option '([\w.]+)' is not accepted", lambda key: f"{typed(key[1])}: no such option", said)
        said = re.sub(r"^Option '([\w-]+)' is not accepted", _hyphened, said)
        said = re.sub(r"^--\w+: Unable to load config '.*' - (?=--\w+\.)", "", said)
        said = re.sub(r"argument (--[\w.]+)/\1\+", lambda key: f"argument {typed(key[1])}", said)
        if (names := said.removeprefix(MISSING)) != said:
            said = MISSING + ", ".join(map(typed, names.split(", ")))
        said = re.sub(r"Expected an? (.*?)\. Got value: ", lambda kind: f"expected {_kind(kind[1])}, got ", said)
        any_of = (
            r"Does not validate against any of the Union .* Errors: - Expected an? (.*?) Given value type: .*: (.*)"
        )
        if union := re.search(any_of, said):
            kinds = " or ".join(map(_kind, re.split(" - Expected an? ", union[1])))
            said = f"{said[: union.start()]}expected {kinds}, got {union[2]}"
        raise UserError(said) from ex

    def parse_args(self, args: Sequence[str] | None = None, **kwargs: Any) -> Any:  # type: ignore[override]
        args = sys.argv[1:] if args is None else args
        return super().parse_args(self._with_values([self._underscored(arg) for arg in args]), **kwargs)

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        """Name the file in whatever is wrong with its content."""
        try:
            require_single_keys(Path(path))
            found = super().parse_path(path, *args, **kwargs)
            self._check(found)
            return found
        except UserError as error:
            said = str(error).replace(' in "<unicode string>"', "")
            raise UserError(f"{path}: {said}") from error

    def _check(self, found: Any) -> None:
        """Check a file's own keys and values: jsonargparse checks those of --config after it has forgotten the file."""
        self._refuse_null(found)
        try:
            self.validate(found, skip_required=True)
        except (KeyError, TypeError) as error:
            self.error(str(error), error)

    def _with_values(self, words: list[str]) -> list[str]:
        """Write a flag as ``--flag true`` and the words of a list as one JSON list, as jsonargparse reads them."""
        written: list[str] = []
        alone: list[str] = []
        while words:
            (word, *rest), values = words, []
            if self.positional and not word.startswith("-"):
                alone.append(word)
                words = rest
                continue
            option, equals, value = word.partition("=")
            if equals:
                values.append(value)
            kind = getattr(self._option_string_actions.get(option), "_typehint", None)
            while not equals and rest and not rest[0].startswith("--"):
                if self.positional and (values or (kind is bool and rest[0] not in ("true", "false"))):
                    break  # one word each; the next one stands alone
                values.append(rest.pop(0))
            if kind is bool and not values:
                values = ["true"]
            always = _is_list(kind) and values not in ([], ["null"])
            if (always and not values[0].startswith("[")) or (len(values) > 1 and _may_be_list(kind)):
                values = [json.dumps(values, ensure_ascii=False)]
            written += [f"{option}={values[0]}"] if equals else [option, *values]
            words = rest
        if len(alone) > 1:
            self.error(f"unexpected word: {alone[1]}")
        return [*written, *(f"--{self.positional}={word}" for word in alone)]

    def _underscored(self, argument: str) -> str:
        if not argument.startswith("--"):
            return argument
        name, equals, value = argument.partition("=")
        known = "--" + name[2:].replace("-", "_")
        if known not in self._option_string_actions:
            # A key of the user's own below an option (--buckets.my-column) keeps its hyphens.
            option, dot, key = name[2:].partition(".")
            known = "--" + option.replace("-", "_") + dot + key
            if f"{known}_" in self._option_string_actions:  # a word of Python's: --from is the field from_
                known += "_"
        return known + equals + value

    def build(self, parsed: Any) -> Any:
        """Make the dataclasses of what was parsed; what their own checks raise becomes :class:`UserError`."""
        self._refuse_null(parsed)
        self._refuse_address(parsed)
        try:
            return self.instantiate(parsed)
        except (TypeError, ValueError) as error:
            raise UserError(" ".join(str(error).split())) from error

    def _refuse_null(self, parsed: Any) -> None:
        """Raise :class:`UserError` on null for a value, or a value for a section, which jsonargparse lets pass."""
        for action in self._actions:
            kind, (name, dot, _) = getattr(action, "_typehint", None), action.dest.partition(".")
            if dot and name in parsed and not isinstance(parsed[name], Namespace):
                raise UserError(f"{name}: expected the options of a section, got {json.dumps(parsed.get(name))}")
            given = action.dest in parsed
            if given and kind is not None and NoneType not in get_args(kind) and parsed[action.dest] is None:
                raise UserError(f"{typed(action.dest)}: expected {_kind(str(kind).replace('typing.', ''))}, got null")

    def _refuse_address(self, parsed: Any) -> None:
        """Raise :class:`UserError` on an address where a path is wanted; of paths, "s3://a" is the folder s3:/a."""
        for action in self._actions:
            value = parsed.get(action.dest)
            for path in value if isinstance(value, list) else [value]:
                if isinstance(path, Path) and re.match("[a-z][a-z0-9+.-]+:/", str(path)):
                    raise UserError(
                        f"{typed(action.dest)} {path}: an address; only --data may be one (what is written is there "
                        "once it is renamed, as file systems do it)"
                    )


def typed(key: str) -> str:
    """An option as it is typed: a section's keys as in YAML."""
    name = key.lstrip("-")
    return key if key == "-h" else "--" + (name if "." in name else name.removesuffix("_").replace("_", "-"))


def _hyphened(key: re.Match[str]) -> str:
    return f"{key[1]}: no such option; did you mean {key[1].replace('-', '_')}?"


def takes(action: Action) -> str:
    """What follows an option: `` INT``; nothing where it is a flag."""
    kind = getattr(action, "_typehint", None)
    if kind is None:
        return f" {action.metavar}" if action.metavar else ""
    if get_origin(kind) is dict:
        return f".NAME {_value(get_args(kind)[1])}"
    return "" if kind is bool and not action.default else f" {_value(kind)}"


def _value(kind: Any) -> str:
    inner = [each for each in get_args(kind) if each is not NoneType]
    if get_origin(kind) is Literal:
        return f"{{{','.join(map(str, inner))}}}"
    if get_origin(kind) in (Union, UnionType):
        values = list(map(_value, inner))
        return "|".join(value for value in values if f"{value} ..." not in values)
    if get_origin(kind) is list:
        return f"{_value(inner[0])} ..."
    if isinstance(kind, type) and issubclass(kind, Path):
        return "PATH"
    return {bool: "{true,false}", int: "INT", float: "NUMBER", str: "TEXT"}.get(kind, "VALUE")


def _kind(said: str) -> str:
    """A type in words, of how jsonargparse says it."""
    if choices := re.fullmatch(r"Literal\[(.*)\]", said):
        return f"one of {choices[1]}".replace("'", "")
    name = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", said)
    return {"NoneType": "null", "PosixPath": "path"}.get(name, name)


def _is_list(kind: Any) -> bool:
    """Whether an option takes a list and nothing else, null aside: one word of it is a list too."""
    return [get_origin(each) for each in _inner(kind)] == [list]


def _inner(kind: Any) -> tuple[Any, ...]:
    """The kinds that an option may have, null aside."""
    union = get_origin(kind) in (Union, UnionType)
    return tuple(each for each in get_args(kind) if each is not NoneType) if union else (kind,)


def _may_be_list(kind: Any) -> bool:
    return any(get_origin(each) is list for each in (kind, *get_args(kind)))
