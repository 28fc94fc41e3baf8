"""`deatbench leaderboard …` as a user and as GitHub meet it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from cli_runs import ROOT, call, spawn
from markdown_it import MarkdownIt
from records_factory import evaluation, seeds

from deatbench.cli.main import cli
from deatbench.records import EvaluationRecord, PublishedResult
from deatbench.store import Home, read_record, write_record

COMMENT = ROOT / ".github" / "workflows" / "leaderboard-comment.yml"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def home_with(folder: Path, records: list[EvaluationRecord]) -> Home:
    home = Home(folder)
    home.path.mkdir(exist_ok=True)
    for record in records:
        write_record(home.evaluations / f"{record.id}.json", record)
    return home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return home_with(tmp_path / "home", [*seeds([0.5, 0.53]), evaluation("foreign")])


def test_check_says_how_much_it_checked(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "leaderboard", "build", "--home", home.path).code == 0
    done = call(capsys, "leaderboard", "check", "--pages", "--home", home.path)
    assert (done.code, done.err) == (0, "")
    assert re.fullmatch(r"checked 3 evaluations, \d+ pages: 0 faults\n", done.out)


def test_check_names_every_fault_with_its_file_and_exits_3(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third = sorted(home.evaluations.glob("*.json"))
    first.write_text("{")
    raw = json.loads(second.read_text())
    raw["metrics"]["autoattack"]["value"] = 0.9
    raw["threat"]["eps_text"] = "0.031"
    second.write_text(json.dumps(raw))
    done = call(capsys, "leaderboard", "check", "--home", home.path)
    lines = done.out.splitlines()
    assert done.code == 3
    assert [line.partition(":")[0] for line in lines[:-1]] == [
        f"evaluations/{first.name}", f"evaluations/{second.name}", f"evaluations/{second.name}",
    ]  # fmt: skip
    assert lines[-1] == "checked 3 evaluations: 3 faults in 2 files"
    assert done.err == "error: 3 faults in 2 files\n"
    document = json.loads(call(capsys, "leaderboard", "check", "--home", home.path, "--json").out)
    assert document["checked"] == {"evaluations": 3}
    assert [fault["file"] for fault in document["faults"]].count(f"evaluations/{second.name}") == 2
    assert third.name not in done.out


def test_check_and_diff_need_no_torch(home: Home) -> None:
    for command in (["check", "--pages"], ["diff", "."], ["export", "--to", "robustbench"]):
        program = (
            "import sys\n"
            "class Absent:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        if name.partition('.')[0] == 'torch':\n"
            "            raise ModuleNotFoundError('no torch here', name=name)\n"
            "sys.meta_path.insert(0, Absent())\n"
            "from deatbench.cli.main import main\n"
            f"sys.exit(main({['leaderboard', *command]!r}))"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=home.path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, check=False,
        )  # fmt: skip
        assert "torch" not in done.stderr
        assert done.returncode in (0, 3), done.stderr


def test_diff_of_two_folders(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    after = home_with(tmp_path / "after", [*seeds([0.5, 0.53, 0.6]), evaluation("foreign")])
    same = call(capsys, "leaderboard", "diff", home.path, home.path)
    assert same.out == "No difference: the records and the boards are the same.\n"
    done = call(capsys, "leaderboard", "diff", home.path, "--home", after.path)
    assert done.code == 0
    assert "- changed: vgg16-deat-abc123\n" in done.out
    assert "  - seeds: 0, 1 → 0, 1, 2\n" in done.out
    assert call(capsys, "leaderboard", "diff", home.path, after.path).out == done.out
    document = json.loads(call(capsys, "leaderboard", "diff", home.path, after.path, "--json").out)
    assert document["different"] is True
    missing = call(capsys, "leaderboard", "diff", tmp_path / "nowhere", home.path)
    assert (missing.code, missing.out) == (4, "")


def model_info(root: Path) -> Path:
    folder = root / "model_info" / "cifar10" / "Linf"
    (folder.parent / "corruptions").mkdir(parents=True)
    folder.mkdir()
    info = {"eps": "8/255", "clean_acc": "80.00", "autoattack_acc": "45.67", "architecture": "ResNet-18"}
    (folder / "Made2031Up.json").write_text(json.dumps(info))
    (folder / "Bad.json").write_text(json.dumps(info | {"clean_acc": "high"}))
    (folder.parent / "corruptions" / "Made2031Up.json").write_text(json.dumps(info))
    return root


def test_import_writes_records_and_names_what_it_skips(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = model_info(tmp_path / "robustbench")
    done = call(capsys, "leaderboard", "import", "robustbench", root, "--home", home.path)
    assert (done.code, done.out) == (0, f"1 results written under {home.published}\n")
    assert done.err.splitlines() == [
        "skipped model_info/cifar10/Linf/Bad.json: clean_acc: 'high' is no percentage",
        "skipped model_info/cifar10/corruptions: 1 file on corruptions, no threat with a norm",
    ]
    (path,) = home.published.rglob("*.json")
    assert read_record(path, PublishedResult).autoattack_acc == 0.4567
    assert call(capsys, "leaderboard", "check", "--home", home.path).code == 0
    assert call(capsys, "leaderboard", "build", "--home", home.path).code == 0
    assert (home.leaderboards / "cifar10" / "Linf-8_255.html").is_file()
    document = json.loads(call(capsys, "leaderboard", "import", "robustbench", root, "--home", home.path, "--json").out)
    assert document["written"] == [str(path)]
    nothing = call(capsys, "leaderboard", "import", "robustbench", tmp_path / "home", "--home", home.path)
    assert (nothing.code, nothing.out) == (4, "")


def test_export_names_what_it_leaves_out(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for record in seeds([0.5], dataset="cifar10", n=1000):
        write_record(home.evaluations / f"{record.id}.json", record)
    out = tmp_path / "model_info"
    done = call(capsys, "leaderboard", "export", "--to", "robustbench", "--out", out, "--home", home.path)
    (path,) = out.rglob("*.json")
    assert (done.code, done.out) == (0, f"{path}\n")
    assert json.loads(path.read_text())["autoattack_acc"] == "50.00"
    assert len(done.err.splitlines()) == 3
    assert "left out foreign (digits/Linf-8_255): RobustBench has no board of digits, Linf\n" in done.err


@pytest.mark.parametrize(
    "command",
    ["leaderboard build", "leaderboard check", "leaderboard export --to robustbench", "leaderboard serve", "zoo ls",
     "zoo show a", "zoo verify", "compare a b"],
)  # fmt: skip
def test_a_mistyped_home_is_no_empty_one(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, *command.split(), "--home", tmp_path / "nowhere")
    assert (done.code, done.out) == (4, "")
    assert done.err == f"error: no folder {tmp_path / 'nowhere'} (--home names the working folder)\n"
    assert not (tmp_path / "nowhere").exists()


def test_help_teaches_by_example() -> None:
    for command in ("check", "diff", "import robustbench", "export"):
        done = spawn(["leaderboard", *command.split(), "--help"], ROOT)
        assert done.returncode == 0
        assert f"deatbench leaderboard {command}" in done.stdout


# The workflows


def workflow(path: Path) -> dict[str, Any]:
    document = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)  # for SafeLoader `on` is a boolean
    assert isinstance(document, dict)
    return document


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in workflow(path)["jobs"].values() for step in job["steps"]]


def commands() -> list[tuple[str, str]]:
    """Every `deatbench …` in a script of a workflow, with the workflow's name."""
    found = []
    for path in WORKFLOWS:
        for step in steps(path):
            found += [
                (path.name, line)
                for line in re.findall(r"^\s*(deatbench [a-z][^\n|>&]*)", step.get("run", ""), re.MULTILINE)
            ]
    return found


def test_there_are_workflows_for_tests_records_and_comments() -> None:
    assert {path.stem for path in WORKFLOWS} == {"leaderboard", "leaderboard-comment", "tests"}
    said = {line.strip() for _, line in commands()}
    assert {"deatbench leaderboard check --pages", "deatbench leaderboard diff ../base", "deatbench leaderboard build",
            'deatbench verify "$record"'} <= said  # fmt: skip


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_whole_and_asks_for_the_least(path: Path) -> None:
    document = workflow(path)
    assert document.keys() >= {"name", "on", "permissions", "jobs"}
    assert document["permissions"] in ({}, "", {"contents": "read"})
    assert "pull_request_target" not in document["on"]
    for job in document["jobs"].values():
        assert job.keys() >= {"runs-on", "timeout-minutes", "steps"}
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step.get("uses", "actions/x@v1"))
            assert "${{" not in step.get("run", "")  # text of an event is data, not a part of a script
            if step.get("uses", "").startswith("actions/checkout"):
                assert step["with"]["persist-credentials"] == "false"


def test_only_the_comment_and_the_pages_may_write() -> None:
    granted = {
        (path.stem, name): job["permissions"]
        for path in WORKFLOWS
        for name, job in workflow(path)["jobs"].items()
        if "permissions" in job
    }
    assert granted == {
        ("leaderboard", "publish"): {"pages": "write", "id-token": "write"},
        ("leaderboard-comment", "comment"): {"actions": "read", "pull-requests": "write"},
    }


@pytest.mark.parametrize(("name", "line"), commands())
def test_every_command_of_a_workflow_is_one(name: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(line)[1:]
    command: click.Command = cli
    path: list[str] = []
    while words and isinstance(command, click.Group):
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, f"{name}: {line}"
        command = found
        path.append(words.pop(0))
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= known
    assert call(capsys, *path, "--help").code == 0


COMMENT_JOB = """
const fs = require('fs')
const [script, event, pulls, comments] = JSON.parse(fs.readFileSync(0, 'utf8'))
const said = { created: [], updated: [], notices: [], failures: [] }
const github = {
  paginate: async () => comments,
  rest: {
    pulls: { list: async () => ({ data: pulls }) },
    issues: { createComment: async x => said.created.push(x), updateComment: async x => said.updated.push(x) },
  },
}
const context = { repo: { owner: 'o', repo: 'r' }, payload: { workflow_run: event } }
const core = { notice: x => said.notices.push(x), setFailed: x => said.failures.push(x) }
const run = new (Object.getPrototypeOf(async () => {}).constructor)('github', 'context', 'core', 'require', script)
run(github, context, core, require).then(() => console.log(JSON.stringify(said)))
"""


def comment(text: str | None, tmp_path: Path, comments: list[Any] | None = None, sha: str = "abc") -> dict[str, Any]:
    """What the comment job does with an artifact of that text."""
    (script,) = (step["with"]["script"] for step in steps(COMMENT) if "script" in step.get("with", {}))
    path = tmp_path / "difference.md"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    event = {"head_repository": {"owner": {"login": "fork"}}, "head_branch": "b", "head_sha": "abc",
             "conclusion": "success", "html_url": "https://example.org/run"}  # fmt: skip
    pulls = [{"number": 7, "head": {"sha": sha}}]
    done = subprocess.run(
        ["node", "-e", COMMENT_JOB], input=json.dumps([script, event, pulls, comments or []]), text=True,
        capture_output=True, env={"DIFFERENCE": str(path), "PATH": "/usr/bin:/usr/local/bin:/bin"}, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)  # type: ignore[no-any-return]


needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="no `node` on PATH")


@needs_node
@pytest.mark.parametrize(
    "text",
    [
        "- new: a\n",
        "```\n@everyone **bold** <img src=x>\n```\n",
        "~~~\n" + "`" * 40 + "\n# heading",
        "a\u202eb\x1b[31m\r\n````\r````",
    ],
)
def test_the_comment_is_one_fence_whatever_the_artifact_says(text: str, tmp_path: Path) -> None:
    (made,) = comment(text, tmp_path)["created"]
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(made["body"])
    assert [token.type for token in tokens] == ["html_block", "paragraph_open", "inline", "paragraph_close", "fence"]
    assert made["issue_number"] == 7
    assert "\u202e" not in made["body"]


@needs_node
def test_the_comment_is_renewed_and_belongs_to_the_commit(tmp_path: Path) -> None:
    first = comment("- new: a\n", tmp_path)["created"][0]["body"]
    before = [{"id": 1, "user": {"login": "stranger"}, "body": first},
              {"id": 2, "user": {"login": "github-actions[bot]"}, "body": first}]  # fmt: skip
    said = comment("- new: b\n", tmp_path, before)
    assert [update["comment_id"] for update in said["updated"]] == [2]
    assert said["created"] == []
    assert comment("x", tmp_path, sha="other")["created"] == []
    assert comment("x" * 2**21, tmp_path)["created"][0]["body"].count("could not be compared") == 1
    assert comment("`" * 50_000, tmp_path)["failures"] == ["the difference cannot be fenced"]
    (tmp_path / "difference.md").unlink()
    assert "could not be compared" in comment(None, tmp_path)["created"][0]["body"]
