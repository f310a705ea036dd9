"""Strict options: flags and YAML into frozen dataclasses; an unknown key or a wrong type is one line that names it."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import sys
import textwrap
from argparse import SUPPRESS, Action
from collections.abc import Iterable, Mapping, Sequence
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
        return ", ".join(_option(name) for name in action.option_strings if name[-1] != "+") + _values(action)

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
        said = re.sub(r'Parser key "([\w.]+)"', lambda key: _option(key[1]), said)
        said = re.sub(r"Group '(\w+)' does not accept option '([^']+)'", r"--\1.\2: no such option", said)
        said = re.sub(r"^unrecognized arguments: --([^\s=]+).*", lambda key: f"{_option(key[1])}: no such option", said)
        said = re.sub(r"^Option '([\w.]+)' is not accepted", lambda key: f"{_option(key[1])}: no such option", said)
        said = re.sub(r"^Option '([\w-]+)' is not accepted", _hyphened, said)
        said = re.sub(r"^--\w+: Unable to load config '.*' - (?=--\w+\.)", "", said)
        said = re.sub(r"argument (--[\w.]+)/\1\+", lambda key: f"argument {_option(key[1])}", said)
        if (names := said.removeprefix(MISSING)) != said:
            said = MISSING + ", ".join(map(_option, names.split(", ")))
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
                raise UserError(f"{_option(action.dest)}: expected {_kind(str(kind).replace('typing.', ''))}, got null")

    def _refuse_address(self, parsed: Any) -> None:
        """Raise :class:`UserError` on an address where a path is wanted; of paths, "s3://a" is the folder s3:/a."""
        for action in self._actions:
            value = parsed.get(action.dest)
            for path in value if isinstance(value, list) else [value]:
                if isinstance(path, Path) and re.match("[a-z][a-z0-9+.-]+:/", str(path)):
                    raise UserError(
                        f"{_option(action.dest)} {path}: an address; only --data may be one (what is written is there "
                        "once it is renamed, as file systems do it)"
                    )


def parse(
    prog: str,
    argv: Sequence[str] | None,
    flat: Sequence[type],
    sections: Mapping[str, type] | None = None,
    description: str | None = None,
    parts: Mapping[str, Iterable[str]] | None = None,
    positional: str | None = None,
) -> tuple[list[Any], dict[str, Any]]:
    """Read ``--config FILE.yaml`` and flags into dataclasses.

    Args:
        flat: dataclasses whose fields are options of their own (``--out``); their names must differ.
        sections: dataclasses by section name (``--train.lr``).
        description: what --help says of the command; by default the docstring of the module of the first ``flat``.
        parts: by option, the names it may have, for --help alone.
        positional: the option whose value may stand alone; then no option takes several words.

    Returns the instances of ``flat`` in order, and those of ``sections`` by name. Raises :class:`UserError` naming
    the key where one is unknown, missing or of the wrong type, and what the dataclasses' own checks raise.
    """
    named = tuple((key, tuple(names)) for key, names in (parts or {}).items())
    parser = _command_parser(prog, tuple(flat), tuple((sections or {}).items()), description, named, positional)
    built = parser.build(parser.parse_args(argv))
    own = [arguments(**{f.name: built[f.name] for f in dataclasses.fields(arguments)}) for arguments in flat]
    return own, {name: built[name] for name in sections or {}}


@functools.cache
def _command_parser(
    prog: str,
    flat: tuple[type, ...],
    sections: tuple[tuple[str, type], ...],
    description: str | None,
    parts: tuple[tuple[str, tuple[str, ...]], ...],
    positional: str | None,
) -> StrictParser:
    """Made once: jsonargparse reads the docstrings of all sections in 0.2 s, and a script calls commands many times."""
    about = description or (sys.modules[flat[0].__module__].__doc__ or "").split("\n\n")[0]
    about = re.sub("^``python -m .*?``: (.)", lambda first: first[1].upper(), about)
    parser = StrictParser(prog=f"python -m {prog}", description=about.replace("``", ""))
    parser.positional = positional
    parser.add_argument("--config", action="config", metavar="FILE", help="YAML file with any of these options.")
    print_config = parser._option_string_actions["--print_config"]
    print_config.help, print_config.metavar = "Print all options as YAML and exit.", ""
    for arguments in flat:
        parser.add_class_arguments(arguments, as_group=False)
    parser.add_argument("-h", "--help", action="help", help="Show this and exit.")
    needed = [
        action.dest.upper() if action.dest == positional else _option(action.dest) + _values(action)
        for action in parser._actions
        if action.required
    ]
    parser.usage = " ".join(["%(prog)s", *needed, "[options]"])
    _add(parser, dict(sections))
    for key, names in parts:
        if option := parser._option_string_actions.get(f"--{key}"):
            option.help = f"{option.help or ''} One of: {', '.join(names)}.".lstrip()
    return parser


def read_file(path: Path, sections: Mapping[str, type]) -> dict[str, Any]:
    """Read a YAML file of whole sections, as strictly. Raises :class:`UserError` naming file and key."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    parser = _file_parser(tuple(sections.items()))
    parsed = parser.parse_path(path)
    try:
        built = parser.build(parsed)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return {name: built[name] for name in sections}


@functools.cache
def _file_parser(sections: tuple[tuple[str, type], ...]) -> StrictParser:
    """Made once, as a command's: a command reads several runs."""
    parser = StrictParser()
    _add(parser, dict(sections))
    return parser


def _option(key: str) -> str:
    """An option as it is typed: a section's keys as in YAML."""
    name = key.lstrip("-")
    return key if key == "-h" else "--" + (name if "." in name else name.removesuffix("_").replace("_", "-"))


def _hyphened(key: re.Match[str]) -> str:
    return f"{key[1]}: no such option; did you mean {key[1].replace('-', '_')}?"


def _values(action: Action) -> str:
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


def _add(parser: StrictParser, sections: Mapping[str, type]) -> None:
    for name, section in sections.items():
        heading = (section.__doc__ or name).strip().split("\n")[0].removesuffix(".")
        parser.add_class_arguments(section, name, help=f"{heading} ({name})")
        # A section as a whole, in JSON: for ppr_dist.library alone.
        parser._option_string_actions[f"--{name}"].help = SUPPRESS
