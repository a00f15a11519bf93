"""Turn a function into a command: arguments from its signature, one clear line for bad input."""

import functools
import gc
import inspect
import logging
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from lunaops.errors import InputError


def run(main: Callable[..., None]) -> None:
    """Run `main` as a command line program; used by every stage script.

    Every parameter of `main` is an option of the same name and the help is its docstring. An `InputError` ends the
    program with exit code 1 and its message; `--debug` (or LUNAOPS_DEBUG=1) shows the traceback.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(_with_options(main))
    run_app(app)


def _with_options(main: Callable[..., None]) -> Callable[..., None]:
    """`main`, its parameters without a default being required options: typer would make them positional."""

    @functools.wraps(main)
    def command(**options: Any) -> None:
        main(**options)

    signature = inspect.signature(main, eval_str=True)
    options = [p.replace(annotation=Annotated[p.annotation, typer.Option()]) for p in signature.parameters.values()]
    command.__signature__ = signature.replace(parameters=options)  # type: ignore[attr-defined]
    command.__annotations__ = {option.name: option.annotation for option in options}
    return command


def run_app(app: typer.Typer) -> None:
    """Run a typer application with the error line and the logging that all our commands share."""
    gc.set_threshold(100_000)  # libraries and figures are many objects that stay: to sift them cost evaluate 0.7 s
    debug = "--debug" in sys.argv or os.environ.get("LUNAOPS_DEBUG") == "1"
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
    )
    for chatty in ("matplotlib", "PIL", "urllib3", "alembic", "mlflow", "git", "fsspec"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        app()
    except InputError as error:
        if debug:
            raise
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
