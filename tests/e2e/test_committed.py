"""What this repository publishes is in order: every number follows from its bits, every page from its records."""

from __future__ import annotations

from pathlib import Path

import pytest

from deatbench.report.audit.audit import audit
from deatbench.store import Home

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(not (REPOSITORY / "model_zoo").is_dir(), reason="not a checkout of the repository")
def test_the_committed_records_and_pages_have_no_fault() -> None:
    found = audit(Home(REPOSITORY), pages=True)
    assert [f"{fault.file}: {fault.message}" for fault in found.faults] == []
    assert found.checked["evaluations"] > 100
    assert found.checked["weight files"] > 20
    assert found.checked["pages"] > 50
    assert found.checked["verifications"] >= 7
