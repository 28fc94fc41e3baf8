"""Is everything that is kept what it says? Every file of records in a working folder, and all that is wrong.

Files may come from anybody: none is trusted to be whole, links are not followed, and a fault in one hides no other.
"""

from __future__ import annotations

from deatbench.errors import DeatbenchError
from deatbench.records import PublishedResult
from deatbench.report.audit.findings import ARCHIVE, LOOKS, Audit, files_below, is_file
from deatbench.report.audit.sweep_audit import audit_sweeps
from deatbench.report.audit.zoo_audit import audit_zoo
from deatbench.report.site import generated
from deatbench.store import Home


def audit(home: Home, *, pages: bool = False) -> Audit:
    """Look at every file of model_zoo/, evaluations/ and published/, at sweeps, and with `pages` at leaderboards/."""
    found = Audit(home)
    audit_zoo(found)
    for path in files_below(found, home.evaluations):
        if path.parent == home.evaluations and path.suffix == ".json":
            found.evaluation(path)
        elif path.parent == home.evaluations and path.suffix == ARCHIVE:
            found.archive(path)
        else:
            found.say(path, "is no evaluation nor its archive")
    for kind in LOOKS:
        for path in files_below(found, home.path / kind):
            if path.parent == home.path / kind and path.suffix == ".json":
                found.look(path)
            else:
                found.say(path, f"does not belong to the {kind}")
    for path in files_below(found, home.published):
        if path.suffix == ".json":
            found.load(path, PublishedResult, "published results")
        elif path.name != "README.md":
            found.say(path, "is no published result")
    audit_sweeps(found)
    found.compare_images()
    if pages:
        _compare_pages(found)
    found.faults.sort(key=lambda fault: fault.file)
    return found


def _compare_pages(found: Audit) -> None:
    """Pages and cards are what the records give, byte by byte, and under leaderboards/ there is nothing else."""
    folder = found.home.leaderboards
    try:
        pages = {path: text.encode() for path, text in generated(found.home).items()}
    except DeatbenchError as error:
        found.say(folder, f"cannot be compared: {error}")
        return
    for path in sorted(pages.keys() | set(files_below(found, folder))):
        found.checked["pages"] += 1
        if path not in pages:
            found.say(path, "follows from no record")
        elif not is_file(path):
            found.say(path, "is missing: `deatbench leaderboard build` writes it")
        elif (kept := path.read_bytes()) != pages[path]:
            pairs = zip(kept.splitlines(), pages[path].splitlines(), strict=False)
            line = next((n for n, (a, b) in enumerate(pairs, 1) if a != b), "its last")
            found.say(path, f"is not what the records give, first in line {line}: `deatbench leaderboard build`")
