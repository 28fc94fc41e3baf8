"""`deatbench`: the group of commands, and how errors become one line and an exit code."""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TextIO

import rich_click as click
from click.exceptions import Abort

from deatbench import __version__
from deatbench.cli.lazy import LazyGroup
from deatbench.errors import DeatbenchError

OUT_OF_MEMORY = ("DefaultCPUAllocator: ", "CUDA out of memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
COMMANDS = {
    "run": "deatbench.cli.run:run",
    "train": "deatbench.cli.train:train",
    "eval": "deatbench.cli.eval:evaluate",
    "sweep": "deatbench.cli.sweep:sweep",
    "report": "deatbench.cli.report:report",
    "compare": "deatbench.cli.compare:compare",
    "diagnose": "deatbench.cli.diagnose:diagnose",
    "verify": "deatbench.cli.verify:verify",
    "reproduce": "deatbench.cli.reproduce:reproduce",
    "plot": "deatbench.cli.plot:plot",
    "leaderboard": "deatbench.cli.leaderboard:leaderboard",
    "zoo": "deatbench.cli.zoo:zoo",
    "ls": "deatbench.cli.ls:ls",
    "data": "deatbench.cli.data:data",
    "doctor": "deatbench.cli.doctor:doctor",
    "completion": "deatbench.cli.completion:completion",
}


@click.group(
    cls=LazyGroup,
    commands_at=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.version_option(__version__, prog_name="deatbench")
@click.option(
    "--home",
    type=click.Path(path_type=Path),
    envvar="DEATBENCH_HOME",
    default=".",
    show_default=True,
    help="Working folder: runs/, model_zoo/, leaderboards/ and evaluations/ lie in it.",
)
@click.option("--debug", is_flag=True, envvar="DEATBENCH_DEBUG", help="Show the traceback of an error.")
def cli(home: Path, debug: bool) -> None:
    """Train, attack and rank image classifiers: adversarial robustness whose numbers can be re-checked.

    \b
    Examples:
      deatbench run --arch vgg16 --method deat       train, attack, publish: the whole way
      deatbench eval --autoattack                    attack the latest model again
      deatbench eval ./my.py:net --dataset cifar10 --eps 8/255 --autoattack
      deatbench compare A B                          is one better than the other, image by image?
      deatbench verify RECORD                        re-check what a record claims
      deatbench leaderboard serve                    look at the pages
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; without `argv`, that of this process."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments or os.environ.get("DEATBENCH_DEBUG", "0") not in ("", "0")
    if argv is None:
        _own_the_process(debug)
    try:
        code = cli.main(arguments, prog_name="deatbench", standalone_mode=False, obj=arguments)
        sys.stdout.flush()
    except SystemExit as stop:  # click's own endings: help without a command, completion, a closed pipe
        return stop.code if isinstance(stop.code, int) else 1
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code, debug, _help_hint(error))
    except DeatbenchError as error:
        return _fail(str(error), error.exit_code, debug)
    except (KeyboardInterrupt, Abort):
        return _fail("interrupted", 130, debug)
    except BrokenPipeError:
        _silence_stdout()
        return 1
    except OSError as error:
        return _fail(f"{error.filename or type(error).__name__}: {error.strerror or error}", 1, debug)
    except Exception as error:
        if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
            return _fail("out of memory", 1, debug, " (a smaller network, or a smaller batch)")
        hint = "" if debug else " (a defect of deatbench; DEATBENCH_DEBUG=1 shows the traceback)"
        return _fail(f"unexpected {type(error).__name__}: {error}{hint}", 1, debug)
    return code if isinstance(code, int) else 0


def _own_the_process(debug: bool) -> None:
    """Settings that only the real command may make: warnings, what its streams do on errors, SIGTERM as Ctrl-C."""
    if not debug and not sys.warnoptions:
        warnings.simplefilter("ignore")
    sys.stdout, sys.stderr = _stream(sys.stdout, _Results), _stream(sys.stderr, _Messages)

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


class _Results(io.FileIO):
    """stdout. Results that cannot be written are an error in words; a reader that left is none."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise DeatbenchError(f"cannot write the output: {error.strerror}", "send stdout elsewhere") from error


class _Messages(io.FileIO):
    """stderr. Progress is a courtesy: where it cannot be written it is lost, and the work goes on."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        try:
            written = super().write(data)
        except OSError:
            written = None
        return len(data) if written is None else written


def _stream(standard: TextIO | None, kind: type[_Results | _Messages]) -> TextIO:
    """A standard stream as `kind` writes it, with characters that it cannot encode replaced."""
    if standard is None:  # whoever started us has closed it (`>&-`)
        return Path(os.devnull).open("w", errors="replace")
    if not isinstance(standard, io.TextIOWrapper):
        return standard
    raw: io.RawIOBase = kind(standard.fileno(), "wb", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=standard.encoding,
        errors="replace",
        line_buffering=standard.line_buffering or standard.write_through,
    )


def _help_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f" (see `{context.command_path} --help`)" if context is not None else ""


def _fail(message: str, exit_code: int, debug: bool, hint: str = "") -> int:
    if debug:
        traceback.print_exc()
    try:
        sys.stdout.flush()
    except (OSError, DeatbenchError):
        _silence_stdout()  # python would try again on its way out, and end with a code of its own
    line = " ".join(message.split())
    print("error: " + "".join(c if c.isprintable() else "?" for c in line) + hint, file=sys.stderr, flush=True)
    return exit_code


def _silence_stdout() -> None:
    """The reader of our pipe left (`deatbench ls archs | head -1`), or the disk is full: nothing more can be said."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = sys.stderr
