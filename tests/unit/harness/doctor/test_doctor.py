"""What the doctor finds on machines and installations that are made up."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.doctor import environment, examine, folders, installation
from harness.host import machine as machine_facts
from harness.paths import CODE
from harness.terminal.findings import BAD, GOOD, WARNING, Finding, summary


def put(root: Path, **content: str) -> Path:
    for name, text in content.items():
        path = root / name.replace("__", "/").replace("DOT", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def only(found) -> Finding:
    (finding,) = found
    return finding


def level(found) -> list[str]:
    return [finding.level for finding in found]


@pytest.mark.parametrize("version", [(3, 8, 1), (3, 10, 12), (3, 14, 0), (4, 0, 0)])
def test_a_wrong_python_is_bad_and_has_a_cure(version):
    finding = next(installation.python(version, "/usr/bin/python3"))
    assert finding.level == BAD
    assert ".".join(map(str, version)) in finding.what
    assert "PYTHON=" in finding.cure


SHOW = """
import sys
import harness.doctor.examine
print(*(module.__file__ for name, module in sys.modules.items() if name.startswith("harness")), sep="\\n")
"""
NEWER = {
    "typing": {
        "assert_never",
        "Concatenate",
        "LiteralString",
        "Never",
        "NotRequired",
        "override",
        "ParamSpec",
        "Required",
    }
    | {"Self", "TypeAlias", "TypeGuard", "TypeVarTuple", "Unpack"},
    "enum": {"StrEnum"},
    "datetime": {"UTC"},
    "itertools": {"batched", "pairwise"},
}
"""Names of the standard library that Python 3.9 lacks."""


def test_what_the_doctor_imports_is_also_in_older_pythons():
    """Or it could not say that they are too old."""
    loaded = subprocess.run(
        [sys.executable, "-S", "-c", SHOW],
        env={**os.environ, "PYTHONPATH": str(CODE)}, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert len(loaded) > 8
    for file in loaded:
        for statement in ast.parse(Path(file).read_text("utf-8"), feature_version=(3, 9)).body:
            if isinstance(statement, ast.ImportFrom):
                names = {alias.name for alias in statement.names}
                assert not names & NEWER.get(statement.module or "", set()), file
            elif isinstance(statement, ast.Import):
                assert "tomllib" not in {alias.name for alias in statement.names}, file


@pytest.mark.parametrize("minor", [11, 12, 13])
def test_a_python_that_serves_is_good(minor):
    assert next(installation.python((3, minor, 1))).level == GOOD


def test_packages_that_are_missing_or_of_another_version(tmp_path):
    (tmp_path / "pyproject.toml").write_text('dependencies = [\n    "numpy<2",\n    "no-such-package",\n]\n')
    (tmp_path / "requirements.lock").write_text("numpy==0.0.1 ; python_version < '3' \\\nno-such-package==1\n")
    missing, other = installation.packages(tmp_path)
    assert (missing.level, other.level) == (BAD, WARNING)
    assert "no-such-package" in missing.what
    assert "pinned: 0.0.1" in other.what
    assert "make setup" in missing.cure


def test_a_project_that_lists_no_packages_is_not_called_complete(tmp_path):
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "requirements.lock").touch()
    assert only(installation.packages(tmp_path)).level == WARNING


def test_a_module_that_crashes_when_it_is_imported_is_reported(tmp_path, monkeypatch):
    (tmp_path / "crashing.py").write_text("import os; os.abort()")
    (tmp_path / "failing.py").write_text("raise OSError('no such library')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "signal 6" in installation._import_problem("crashing")
    assert "no such library" in installation._import_problem("failing")
    assert installation._import_problem("json") == ""


def test_a_module_in_the_current_folder_is_not_taken_for_an_engine(tmp_path, monkeypatch):
    (tmp_path / "colorsys.py").write_text("raise OSError")
    monkeypatch.chdir(tmp_path)
    assert installation._import_problem("colorsys") == ""


@pytest.mark.parametrize(("has", "word"), [(True, "in bf16"), (False, "in f32: this processor has no bf16")])
def test_openvino_says_what_it_computes_in(monkeypatch, has, word):
    monkeypatch.setattr(machine_facts, "computes_bf16", lambda: has)
    finding = only(installation.openvino())
    assert finding.level == GOOD
    assert finding.what.endswith(f"; computes FP32 models {word}")


def test_an_openvino_that_cannot_be_imported_blocks_nothing_else(monkeypatch):
    monkeypatch.setattr(installation, "_import_problem", lambda module: "libtbb.so.12: no such file")
    finding = only(installation.openvino())
    assert (finding.level, finding.subject) == (WARNING, "OpenVINO")
    assert "libtbb.so.12" in finding.what


def test_looking_at_openvino_sends_no_usage_data(tmp_path, monkeypatch):
    (tmp_path / "asking.py").write_text("import openvino_telemetry")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "openvino_telemetry" in installation._import_problem("asking")


@pytest.mark.parametrize(
    ("version", "word"),
    [((3, 12, 1), "needs Python 3.11"), ((3, 10, 1), "needs Python 3.11"), ((3, 11, 1), "DEEPSPARSE=0")],
)
def test_a_missing_deepsparse_is_a_warning_with_its_reason_and_licence(monkeypatch, version, word):
    monkeypatch.setattr(installation.util, "find_spec", lambda name: None)
    finding = only(installation.deepsparse(version))
    assert finding.level == WARNING
    assert word in finding.what
    assert "evaluation use only" in finding.what
    assert "make setup" in finding.cure


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("6.0.17", (GOOD, "v6.1")),
        ("6.0.5", (GOOD, "v6.0")),
        ("5.0.9", (GOOD, "v5.0")),
        ("4.1.0", (WARNING, "older")),
        ("6.1.0", (WARNING, "newer")),
        ("7.0", (WARNING, "newer")),
    ],
)
def test_the_round_of_a_loadgen(monkeypatch, version, expected):
    monkeypatch.setattr(installation, "_version", lambda name: version)
    monkeypatch.setattr(installation, "_import_problem", lambda module: "")
    finding = only(installation.loadgen())
    assert finding.level == expected[0]
    assert expected[1] in finding.what


def test_no_loadgen_is_bad(monkeypatch):
    monkeypatch.setattr(installation, "_version", lambda name: "")
    assert only(installation.loadgen()).level == BAD


@pytest.mark.parametrize(
    ("flags", "deepsparse", "expected"),
    [
        ("avx2 avx512f avx512_vnni", True, GOOD),
        ("avx2 avx_vnni", True, GOOD),
        ("avx2", True, WARNING),
        ("sse4_2", True, BAD),
        ("sse4_2", False, WARNING),
    ],
)
def test_instruction_sets(tmp_path, flags, deepsparse, expected):
    put(tmp_path, proc__cpuinfo=f"model name : x\nflags\t\t: {flags}")
    assert only(environment.instruction_sets(tmp_path, deepsparse)).level == expected


def test_instruction_sets_of_arm_and_of_no_cpuinfo(tmp_path):
    assert only(environment.instruction_sets(tmp_path)).level == WARNING
    put(tmp_path, proc__cpuinfo="Features\t: asimd asimddp i8mm")
    finding = only(environment.instruction_sets(tmp_path))
    assert finding == Finding(GOOD, "instructions", "dot product, I8MM; without SVE, BF16")
    put(tmp_path, proc__cpuinfo="Features\t: fp asimd")
    finding = only(environment.instruction_sets(tmp_path))
    assert finding.level == WARNING
    assert "gain less without dot product" in finding.what


def machine(root: Path, threads: int = 2) -> Path:
    for cpu in range(4):
        place = f"sys__devices__system__cpu__cpu{cpu}__topology__"
        put(root, **{f"{place}core_id": str(cpu // threads), f"{place}physical_package_id": "0"})
    return root


def test_cores_hyper_threads_and_those_that_are_kept_away(tmp_path):
    machine(tmp_path)
    assert only(environment.cores(tmp_path, {0, 1, 2, 3})).what == "2 cores, 4 hyper-threads on 1 socket"
    kept = only(environment.cores(tmp_path, {0, 1}))
    assert kept.level == WARNING
    assert "2 CPUs" in kept.what


@pytest.mark.parametrize(
    "limit",
    [
        {"proc__self__cgroup": "0::/a/b", "sys__fs__cgroup__a__cpuDOTmax": "150000 100000"},
        {"proc__self__cgroup": "0::/../elsewhere", "sys__fs__cgroup__cpuDOTmax": "150000 100000"},
        {
            "proc__self__cgroup": "4:cpu,cpuacct:/x",
            "sys__fs__cgroup__cpu__x__cpuDOTcfs_quota_us": "150000",
            "sys__fs__cgroup__cpu__x__cpuDOTcfs_period_us": "100000",
        },
    ],
)
def test_a_containers_cpu_quota(tmp_path, limit):
    put(machine(tmp_path), **limit)
    _, quota = environment.cores(tmp_path, {0, 1, 2, 3})
    assert quota.level == WARNING
    assert "1.5 of 4 CPUs" in quota.what


def test_without_a_quota_there_is_no_line(tmp_path):
    put(machine(tmp_path), proc__self__cgroup="0::/", sys__fs__cgroup__cpuDOTmax="max 100000")
    only(environment.cores(tmp_path, {0, 1, 2, 3}))


def test_numa(tmp_path):
    assert only(environment.numa(tmp_path)).what == "one node"
    for node, cpus in ((0, "0-1"), (1, "2-3"), (2, "")):  # the last one is memory alone
        put(tmp_path, **{f"sys__devices__system__node__node{node}__cpulist": cpus})
    finding = only(environment.numa(tmp_path))
    assert finding.level == GOOD
    assert finding.what.startswith("2 nodes")
    put(tmp_path, proc__sys__kernel__numa_balancing="1")
    assert "numa_balancing=0" in only(environment.numa(tmp_path)).cure


def test_clocks(tmp_path):
    assert level(environment.clock(tmp_path)) == [GOOD, GOOD]
    cpu = "sys__devices__system__cpu__"
    put(
        tmp_path,
        **{
            f"{cpu}cpu0__cpufreq__scaling_governor": "powersave",
            f"{cpu}intel_pstate__no_turbo": "1",
            "sys__devices__system__clocksource__clocksource0__current_clocksource": "hpet",
            "sys__kernel__mm__transparent_hugepage__enabled": "always madvise [never]",
        },
    )
    found = list(environment.clock(tmp_path))
    assert level(found) == [WARNING] * 4
    assert all(finding.cure for finding in found)
    put(tmp_path, **{f"{cpu}cpu0__cpufreq__scaling_governor": "performance", f"{cpu}intel_pstate__no_turbo": "0"})
    assert level(environment.clock(tmp_path))[:2] == [GOOD, GOOD]
    put(tmp_path, **{f"{cpu}cpufreq__boost": "0"})
    assert "cpufreq/boost" in list(environment.clock(tmp_path))[1].cure


def test_memory_swap_and_the_limit_of_a_container(tmp_path):
    text = "MemTotal: 16777216 kB\nMemAvailable: {} kB\nSwapTotal: {} kB\nSwapFree: 0 kB"
    for available, expected in ((8_000_000, GOOD), (1_500_000, WARNING), (200_000, BAD)):
        put(tmp_path, proc__meminfo=text.format(available, 0))
        assert only(environment.memory(tmp_path)).level == expected
    put(tmp_path, proc__meminfo=text.format(8_000_000, 500_000))
    assert [finding.subject for finding in environment.memory(tmp_path)] == ["memory", "swap"]
    put(tmp_path, proc__meminfo=text.format(8_000_000, 0), proc__self__cgroup="0::/")
    put(tmp_path, sys__fs__cgroup__memoryDOTmax=str(2**30), sys__fs__cgroup__memoryDOTcurrent=str(2**30 - 2**28))
    finding = only(environment.memory(tmp_path))
    assert finding.level == BAD
    assert "256 MiB free within the container's limit of 1.0 GiB" in finding.what


def times(root: Path, user: int, idle: int, stolen: int, greedy: int, own: int) -> None:
    rows = f"cpu  {user} 0 0 {idle} 0 0 0 {stolen} 0 0\ncpu0 1 0 0 0 0 0 0 0 0 0\ncpu1 1 0 0 0 0 0 0 0 0 0"
    put(root, proc__stat=rows)
    for pid, name, ticks in ((7, "a (b) c", greedy), (9, "doctor", own)):
        put(root, **{f"proc__{pid}__stat": f"{pid} ({name}) R {' '.join(['0'] * 10)} {ticks} 0 0 0"})


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ((50, 50, 0, 50, 0), ["other processes WARNING"]),
        ((0, 100, 0, 0, 0), ["other processes GOOD"]),
        ((50, 50, 0, 0, 50), ["other processes GOOD"]),
        ((0, 90, 10, 0, 0), ["other processes GOOD", "host WARNING"]),
    ],
)
def test_other_busy_processes_and_a_host_that_takes_time(tmp_path, after, expected):
    times(tmp_path, 0, 0, 0, 0, 0)
    found = list(environment.other_processes(tmp_path, sleep=lambda seconds: times(tmp_path, *after), own=9))
    assert [f"{finding.subject} {finding.level.upper()}" for finding in found] == expected
    if found[0].level == WARNING:
        assert "1.0 of 2 CPUs busy: a (b) c (7)" in found[0].what


def test_a_folder_that_cannot_be_written_is_bad(tmp_path):
    assert only(folders.writable(Path("/proc/results"), "results")).level == BAD  # read-only even for root
    (tmp_path / "file").touch()
    assert only(folders.writable(tmp_path / "file", "results")).level == BAD
    assert list(folders.writable(tmp_path / "not" / "yet", "results")) == []


def test_folders_below_those_that_runs_write_are_also_tried(tmp_path, monkeypatch):
    (tmp_path / "build" / "runs").mkdir(parents=True)
    monkeypatch.setattr(folders, "writable", lambda folder, subject: [subject] if folder.name == "runs" else [])
    tried, *_ = folders.folders(tmp_path)
    assert tried == "build/runs"


def refuse(path):
    raise PermissionError(13, "Permission denied", str(path))


def test_a_model_that_may_not_be_read_stops_a_run(monkeypatch):
    monkeypatch.setattr("harness.files.fingerprint.sha256_of", refuse)
    for finding in folders.models():
        assert finding.level == BAD
        assert "cannot be read (Permission denied)" in finding.what
        assert finding.cure == "check the path and its permissions"


def test_a_data_set_that_may_not_be_read_leaves_the_others(monkeypatch):
    monkeypatch.setattr("resnet50.task.dataset_file", refuse)
    found = list(folders.datasets())
    assert any(f.level == BAD and "Permission denied" in f.what for f in found)
    assert any(f.level == GOOD and f.what.startswith("sample: ") for f in found)


@pytest.mark.parametrize(
    ("files_there", "expected", "said"),
    [(["a.JPEG"], WARNING, "it has 1 images"), ([], BAD, "does not exist; add it")],
)
def test_images_that_are_few_serve_development_and_a_map_without_them_nothing(
    tmp_path, monkeypatch, files_there, expected, said
):
    (tmp_path / "val_map.txt").write_text("a.JPEG 3\n")
    for name in files_there:
        (tmp_path / name).touch()
    monkeypatch.setenv("IMAGENET_DIR", str(tmp_path))
    finding = next(f for f in folders.datasets() if said in f"{f.what} {f.cure}")
    assert finding.level == expected


def test_a_line_of_user_conf_without_effect_is_a_warning_with_its_fix(tmp_path, monkeypatch):
    path = tmp_path / "user.conf"
    path.write_text("*.Server.target_qps = 4\n*.Server.target_qps = 5\n")
    monkeypatch.setattr("harness.settings.request.default_conf", lambda: path)
    warning, good = folders.user_conf()
    assert (warning.level, warning.cure, good.level) == (WARNING, "delete one of them", GOOD)
    assert "line 1 has no effect, because line 2 sets 5" in warning.what


def test_a_user_conf_that_only_an_official_run_refuses(tmp_path, monkeypatch):
    conf = tmp_path / "user.conf"
    conf.write_text("resnet50.Server.min_duration = 60000\n")
    monkeypatch.setattr("harness.settings.request.default_conf", lambda: conf)
    assert only(folders.user_conf()).level == GOOD
    finding = only(folders.user_conf(official=True))
    assert finding.level == BAD
    assert "line 1: min_duration is 60000 ms" in finding.what
    assert finding.cure == "delete the line"


def test_a_read_only_folder_is_found_even_by_root(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    folder.chmod(0o555)
    finding = only(folders.writable(folder, "results"))
    assert finding.level == (WARNING if os.geteuid() == 0 else BAD)
    assert f"chmod u+w {folder}" in finding.cure
    folder.chmod(0o755)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_read_only_folder_is_bad_for_a_user(tmp_path):
    tmp_path.chmod(0o555)
    code = os.fork()
    if code == 0:
        for parent in tmp_path.parents:  # that pytest made for root alone
            if parent.name.startswith("pytest"):
                parent.chmod(0o755)
        os.setuid(65534)
        os._exit(0 if level(folders.writable(tmp_path, "results")) == [BAD] else 1)
    assert os.waitpid(code, 0)[1] == 0
    tmp_path.chmod(0o755)


def test_a_check_that_fails_leaves_the_others():
    def missing():
        yield Finding(GOOD, "a", "fine")
        raise ImportError(name="numpy")

    def broken():
        raise RuntimeError("odd")

    done = []
    found = examine.look(
        [("a", missing), ("b", broken), ("c", lambda: [Finding(BAD, "c", "x")])], lambda: done.append(1)
    )
    assert [finding.subject for finding in found] == ["a", "a", "b", "c"]
    assert level(found) == [GOOD, BAD, WARNING, BAD]  # without a package there is no run either
    assert "numpy" in found[1].what
    assert found[1].cure
    assert len(done) == 3
    assert summary(found) == "2 bad, 1 warning: fix the errors first."
