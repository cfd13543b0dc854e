from __future__ import annotations

import subprocess
import sys

import pytest

from harness.errors import ConfigError
from harness.loadgen.conf import check_official, min_queries, read_user_conf
from harness.rules.limits import MIN_DURATION_MS


def conf(tmp_path, text):
    path = tmp_path / "user.conf"
    path.write_text(text)
    return read_user_conf(path)


def test_the_precedence_is_loadgens(tmp_path):
    found = conf(
        tmp_path,
        "*.*.min_duration = 1000\nbert.*.min_duration = 2000\n*.Offline.min_duration = 3000\n"
        "bert.Offline.min_duration = 4000\nbert.Offline.min_duration = 5000\n",
    )
    values = {
        (model, scenario): found.lookup(model, scenario, "min_duration").value
        for model in ("bert", "resnet50")
        for scenario in ("Offline", "Server")
    }
    assert values == {
        ("bert", "Offline"): "5000",
        ("bert", "Server"): "2000",
        ("resnet50", "Offline"): "3000",
        ("resnet50", "Server"): "1000",
    }
    assert found.lookup("bert", "Offline", "target_qps") is None


def test_what_loadgen_reads_is_accepted(tmp_path):
    found = conf(tmp_path, "# a comment\n\n*.Offline.target_qps = 12.5\n  bert.Server.target_qps  =  3e2\n")
    assert [(e.line, e.key, e.value) for e in found.entries] == [
        (3, "target_qps", "12.5"),
        (4, "target_qps", "3e2"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("*.Offline.target_qsp = 1", "unknown key 'target_qsp': did you mean 'target_qps'"),
        ("*.Ofline.target_qps = 1", "unknown scenario 'Ofline': did you mean 'Offline'"),
        ("brt.Offline.target_qps = 1", "unknown model 'brt': did you mean 'bert'"),
        ("Offline.target_qps = 1", "not of the form model.Scenario.key"),
        ("*.Offline.target_qps=1", "needs spaces around '=': write '*.Offline.target_qps = 1'"),
        ("*.Offline.target_qps =", "expected 'model.Scenario.key = value'"),
        ("*.Offline.target_qps = 1 # fast", "no comment after a value"),
        ("*.Offline.target_qps = 1 2", "more than one value"),
        ("#*.Offline.target_qps = 1", "write '# ...'"),
        ("*.Offline.target_qps\u00a0= 1", r"the character '\xa0'"),
        ("*.Offline.target_qps = \u0661", "the character "),
        ("*.Offline.target_qps = 1\x1c", "the character "),
        ("*.Offline.target_qps = 1e400", "too large for LoadGen"),
        ("*.*.min_query_count = 99999999999999999999", "too large for LoadGen"),
        ("*.Offline.target_qps = fast", "bare number, in samples per second"),
        ("*.Offline.target_qps = 5k", "bare number, in samples per second"),
        ("*.Offline.target_qps = 0", "must be greater than 0"),
        ("*.Offline.target_qps = -3", "must be greater than 0"),
        ("*.Offline.min_duration = 600", "milliseconds, and this looks like seconds: write 600000"),
        ("*.Offline.min_duration = 0", "too short by the rules: delete the line"),
        ("*.Offline.min_duration = 00", "integer in milliseconds, and would misread"),
        ("*.*.min_query_count = 010", "integer in queries, and would misread"),
        ("*.Offline.target_qps = nan", "bare number, in samples per second"),
        ("*.Offline.target_qps = inf", "bare number, in samples per second"),
        ("*.Offline.target_qps = 0x10", "bare number, in samples per second"),
        ("*.*.max_duration = -1", "integer in milliseconds, and would misread"),
        ("*.Offline.min_duration = 600s", "bare number, in milliseconds"),
        ("*.Offline.min_duration = 6e5", "integer in milliseconds, and would misread"),
        ("*.Offline.qsl_rng_seed = 1", "qsl_rng_seed cannot be set in user.conf"),
        ("*.Server.target_latency = 500", "target_latency of Server is fixed by the rules"),
        ("*.Server.target_latency_percentile = 90", "target_latency_percentile cannot be set"),
        ("*.MultiStream.samples_per_query = 4", "samples_per_query cannot be set"),
        ("*.*.performance_issue_same = 1", "only the compliance tests set it"),
        ("*.SingleStream.target_qps = 5", "has no effect in SingleStream; it applies to Server and Offline"),
        ("*.Server.coalesce_queries = 2", "must be 0 or 1"),
    ],
)
def test_a_wrong_line_is_an_error_with_its_number(tmp_path, line, message):
    with pytest.raises(ConfigError) as error:
        conf(tmp_path, f"# first\n*.Offline.target_qps = 5\n{line}\n")
    assert "user.conf, line 3: " in str(error.value)
    assert message in str(error.value)


def test_a_missing_file_and_a_binary_one_are_errors(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be read \(No such file"):
        read_user_conf(tmp_path / "none.conf")
    (tmp_path / "binary.conf").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_user_conf(tmp_path / "binary.conf")


def test_the_harnesses_own_lines_may_have_durations_below_a_second(tmp_path):
    found = conf(
        tmp_path, "*.*.target_qps = 4\n# set by the harness. Development run.\nbert.Offline.min_duration = 500\n"
    )
    assert found.lookup("bert", "Offline", "min_duration").value == "500"
    with pytest.raises(ConfigError, match="looks like seconds"):
        conf(tmp_path, "bert.Offline.min_duration = 500\n# set by the harness.\n")
    for end in ("", "# mine\n", "#\n"):
        text = f"# set by the harness.\nbert.Offline.min_duration = 500\n{end}\nbert.Server.min_duration = 600\n"
        with pytest.raises(ConfigError, match=r"line (4|5)"):
            conf(tmp_path, text)


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path):
    found = conf(tmp_path, "\ufeffbert.Offline.target_qps = 4\n")
    assert found.lookup("bert", "Offline", "target_qps").value == "4"


@pytest.mark.parametrize("line", ["*.*.min_duration = 599999", "bert.Offline.max_query_count = 3"])
def test_an_official_run_refuses_what_makes_it_invalid(tmp_path, line):
    found = conf(tmp_path, f"{line}\n")
    with pytest.raises(ConfigError, match="line 1: "):
        check_official(found, "bert", "Offline", MIN_DURATION_MS)


def test_an_official_run_may_be_longer_than_the_minimum(tmp_path):
    found = conf(tmp_path, "*.*.min_duration = 660000\n*.*.target_qps = 4\n")
    check_official(found, "bert", "Offline", MIN_DURATION_MS)


@pytest.mark.parametrize(
    ("model", "scenario", "least"),
    [
        ("resnet50", "Server", 100),
        ("bert", "MultiStream", 662),
        ("resnet50", "Offline", 24576),
        ("bert", "Offline", 10833),
    ],
)
def test_an_official_run_may_have_more_queries_than_the_round_demands_but_not_fewer(tmp_path, model, scenario, least):
    text = f"{model}.{scenario}.min_query_count = {{}}\n"
    check_official(conf(tmp_path, text.format(least)), model, scenario, MIN_DURATION_MS)
    check_official(conf(tmp_path, text.format(10 * least)), model, scenario, 0)
    with pytest.raises(ConfigError, match=f"line 1: min_query_count is {least - 1}; .* at least {least}"):
        check_official(conf(tmp_path, text.format(least - 1)), model, scenario, MIN_DURATION_MS)


def test_of_a_network_of_the_open_division_no_number_of_samples_is_demanded(tmp_path):
    check_official(conf(tmp_path, "*.Offline.min_query_count = 5\n"), "*", "Offline", MIN_DURATION_MS)


@pytest.mark.parametrize("model", ["bert", "resnet50"])
@pytest.mark.parametrize("scenario", ["SingleStream", "MultiStream", "Server", "Offline"])
def test_the_minimum_number_of_queries_is_that_of_the_installed_loadgen(tmp_path, model, scenario):
    (tmp_path / "user.conf").write_text("# nothing\n")
    code = (  # its mlperf.conf is only read with the first user.conf of a process
        "import sys, mlperf_loadgen\n"
        "settings = mlperf_loadgen.TestSettings()\n"
        "assert settings.FromConfig(*sys.argv[1:]) == 0\n"
        "print(settings.min_query_count)\n"
    )
    command = [sys.executable, "-c", code, tmp_path / "user.conf", model, scenario]
    found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert int(found.stdout.split()[-1]) == min_queries(model, scenario)


def test_the_harness_lines_follow_the_users_even_without_a_last_newline(tmp_path):
    text = conf(tmp_path, "*.Offline.target_qps = 5").extended("why", ["bert.Offline.min_duration = 2000"])
    assert text.splitlines() == ["*.Offline.target_qps = 5", "# why", "bert.Offline.min_duration = 2000"]


def test_a_line_that_a_later_one_replaces_is_warned_of(tmp_path):
    text = "*.Server.target_qps = 4\nbert.Server.target_qps = 6\n*.Server.target_qps = 4\n"
    [warning] = conf(tmp_path, f"{text}*.Server.target_qps = 5\n").repeated()
    assert warning == "*.Server.target_qps = 4 in line 3 has no effect, because line 4 sets 5: delete one of them."
    assert not list(conf(tmp_path, f"{text}*.Server.target_qps = 4.0\n").repeated())
    assert not list(conf(tmp_path, f"{text}# set by the harness.\n*.Server.target_qps = 7\n").repeated())
