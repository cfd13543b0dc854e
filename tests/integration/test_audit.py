"""LoadGen applies the audit settings as intended, and its logs can be verified."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from audit_logs import write_log

from harness.compliance.verify import verify_accuracy, verify_performance
from harness.loadgen.logs import read_detail
from harness.rules.audits import AUDITS

PLAYER = """
import array, sys
import mlperf_loadgen as lg

scenario, conf, audit, out = sys.argv[1:]

def issue(queries):
    for query in queries:
        label = array.array("i", [query.index])
        place, count = label.buffer_info()
        lg.QuerySamplesComplete([lg.QuerySampleResponse(query.id, place, 4 * count)])

settings = lg.TestSettings()
settings.scenario, settings.mode = getattr(lg.TestScenario, scenario), lg.TestMode.PerformanceOnly
settings.FromConfig(conf, "resnet50", scenario, 1)
output = lg.LogOutputSettings()
output.outdir, output.copy_summary_to_stdout = out, False
logs = lg.LogSettings()
logs.log_output, logs.enable_trace = output, False
sut, qsl = lg.ConstructSUT(issue, lambda: None), lg.ConstructQSL(50, 50, lambda s: None, lambda s: None)
lg.StartTestWithLogSettings(sut, qsl, settings, logs, audit)
"""
CONF = """*.*.min_duration = 1000
*.Server.target_qps = 2000
*.Offline.target_qps = 50000
*.SingleStream.target_latency = 0.02
*.MultiStream.target_latency = 0.1
*.*.min_query_count = 1
"""


def play(room: Path, scenario: str, audit: str | None) -> Path:
    out = room / (audit or "none")
    out.mkdir()
    (room / "player.py").write_text(PLAYER)
    (room / "user.conf").write_text(CONF)
    given = out / "audit.config"
    if audit:
        given.write_text(AUDITS[audit].config)
    command = [sys.executable, room / "player.py", scenario, room / "user.conf", given, out]
    subprocess.run(command, check=True, timeout=60)
    return out


@pytest.mark.parametrize("scenario", ["Offline", "Server", "SingleStream", "MultiStream"])
def test_loadgen_reads_the_settings(tmp_path, scenario):
    plain = play(tmp_path, scenario, None)
    for name, audit in AUDITS.items():
        tested = play(tmp_path, scenario, name)
        assert audit.unread(read_detail(tested, "performance").values) == ""
        assert audit.unread(read_detail(plain, "performance").values)
        if scenario == "Server":  # the only one that is VALID in such a short test
            verdict = verify_performance(plain, tested, name)
            assert verdict.passed, verdict.reason
    answers = write_log(tmp_path / "accuracy.json", [(n, n.to_bytes(4, "little")) for n in range(50)])
    assert verify_accuracy(answers, tmp_path / "TEST01" / "mlperf_log_accuracy.json").passed
    for empty in ("none", "TEST04"):
        verdict = verify_accuracy(answers, tmp_path / empty / "mlperf_log_accuracy.json")
        assert "nothing was compared" in verdict.reason
