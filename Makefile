.PHONY: test slow check boards

test:
	python -m pytest

slow:
	python -m pytest -m slow

check:
	ruff check deatbench benchmarks tests
	ruff format --check deatbench tests
	mypy

boards:
	deatbench leaderboard build
