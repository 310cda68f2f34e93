"""Builds the three commands: subcommands are imported when they are called."""

import dataclasses
import functools
import importlib
import importlib.metadata
import inspect
import io
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_type_hints

import click
import typer
from typer.core import TyperCommand
from typer.utils import get_params_from_function

from reporting.terminal import error_text, print_errors
from reporting.unexpected import STATUS, keep_log_in, note_unexpected, personal_folder, threads_told

_PRIVATE = 0o077
_INTERRUPTED = 128 + signal.SIGINT
_NO_BREAK_HYPHEN = "\N{NON-BREAKING HYPHEN}"


class _HelpFormatter(click.HelpFormatter):
    """Breaks lines between words only; click would also break at the hyphens of `--some-option`."""

    def write_text(self, text: str) -> None:
        super().write_text(_keep_words(text))

    def write_dl(self, rows: Any, col_max: int = 30, col_spacing: int = 2) -> None:
        super().write_dl([(name, _keep_words(text)) for name, text in rows], col_max, col_spacing)

    def getvalue(self) -> str:
        return super().getvalue().replace(_NO_BREAK_HYPHEN, "-")


def _keep_words(text: str) -> str:
    # Typer escapes brackets for rich, which we do not print with.
    return text.replace("-", _NO_BREAK_HYPHEN).replace("\\[", "[")


class _Context(click.Context):
    formatter_class = _HelpFormatter


class _Command(TyperCommand):
    def format_arguments(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Nothing: Typer lists the arguments itself, before the options."""


class CommandGroup(click.Group):
    """Subcommands by name.

    Args:
        name: Of the command, as users type it.
        help: What it is for.
        commands: Where each subcommand's function is, "module:function", and what it does.
        private: What a command writes is for its user alone, from the first byte on.
    """

    context_class = _Context

    def __init__(
        self,
        name: str,
        help: str,
        commands: Mapping[str, tuple[str, str]],
        *,
        private: bool = False,
    ) -> None:
        version = click.Option(
            ["--version"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_print_version,
            help="Print the version and exit.",
        )
        super().__init__(name, help=help, no_args_is_help=True, params=[version])
        self._table, self._private = commands, private

    def list_commands(self, ctx: click.Context) -> list[str]:
        """As `--help` lists them."""
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The subcommand, whose module is imported now."""
        if cmd_name not in self._table:
            return None
        module, _, function = self._table[cmd_name][0].partition(":")
        app = typer.Typer(
            add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
        )
        target = _spread(getattr(importlib.import_module(module), function))
        settings = {"token_normalize_func": _old_spelling}
        app.command(cmd_name, cls=_Command, context_settings=settings)(target)
        command = typer.main.get_command(app)
        command.context_class = _Context
        explained = get_params_from_function(target)
        for param in command.params:
            if isinstance(param, click.Argument) and param.name is not None:
                # Newer releases of click drop Typer's help of an argument.
                param.help = getattr(explained[param.name].default, "help", None)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Names and what they do, without an import."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help) for name, (_, help) in self._table.items()])

    def main(self, args: Sequence[str] | None = None, **extra: Any) -> Any:  # type: ignore[override]
        """Run, and end the process; whatever goes wrong is one line, and never a traceback."""
        _show_all_letters()
        extra.setdefault("prog_name", self.name)
        mask = os.umask(_PRIVATE) if self._private else None
        keep_log_in(personal_folder())
        try:
            with threads_told():
                status = self._status(args, extra | {"standalone_mode": False})
        finally:
            keep_log_in(None)
            if mask is not None:
                os.umask(mask)
        sys.exit(status)

    def _status(self, args: Sequence[str] | None, extra: Mapping[str, Any]) -> Any:
        """Exit status of a run; what it did not expect is in the log, without its variables."""
        try:
            return super().main(args, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            return error.exit_code
        except click.ClickException as error:
            print_errors(_usage(error))
            return error.exit_code
        except click.Abort as error:
            if not isinstance(error.__cause__, KeyboardInterrupt):
                return 1
            click.echo("interrupted", err=True)
            return _INTERRUPTED
        except OSError as error:  # a full disk, wherever it was noticed
            print_errors(error_text(error))
            return 2
        except Exception as error:
            print_errors(note_unexpected(error))
            return STATUS


def _show_all_letters() -> None:
    """A letter that a terminal's encoding lacks is shown as an escape; it ends no command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _spread(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of dataclasses of options, as typer wants it: each field is an option."""
    hints = get_type_hints(function, include_extras=True)
    groups = {
        name: hint
        for name, hint in hints.items()
        if name != "return" and isinstance(hint, type) and dataclasses.is_dataclass(hint)
    }
    if not groups:
        return function

    @functools.wraps(function)
    def command(**values: Any) -> Any:
        for name, kind in groups.items():
            fields = dataclasses.fields(kind)
            values[name] = kind(**{field.name: values.pop(field.name) for field in fields})
        return function(**values)

    parameters: list[inspect.Parameter] = []
    for own in inspect.signature(function).parameters.values():
        if own.name in groups:
            parameters += _options(groups[own.name])
        else:
            annotation = hints[own.name]
            parameters.append(own.replace(kind=own.KEYWORD_ONLY, annotation=annotation))
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    vars(command)["__signature__"] = inspect.Signature(parameters)
    return command


def _options(kind: type) -> list[inspect.Parameter]:
    """The fields of a dataclass as parameters."""
    hints = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=hints[field.name],
            default=inspect.Parameter.empty
            if field.default is dataclasses.MISSING
            else field.default,
        )
        for field in dataclasses.fields(kind)
    ]


def _old_spelling(name: str) -> str:
    """Options that had another name are still taken under it."""
    return {"ways": "settings", "ways-rows": "settings-rows"}.get(name, name)


def _print_version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"{ctx.info_name} {importlib.metadata.version('asdnet-federated')}")
        ctx.exit()


def _usage(error: click.ClickException) -> str:
    """Location and rule, and where to look."""
    text = error.format_message().rstrip(".")
    if isinstance(error, click.MissingParameter):
        text = f"{_location(error)}: is missing"
    elif isinstance(error, click.BadParameter) and error.param is not None:
        text = f"{_location(error)}: {error.message.rstrip('.')}"
    if isinstance(error, click.UsageError) and error.ctx is not None:
        text += f"; see {error.ctx.command_path} --help"
    return text


def _location(error: click.BadParameter) -> str:
    assert error.param is not None
    if isinstance(error.param, click.Option):
        return max(error.param.opts, key=len)
    return inspect.cleandoc(error.param.human_readable_name)
