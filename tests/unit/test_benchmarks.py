"""The measuring scripts run and keep their promises: valid JSON, every figure that the notes rely on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "model_zoo/digits/Linf-0.2/digits-preact_resnet18-pgd-at-ba708f-s0/model.safetensors"


def run_script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.skipif(not DIGITS.is_file(), reason="the zoo's digits weights are not here")
def test_autoattack_measures_both_engines(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    shortened = ("--steps", "2", "--queries", "3", "--rounds", "1", "--n", "4")
    done = run_script("autoattack", "--nets", "digits_preact", *shortened, "--json", "--out", str(out))
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures == json.loads(out.read_text())
    assert {"hardware", "cores", "threads", "torch", "git", "date", "deatbench"} <= figures["machine"].keys()
    assert "SHORTENED" in done.stderr  # nobody may take such a run for AutoAttack
    (net,) = figures["nets"]
    assert (net["net"], net["n"], net["eps"]) == ("digits_preact", 4, "0.2")
    assert {round_["engine"] for round_ in net["rounds"]} == {"deatbench", "pyautoattack"}
    for round_ in net["rounds"]:
        assert round_["seconds"] >= sum(round_["member_seconds"].values()) > 0
        assert round_["robust_acc"] <= round_["clean_acc"] == net["clean_acc"]
        assert next(iter(round_["robust_after"])) == "apgd-ce"
    assert net["ratio"] == net["seconds"]["pyautoattack"] / net["seconds"]["deatbench"]
    assert 0 <= net["verdicts_differ"] <= 4


def test_a_net_that_is_not_at_hand_is_not_measured(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    arguments = ("--nets", "abc_resnet2b", "--models", str(tmp_path), "--json", "--out", str(out))
    done = run_script("autoattack", *arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["nets"] == []
    assert "not measured: no abc_resnet2b.safetensors" in done.stderr


def test_gpu_smoke_rehearses_on_the_cpu(tmp_path: Path) -> None:
    out = tmp_path / "smoke.json"
    arguments = ("--device", "cpu", "--quick", "--compile", "", "--budget", "0", "--out", str(out))
    done = run_script("gpu_smoke", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = json.loads(out.read_text())["lines"]
    assert {"gradients", "peak", "first conv", "graph", "throughput"} == {line["part"] for line in lines}
    assert sum(line["verdict"] == "PASS" for line in lines) == 9  # three networks, three checks each off CUDA
    assert all(line["verdict"] == "SKIP" for line in lines if line["part"] == "throughput")  # the budget was none
