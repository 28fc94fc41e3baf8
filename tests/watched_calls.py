"""Which objects had a method called: whether code takes the way that it is meant to take."""

from __future__ import annotations

from typing import Any

import pytest


def calls_of(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> list[Any]:
    """A list that from now on gets the object of each call of `owner`'s method `name`."""
    called: list[Any] = []
    method = getattr(owner, name)

    def noted(self: Any, *arguments: Any) -> Any:
        called.append(self)
        return method(self, *arguments)

    monkeypatch.setattr(owner, name, noted)
    return called
