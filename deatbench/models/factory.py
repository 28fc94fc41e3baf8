"""A function that returns a network: `pkg.module:factory` or `./file.py:factory`, called without arguments.

This runs the code in that file; it is the way in for models of one's own.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib
import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import torch
from torch import nn

from deatbench.errors import ConfigError, DeatbenchError, MissingError
from deatbench.models.loaded import LoadedModel, first_line, identifier
from deatbench.models.request import ModelRequest

MODULE = "deatbench_model_"  # and the name of a factory's file
PACKAGE = Path(__file__).resolve().parents[1]
RESERVED = ("zoo", "robustbench", "timm")


def reading(request: ModelRequest) -> str | None:
    """`something:identifier`, unless a reserved prefix stands before the colon."""
    place, colon, name = request.text.rpartition(":")
    if not colon or not name.isidentifier():
        return None
    if place.endswith(".py"):
        return f"function {name} of the file {place}"
    dotted = all(part.isidentifier() for part in place.split("."))
    return f"function {name} of the module {place}" if dotted and place not in RESERVED else None


def load(request: ModelRequest) -> LoadedModel:
    """Raises MissingError if file, module or function is not there, ConfigError naming the line that failed."""
    place, _, name = request.text.rpartition(":")
    where = Path(place).expanduser()
    with _importable(where.parent if place.endswith(".py") else Path.cwd()):
        module = _import_file(where) if place.endswith(".py") else _import_module(place)
        factory = getattr(module, name, None)
        if not callable(factory):
            near = difflib.get_close_matches(name, [key for key in vars(module) if callable(vars(module)[key])], n=1)
            raise MissingError(f"{place} has no function {name!r}", f"did you mean {near[0]}?" if near else "")
        try:
            network = factory()
        except (Exception, SystemExit) as error:
            _raise_located(error, request.text)
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{request.text} returned a {type(network).__name__}, not a torch.nn.Module")
    source = f"{where.name}:{name}" if place.endswith(".py") else request.text
    return LoadedModel(
        network,
        identifier(f"{where.stem}-{name}"),
        arch=type(network).__name__,
        source=source,
        code_sha256=_code_sha256(module, network),
    )


def _code_sha256(module: ModuleType, network: nn.Module) -> str:
    """Of the user's own source files: the factory's, what is loaded from beside it, those of the network's classes.

    Weights alone do not say which function they are weights of.
    """
    own = _file(module)
    others = [name for name in sys.modules if name.startswith(MODULE) or name == "__main__"]  # not what this one uses
    loaded = {path for name, known in list(sys.modules.items()) if name not in others and (path := _file(known))}
    beside = {path for path in loaded if own is not None and path.is_relative_to(own.parent)}
    classes = {path for part in network.modules() if (path := _file(sys.modules.get(type(part).__module__)))}
    mine = {
        path for path in beside | classes | ({own} if own else set()) if path.suffix == ".py" and not _installed(path)
    }
    digests = sorted(hashlib.sha256(path.name.encode() + b"\0" + path.read_bytes()).hexdigest() for path in mine)
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _file(module: ModuleType | None) -> Path | None:
    named = getattr(module, "__file__", None)
    path = Path(named if isinstance(named, str) else "")  # of some modules it is a bare name, of others nothing
    return path.resolve() if path.is_absolute() and path.is_file() else None


def _installed(path: Path) -> bool:
    """Whether a file is python's, a library's or deatbench's own: their versions are on record."""
    python = (Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    libraries = not {"site-packages", "dist-packages"}.isdisjoint(path.parts)
    return libraries or any(map(path.is_relative_to, (PACKAGE, *python)))


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let the code import its neighbours, as it could if it were run from `folder`."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(entry)


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        near = difflib.get_close_matches(path.name, sorted(file.name for file in path.parent.glob("*.py")), n=1)
        raise MissingError(f"no file {path}", f"did you mean {path.with_name(near[0])}?" if near else "")
    spec = importlib.util.spec_from_file_location(f"{MODULE}{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # classes defined there look their module up by its name
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        _raise_located(error, str(path))
    return module


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            _raise_located(error, name)
        raise MissingError(f"no module {error.name!r} to import", "is it installed, or in this folder?") from error
    except (Exception, SystemExit) as error:
        _raise_located(error, name)


@contextlib.contextmanager
def blamed(model: LoadedModel) -> Iterator[None]:
    """What a network of foreign code raises in use becomes one line that names the network, not deatbench."""
    try:
        yield
    except (DeatbenchError, torch.OutOfMemoryError, MemoryError, OSError):
        raise
    except Exception as error:
        innermost = traceback.extract_tb(error.__traceback__)[-1].filename
        ours = model.code_sha256 is None or Path(innermost).is_relative_to(PACKAGE)
        if ours or "DefaultCPUAllocator: " in str(error):
            raise
        _raise_located(error, model.source)


def _raise_located(error: BaseException, what: str) -> NoReturn:
    """The error as one line with the innermost line of the user's own code: not of a library, not of this file."""
    if isinstance(error, DeatbenchError):
        raise error
    if isinstance(error, SyntaxError) and error.filename:
        raise ConfigError(f"{error.filename}:{error.lineno}: SyntaxError: {error.msg}") from error
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<")]
    outside = [f for f in frames if not _installed(Path(f.filename))]
    at = f"{outside[-1].filename}:{outside[-1].lineno}" if outside else what
    raise ConfigError(f"{at}: {type(error).__name__}: {first_line(error)}") from error
