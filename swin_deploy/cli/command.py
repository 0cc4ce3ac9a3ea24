"""Commands: -q and -v before or after their names, and options from SWIN_DEPLOY_* variables."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from typing import Any

import click
from click.core import ParameterSource

from swin_deploy.cli.console import QUIET, VERBOSE, Console
from swin_deploy.cli.inputs import require_inputs

PREFIX = "SWIN_DEPLOY"
OF_ALL = {f"{PREFIX}_{name}" for name in ("QUIET", "VERBOSE", "CACHE")}  # not of one command
LEVELS = {"quiet": QUIET, "verbose": VERBOSE}
YES_OR_NO = {"1", "true", "t", "yes", "y", "on", "0", "false", "f", "no", "n", "off"}
LEVEL_SAID = f"{__name__}.level"  # in click's shared notes: the one on the command line


def _set_level(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Set the console's level; the command line takes precedence over a variable."""
    console = context.ensure_object(Console)
    name = str(parameter.name)
    if not value:
        return
    if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
        if LEVEL_SAID not in context.meta:
            console.level = LEVELS[name]
        return
    if context.meta.setdefault(LEVEL_SAID, name) != name:
        raise click.UsageError("--verbose and --quiet exclude each other")
    console.level = LEVELS[name]


def level_options(*, envvars: bool) -> list[click.Parameter]:
    """Make the options --quiet and --verbose.

    Args:
        envvars: True to read them also from SWIN_DEPLOY_QUIET and SWIN_DEPLOY_VERBOSE.
    """
    texts = {"verbose": "Show each step's details.", "quiet": "Show results and errors only."}
    return [
        click.Option(
            [f"-{name[0]}", f"--{name}"],
            is_flag=True,
            is_eager=True,  # the other options are to speak at this level
            expose_value=False,
            callback=_set_level,
            envvar=f"{PREFIX}_{name.upper()}" if envvars else None,
            help=text,
        )
        for name, text in texts.items()
    ]


class Command(click.Command):
    """Command whose options may come from variables, such as SWIN_DEPLOY_EXPORT_MODEL."""

    def __init__(
        self,
        name: str | None,
        params: Sequence[click.Parameter] = (),
        **others: Any,  # noqa: ANN401 - click's own
    ) -> None:
        prefix = variable(PREFIX, str(name))
        for one in params:
            if isinstance(one, click.Option):
                one.envvar = variable(prefix, one.opts[0].removeprefix("--"))
        super().__init__(name, params=[*params, *level_options(envvars=False)], **others)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options; an error in a variable's value names the variable."""
        ctx.ensure_object(Console)
        try:
            _check_flags(self.params)
            _refuse_two_values(self.make_parser(ctx).parse_args(list(args))[2])
            return super().parse_args(ctx, args)
        except click.BadParameter as err:
            if err.param is not None and err.param in _from_variables(ctx):
                err.param_hint = f"{err.param.get_error_hint(ctx)} (from {err.param.envvar})"
            raise

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - any command's
        """Report the options from variables, check the inputs, and run the command."""
        taken = [f"{one.envvar}={os.environ[str(one.envvar)]}" for one in _from_variables(ctx)]
        if taken:
            ctx.obj.note(f"  from the environment: {', '.join(taken)}")
        known = {one.envvar for one in self.params if isinstance(one, click.Option)}
        start = variable(PREFIX, str(self.name)) + "_"
        for name in sorted(os.environ):
            if name not in known and _owner(ctx, name) == self.name:
                ctx.obj.warn(f"{name} is the variable of no option of {self.name}; see --help")
        for name in _of_no_command(ctx):
            rest = name.removeprefix(f"{PREFIX}_")
            ctx.obj.warn(f"{name} is passed over; a variable has its command's name: {start}{rest}")
        require_inputs(ctx)
        return super().invoke(ctx)


def _refuse_two_values(given: Iterable[click.Parameter]) -> None:
    """Refuse two flags for one value, such as --fp32 --int8: click takes the last one silently.

    Args:
        given: The parameters of a command line, in its order, each as often as it is there.

    Raises:
        UsageError: If there are two.
    """
    found: dict[str, click.Option] = {}
    for one in given:
        if isinstance(one, click.Option) and one.is_flag and not one.is_bool_flag:
            other = found.setdefault(str(one.name), one)
            if other is not one:
                raise click.UsageError(f"{other.opts[0]} and {one.opts[0]} exclude each other")


command = functools.partial(click.command, cls=Command)


def variable(prefix: str, name: str) -> str:
    """Return the name of an option's variable, such as ``SWIN_DEPLOY_EXPORT_MODEL``."""
    return f"{prefix}_{name.upper().replace('-', '_')}"


def _from_variables(context: click.Context) -> list[click.Option]:
    """Return the options whose values come from the environment."""
    return [
        one
        for one in context.command.params
        if isinstance(one, click.Option)
        and one.envvar
        and context.get_parameter_source(str(one.name)) is ParameterSource.ENVIRONMENT
    ]


def _owner(context: click.Context, name: str) -> str | None:
    """Return the command that a variable is of, None without one.

    ``SWIN_DEPLOY_EXPORT_MODEL_OPSET`` is of ``export-model``, and ``SWIN_DEPLOY_EXPORT_MODEL`` of
    ``export``: the longest name counts.
    """
    group = context.parent.command if context.parent else None
    commands = {str(context.command.name)}
    if isinstance(group, click.Group):
        commands |= group.commands.keys()
    owners = [one for one in commands if name.startswith(f"{variable(PREFIX, one)}_")]
    return max(owners, key=len, default=None)


def _of_no_command(context: click.Context) -> list[str]:
    """Return the SWIN_DEPLOY_* variables that belong to no command."""
    names = [name for name in sorted(os.environ) if name.startswith(f"{PREFIX}_")]
    return [name for name in names if name not in OF_ALL and _owner(context, name) is None]


def _check_flags(options: Iterable[click.Parameter]) -> None:
    """Refuse a value other than yes or no in a variable of a flag like --fp16: click skips it."""
    for one in options:
        if not isinstance(one, click.Option) or not one.is_flag or one.is_bool_flag:
            continue
        value = os.environ.get(str(one.envvar), "")
        if value and value.lower() not in YES_OR_NO:
            raise click.UsageError(f"{one.envvar}={value}: give 1 for {one.opts[0]}, or 0")
