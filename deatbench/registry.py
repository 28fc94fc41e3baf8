"""Names to things: architectures, methods, attacks, data sets, threats, optimizers.

A registry imports the files of its package on first use, so that adding a thing is adding one file:

    ARCHS = Registry("arch", "deatbench.archs")        # in deatbench/archs/__init__.py

    @ARCHS.register("vgg16")                            # in deatbench/archs/vgg.py
    def vgg16(num_classes: int, ...) -> nn.Module: ...

A name may be a template; its fields become keyword arguments of the target:

    @ATTACKS.register("pgd-{steps:int}")                # ATTACKS.resolve("pgd-20").params == {"steps": 20}

Other distributions add to a registry through the entry-point group `deatbench.archs` (`.methods`, …).
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from deatbench.errors import ConfigError, UnknownNameError

T = TypeVar("T")
_FIELD = re.compile(r"\{(\w+)(?::(int))?\}")


@dataclass(frozen=True)
class Resolved(Generic[T]):
    """What a name stands for: the registered target and the arguments read out of the name."""

    name: str
    target: T
    params: dict[str, Any]


class _Pattern:
    """A registered name, possibly with fields such as `{steps:int}`."""

    def __init__(self, template: str) -> None:
        self.template = template
        self.types = dict(_FIELD.findall(template))
        literal = _FIELD.split(template)
        parts = [re.escape(literal[0])]
        for field, _, text in zip(literal[1::3], literal[2::3], literal[3::3], strict=True):
            parts.append(f"(?P<{field}>.+){re.escape(text)}")
        self.regex = re.compile("".join(parts))

    def match(self, name: str) -> dict[str, Any] | None:
        found = self.regex.fullmatch(name)
        if found is None:
            return None
        return {field: self._cast(name, field, text) for field, text in found.groupdict().items()}

    def like(self, name: str) -> str:
        """An example of the template with what `name` may have meant: `pgd-20` for `pdg20`."""
        numbers, (_, slash, text) = iter(re.findall(r"[0-9]+", name)), name.rpartition("/")
        return _FIELD.sub(
            lambda field: next(numbers, "10") if field[2] == "int" else text if slash else field[0], self.template
        )

    def _cast(self, name: str, field: str, text: str) -> Any:
        if self.types[field] != "int":
            return text
        if not re.fullmatch(r"-?[0-9]{1,9}", text):
            raise ConfigError(f"{name!r}: {field} must be a whole number, not {text!r}")
        return int(text)


class Registry(Generic[T]):
    """A lazy mapping from names to targets of one kind.

    Args:
        kind: what a user calls such a thing ("arch", "attack"); used in messages and `deatbench ls`.
        package: the package whose modules register the targets; imported on first look-up.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._targets: dict[str, T] = {}
        self._patterns: dict[str, _Pattern] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that registers its target under `name`; two different targets collide loudly."""

        def add(target: T) -> T:
            if name in self._targets and self._targets[name] is not target:
                raise ValueError(f"{self.kind} {name!r} is registered twice: {self._targets[name]!r} and {target!r}")
            self._targets[name] = target
            if "{" in name:
                self._patterns[name] = _Pattern(name)
            return target

        return add

    def names(self) -> list[str]:
        """All registered names, sorted; templates in their written form (`pgd-{steps:int}`)."""
        self._load()
        return sorted(self._targets)

    def resolve(self, name: str) -> Resolved[T]:
        """The target of `name`. Raises UnknownNameError with the nearest matches."""
        self._load()
        if name in self._targets and name not in self._patterns:
            return Resolved(name, self._targets[name], {})
        for template, pattern in self._patterns.items():
            params = pattern.match(name)
            if params is not None:
                return Resolved(name, self._targets[template], params)
        few = len(self._targets) <= 4
        listing = f"known: {', '.join(self.names())}" if few else f"`deatbench ls {self.kind}s` lists all"
        known = [self._patterns[known].like(name) if known in self._patterns else known for known in self.names()]
        raise UnknownNameError(self.kind, name, known, listing)

    def bind(self, name: str, params: Mapping[str, Any], context: Collection[str] = ()) -> dict[str, Any]:
        """The hyper-parameters of `name`: its defaults, overridden by the name's own fields and by `params`.

        Parameters without a default, and those listed in `context`, are the caller's to give and no
        hyper-parameters. Raises ConfigError on an unknown key (nearest match) or a value of another type.
        """
        found = self.resolve(name)
        parameters, hints = _signature(found.target)
        bound = {
            key: parameter.default
            for key, parameter in parameters.items()
            if key not in context and (parameter.default is not parameter.empty or key in found.params)
        }
        fields = {key: value for key, value in found.params.items() if key not in context}
        for key, value in {**fields, **params}.items():
            if key not in bound:
                near = difflib.get_close_matches(key, bound, n=1, cutoff=0.5)
                known = f"did you mean {near[0]}?" if near else f"it has {', '.join(bound) or 'none'}"
                raise ConfigError(f"{self.kind} {name!r} has no parameter {key!r}", known)
            bound[key] = self._typed(name, key, hints.get(key, Any), value)
        return bound

    def _typed(self, name: str, key: str, hint: Any, value: Any) -> Any:
        if isinstance(value, bool) and hint in (int, float):
            raise ConfigError(f"{self.kind} {name!r}: {key}={value!r}: Input should be a number")
        try:
            return _adapter(hint).validate_python(value)
        except ValidationError as error:
            raise ConfigError(f"{self.kind} {name!r}: {key}={value!r}: {error.errors()[0]['msg']}") from error

    def __getitem__(self, name: str) -> T:
        return self.resolve(name).target

    def __contains__(self, name: str) -> bool:
        try:
            self.resolve(name)
        except ConfigError:
            return False
        return True

    def summary(self, name: str) -> str:
        """First line of the target's docstring."""
        self._load()
        return (self._targets[name].__doc__ or "").strip().split("\n")[0]

    def _load(self) -> None:
        if self._loaded:
            return
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        for plugin in entry_points(group=self.package):
            plugin.load()
        self._loaded = True


@cache
def _signature(target: Any) -> tuple[Mapping[str, inspect.Parameter], dict[str, Any]]:
    """The parameters of a target and their types; read once, as a sweep asks thousands of times."""
    return inspect.signature(target).parameters, get_type_hints(
        target if inspect.isfunction(target) else target.__init__
    )


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False))
