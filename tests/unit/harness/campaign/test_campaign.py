"""Which tests of a campaign count as done; the tests themselves are replaced by their records."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from finished import run_folder

from harness import paths
from harness.campaign import campaign as module
from harness.campaign.campaign import Campaign
from harness.campaign.done import user_conf_change
from harness.campaign.steps import EventLog, Step, StepState
from harness.catalog.datasets import find_dataset
from harness.errors import Busy, ConfigError, Interrupted
from harness.results.record import reference
from harness.running.places import reserved
from harness.running.run import Ended
from harness.settings.identity import identity
from harness.settings.request import RunRequest, resolve

STEPS = ("performance", "accuracy", "TEST01")


@pytest.fixture
def data(small_squad, tmp_path):
    return Path(shutil.copyfile(small_squad, tmp_path / "data.json"))


@pytest.fixture
def request_(data, tmp_path):
    return RunRequest(
        engine="null", rehearsal=True, dataset=str(data), duration=1.0, system="toy", tree=tmp_path,
        runs_dir=tmp_path / "runs",
    )  # fmt: skip


@pytest.fixture
def campaign(request_, tmp_path):
    return planned(request_, tmp_path)


def planned(request, top, **options):
    settings = resolve(request)
    performance, accuracy = (Step(settings.model_copy(update={"mode": mode})) for mode in ("performance", "accuracy"))
    audit = Step(settings.model_copy(update={"audit": "TEST01"}), [performance, accuracy])
    return Campaign([performance, accuracy, audit], EventLog(top / "events" / "toy.jsonl"), top / "events", **options)


def finish(step):
    """Write what a finished test leaves."""
    settings, folder = step.settings, step.folder
    shutil.rmtree(settings.target, ignore_errors=True)
    run_folder(folder.parent, name=folder.name, scenario="Offline", mode=settings.mode, timeline=False)
    if settings.accuracy:
        (folder / "mlperf_log_accuracy.json").write_text("[]")
        (folder / "accuracy.txt").write_text("")
    dataset = find_dataset("bert", settings.dataset)
    edit(step, identity=identity(settings).model_dump(), rehearsal=True, audit=settings.audit,
         dataset={"name": "d", "path": str(dataset.path), "sha256": dataset.sha256, "samples_used": 5})  # fmt: skip
    if settings.audit:
        edit(step, reference=reference(settings.tree / "results" / "rehearsal-toy" / "bert-99" / "Offline", "TEST01"))


def edit(step, **values):
    path = step.folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def looked(campaign):
    campaign.look()
    return {step.test: (str(step.state), step.reason) for step in campaign.steps}


@pytest.fixture
def done(campaign):
    for step in campaign.steps:
        finish(step)
        campaign.events.write(step, StepState.DONE, seconds=2.5)
    return campaign


DONE, TO_DO = ("done", ""), "to do"
FIRST = "performance must be repeated first"


def test_valid_records_are_done(done):
    assert looked(done) == dict.fromkeys(STEPS, DONE)
    assert done.steps[0].seconds == 2.5


@pytest.mark.parametrize(
    ("conf", "seconds"),
    [("", 600), ("*.Server.target_qps = 1", 1001), ("*.Server.target_qps = 50", 600)],
)
def test_the_planned_time_is_that_which_early_stopping_needs(request_, tmp_path, conf, seconds):
    path = tmp_path / "user.conf"
    path.write_text(f"{conf}\n")
    slow = replace(request_, duration=None, scenario="Server", user_conf=path)
    first = planned(slow, tmp_path).facts()["tests"][0]
    assert seconds <= first["expected_seconds"] <= seconds + 60


def test_a_mistake_in_user_conf_is_reported_before_anything_is_planned(request_, tmp_path):
    path = tmp_path / "user.conf"
    path.write_text("wrong\n")
    with pytest.raises(ConfigError, match=r"user\.conf, line 1: expected"):
        planned(replace(request_, user_conf=path), tmp_path)


def test_a_user_conf_that_was_edited_after_its_test_is_named(request_, tmp_path, capsys):
    path = tmp_path / "user.conf"
    path.write_text("*.Offline.target_qps = 10\n*.Server.target_qps = 3\n")
    campaign = planned(replace(request_, user_conf=path), tmp_path)
    for step in campaign.steps:
        finish(step)
        text = f"{path.read_text()}# set by the harness.\nbert.Offline.min_duration = 500\n"
        (step.folder / "user.conf").write_text(text)
    assert campaign.run() == 0
    assert "user.conf has changed" not in capsys.readouterr().err
    path.write_text("*.Offline.target_qps = 10\nbert.Offline.target_qps = 12\n*.Server.target_qps = 4\n")
    assert campaign.run() == 0
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "performance counts as done although user.conf has changed (target_qps = 10 then, target_qps = 12 now)" in said
    )
    assert said.count("user.conf has changed") == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("*.Offline.target_qps = 10.0\n", ""),
        ("", "target_qps = 10 then, target_qps unset now"),
        ("*.Offline.target_qps = 10\n# set by the harness.\nbert.Offline.min_duration = 500\n", ""),
        (
            "*.Offline.target_qps = 10\n# set by the harness.\nbert.Offline.min_duration = 500\n"
            "bert.Offline.target_qps = 12.5\n",
            "target_qps = 10, min_duration unset then, target_qps = 12.5, min_duration = 500 now",
        ),
    ],
)
def test_a_change_of_user_conf_is_one_of_values_also_in_a_copy_of_a_runs(request_, tmp_path, text, said):
    path = tmp_path / "user.conf"
    path.write_text(text)
    step = planned(replace(request_, user_conf=path), tmp_path).steps[0]
    finish(step)
    run = "*.Offline.target_qps = 10\n# set by the harness.\nbert.Offline.min_duration = 500\n"
    (step.folder / "user.conf").write_text(run)
    assert user_conf_change(step) == said


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda step: edit(step, valid=False), "its record says that it is not valid"),
        (lambda step: (step.folder / "mlperf_log_summary.txt").unlink(), "mlperf_log_summary.txt is missing"),
    ],
)
def test_a_test_whose_record_or_logs_do_not_count_is_to_do_again(done, change, reason):
    change(done.steps[0])
    assert looked(done) == {"performance": (TO_DO, reason), "accuracy": DONE, "TEST01": (TO_DO, FIRST)}


@pytest.mark.parametrize("file", ["mlperf_log_detail.txt", "mlperf_log_accuracy.json", "accuracy.txt"])
def test_an_accuracy_run_without_its_logs_or_score_is_to_do_again(done, file):
    (done.steps[1].folder / file).unlink()
    assert looked(done)["accuracy"] == (TO_DO, f"{file} is missing")


def test_tests_of_other_data_are_to_do_again_and_replaced(done, data, tmp_path, monkeypatch, capsys):
    old = (done.steps[0].folder / "run.json").read_bytes()
    data.write_text(data.read_text().replace("Severn", "Thames"))
    changed = (TO_DO, "its data set has changed")
    assert looked(done) == {"performance": changed, "accuracy": changed, "TEST01": changed}
    done.show()
    assert capsys.readouterr().out.count("its data set has changed") == 3

    ran = []

    def run(settings):
        ran.append((settings.test, settings.force))
        finish(next(step for step in done.steps if step.test == settings.test))
        return Ended(0, None)

    monkeypatch.setattr(module, "run_test", run)
    assert done.run() == 0
    assert ran == [(test, True) for test in STEPS]
    kept = sorted((tmp_path / "events" / "replaced").iterdir())
    assert [folder.name.split("-")[-2] for folder in kept] == ["TEST01", "accuracy", "performance"]
    assert (kept[2] / "run.json").read_bytes() == old
    assert "again, since its data set has changed" in capsys.readouterr().err
    assert looked(done) == dict.fromkeys(STEPS, DONE)


def test_a_campaign_ends_when_its_terminal_is_closed(campaign, monkeypatch):
    monkeypatch.setattr(module, "run_test", lambda settings: Ended(129, None))  # 128 + SIGHUP
    with pytest.raises(Interrupted, match="0 of 3 tests are kept"):
        campaign.run()
    assert campaign.events.last()[campaign.steps[0].name]["event"] == "started"


def test_data_that_change_during_a_campaign_leave_earlier_tests_to_do(campaign, data, monkeypatch):
    def run(settings):
        if settings.accuracy:
            data.write_text(data.read_text().replace("Severn", "Thames"))
        finish(next(step for step in campaign.steps if step.test == settings.test))
        return Ended(0, None)

    monkeypatch.setattr(module, "run_test", run)
    assert campaign.run() == 1
    assert campaign.steps[0].reason == "its data set has changed"
    assert [str(step.state) for step in campaign.steps] == [TO_DO, "done", TO_DO]
    assert campaign.run() == 0


def test_a_model_that_changes_during_a_campaign_leaves_its_tests_to_do(request_, tmp_path, monkeypatch):
    model = Path(shutil.copyfile(resolve(request_).model.path, tmp_path / "model.onnx"))
    campaign = planned(replace(request_, model=str(model)), tmp_path)

    def run(settings):
        finish(next(step for step in campaign.steps if step.test == settings.test))
        if settings.audit:
            model.write_bytes(model.read_bytes() + b"\x0a\x00")  # another producer's name: the same graph
        return Ended(0, None)

    monkeypatch.setattr(module, "run_test", run)
    assert campaign.run() == 1
    assert {step.reason for step in campaign.steps} == {"its model has changed"}
    with pytest.raises(ConfigError, match="holds a run with another model: move it away, or use the same"):
        planned(replace(request_, model=str(model)), tmp_path).look()


def test_an_official_test_is_done_although_its_data_set_is_not_here(request_, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "DATA_DIR", tmp_path / "nothing")
    settings = resolve(request_).model_copy(update={"rehearsal": False, "dataset": None})
    campaign = Campaign([Step(settings)], EventLog(tmp_path / "toy.jsonl"), tmp_path)
    finish(campaign.steps[0])
    data = {"name": "squad-v1.1", "sha256": "1" * 64, "samples_used": 10833}
    edit(campaign.steps[0], rehearsal=False, for_submission=True, dataset=data)
    assert looked(campaign) == {"performance": DONE}
    full = find_dataset("bert", None).model_copy(update={"official": True})
    monkeypatch.setattr("harness.campaign.done.find_dataset", lambda *_: full)
    assert looked(campaign) == {"performance": (TO_DO, "its data set has changed")}


def test_a_record_without_the_digest_of_its_data_counts(done):
    data = {"name": "d", "path": done.steps[0].settings.dataset, "sha256": None, "samples_used": 5}
    for step in done.steps:
        edit(step, dataset=data)
    assert looked(done) == dict.fromkeys(STEPS, DONE)


def images(step, digest, hour=12):
    """Another set of images under the same list, used by a test that ended at that hour."""
    record = json.loads((step.folder / "run.json").read_text())
    edit(step, dataset=record["dataset"] | {"samples_sha256": digest * 64}, time=f"2026-11-25T{hour}:00:00+0000")


OTHER_IMAGES = "its data set is not that of the newer {} run"


def test_a_test_on_images_that_were_replaced_before_the_next_is_repeated(done, monkeypatch):
    images(done.steps[0], "a", hour=12)
    images(done.steps[1], "b", hour=13)
    images(done.steps[2], "a", hour=11)
    older = (TO_DO, OTHER_IMAGES.format("accuracy"))
    assert looked(done) == {"performance": older, "accuracy": DONE, "TEST01": older}
    images(done.steps[2], "b", hour=14)
    assert looked(done)["performance"] == (TO_DO, OTHER_IMAGES.format("TEST01"))
    assert looked(done)["TEST01"] == (TO_DO, FIRST)

    ran = []

    def run(settings):
        step = next(step for step in done.steps if step.test == settings.test)
        ran.append(step.test)
        finish(step)
        images(step, "b", hour=15)
        return Ended(0, None)

    monkeypatch.setattr(module, "run_test", run)
    assert done.run() == 0
    assert ran == ["performance", "TEST01"]
    assert looked(done) == dict.fromkeys(STEPS, DONE)


def test_images_that_are_replaced_during_a_campaign_leave_earlier_tests_to_do(campaign, monkeypatch):
    def run(settings):
        step = next(step for step in campaign.steps if step.test == settings.test)
        finish(step)
        images(step, "b" if settings.audit else "a", hour=12 + campaign.steps.index(step))
        return Ended(0, None)

    monkeypatch.setattr(module, "run_test", run)
    assert campaign.run() == 1
    assert {step.reason for step in campaign.steps[:2]} == {OTHER_IMAGES.format("TEST01")}
    assert campaign.steps[2].reason == "performance and accuracy must be repeated first"


@pytest.mark.parametrize("time", ["", "yesterday", "0001-01-01T00:00:00"])
def test_tests_whose_records_have_no_time_are_compared_as_well(done, time):
    images(done.steps[0], "a")
    for step in done.steps[:2]:
        edit(step, time=time)
    assert looked(done)["performance"] == (TO_DO, OTHER_IMAGES.format("TEST01"))


def test_a_repeated_test_that_fails_is_not_done_because_of_its_old_result(done, monkeypatch):
    edit(done.steps[1], valid=False)
    monkeypatch.setattr(module, "run_test", lambda settings: Ended(1, None))
    assert done.run() == 1
    assert [str(step.state) for step in done.steps] == ["done", "failed", "blocked"]
    assert looked(done)["accuracy"][0] == "failed"


def test_a_result_that_is_removed_while_other_tests_run_is_to_do_again(campaign, monkeypatch):
    def run(settings):
        if settings.accuracy:
            shutil.rmtree(campaign.steps[0].target)
        finish(next(step for step in campaign.steps if step.test == settings.test))
        return Ended(0, None)

    monkeypatch.setattr(module, "run_test", run)
    assert campaign.run() == 1
    assert (str(campaign.steps[0].state), campaign.steps[0].reason) == (
        TO_DO,
        "its result was removed while other tests ran",
    )


def test_the_reason_of_a_failed_test_is_that_of_its_own_record(campaign, tmp_path, monkeypatch):
    folder = run_folder(tmp_path / "runs", valid=False, reasons=["too few queries", "too short"])
    run_folder(tmp_path / "runs", name="of-another", valid=False, reasons=["not this"])
    monkeypatch.setattr(module, "run_test", lambda settings: Ended(1, folder))
    assert campaign.run() == 1
    assert campaign.steps[0].reason == "too few queries; too short"
    (folder / "run.json").write_text("{")
    assert module._reason(Ended(1, folder)) == module._reason(Ended(1, None)) == ""


def test_a_replacement_that_was_interrupted_between_its_renames_is_repeated(done, monkeypatch):
    edit(done.steps[0], valid=False)
    target = done.steps[0].settings.target
    target.rename(target.with_name(f".{target.name}.old"))
    forced = []

    def run(settings):
        assert target.is_dir()
        forced.append((settings.test, settings.force))
        finish(next(step for step in done.steps if step.test == settings.test))
        return Ended(0, None)

    monkeypatch.setattr(module, "run_test", run)
    assert done.run() == 0
    assert forced == [("performance", True), ("TEST01", True)]


def test_a_compliance_test_of_replaced_results_is_to_do_again(done):
    log = done.steps[0].folder / "mlperf_log_detail.txt"
    log.write_text(log.read_text() + "\n")
    assert looked(done)["TEST01"] == (TO_DO, "it was compared with results that were replaced later")


def test_compliance_tests_alone_need_results_that_count(done, request_, tmp_path, monkeypatch):
    edit(done.steps[0], valid=False)
    alone = replace(done, steps=done.steps[2:], retry=True)
    monkeypatch.setattr(module, "run_test", lambda settings: pytest.fail("ran"))
    assert alone.run() == 1
    model = done.steps[0].settings.model.name
    command = f"`make submission REHEARSAL=1 SYSTEM=toy SCENARIOS=Offline MODELS={model}` with the same settings"
    reason = f"needs performance (its record says that it is not valid): run {command}"
    assert (str(alone.steps[0].state), alone.steps[0].reason) == ("blocked", reason)
    shutil.rmtree(done.steps[1].settings.target)
    assert alone.run() == 1
    assert f"not valid) and accuracy (missing): run {command}" in alone.steps[0].reason


def test_the_command_for_a_needed_test_names_a_model_by_its_path_unless_it_is_known(request_, tmp_path, monkeypatch):
    model = Path(shutil.copyfile(resolve(request_).model.path, tmp_path / "my net.onnx"))
    model.write_bytes(model.read_bytes() + b"\x0a\x00")  # another producer's name: the same graph
    campaign = planned(replace(request_, model=str(model)), tmp_path)
    alone = replace(campaign, steps=campaign.steps[2:])
    monkeypatch.setattr(module, "run_test", lambda settings: pytest.fail("ran"))
    assert alone.run() == 1
    assert rf"MODELS='{tmp_path}/my\ net.onnx'`" in alone.steps[0].reason


@pytest.mark.parametrize(
    ("values", "other"),
    [
        ({"scenario": "Server"}, "scenario"),
        ({"mode": "accuracy"}, "test"),
        ({"rehearsal": False}, "kind"),
        ({"rehearsal": False, "for_submission": True}, "kind"),
    ],
)
def test_the_record_of_another_test_is_not_touched(done, values, other):
    edit(done.steps[0], **values)
    with pytest.raises(ConfigError, match=f"holds a run with another {other}.*: move it away"):
        done.look()
    shutil.move(done.steps[0].settings.target, done.folder / "away")
    assert looked(done)["performance"] == (TO_DO, "")


def test_results_that_were_removed_are_to_do(done):
    for step in done.steps:
        shutil.rmtree(step.settings.target)
    assert looked(done) == dict.fromkeys(STEPS, (TO_DO, ""))


@pytest.mark.parametrize(
    "line",
    ["", "[]", "{}", '{"test": []}', "[" * 9999, "\xff", '{"test": "bert-99 Offline performance"}',
     '{"test": "bert-99 Offline performance", "event": "done", "seconds": "long"}',
     '{"test": "bert-99 Offline performance", "event": "done", "seconds": NaN}',
     '{"test": "bert-99 Offline performance", "event": ["done"], "seconds": 1e999}'],
)  # fmt: skip
def test_a_damaged_event_log_changes_nothing_but_the_times(done, line):
    with (done.folder / "toy.jsonl").open("a", encoding="latin-1") as file:
        file.write(f"{line}\n")
    assert looked(done) == dict.fromkeys(STEPS, DONE)
    done.show()


def test_a_record_of_wrong_numbers_is_an_error_without_a_traceback(done):
    record = json.loads((done.steps[0].folder / "run.json").read_text())
    edit(done.steps[0], result={**record["result"], "samples": 0})
    edit(done.steps[1], valid=False)
    done.look()
    done.show()


@pytest.mark.parametrize(("failures", "state", "runs"), [(1, "done", 2), (2, "done", 3), (5, "failed", 3)])
def test_a_compliance_test_of_a_rehearsal_that_fails_is_repeated(done, monkeypatch, failures, state, runs):
    shutil.rmtree(done.steps[2].target)
    ran = []

    def run(settings):
        ran.append(settings.test)
        if len(ran) <= failures:
            return Ended(1, None)
        finish(done.steps[2])
        return Ended(0, None)

    monkeypatch.setattr(module, "run_test", run)
    assert done.run() == (0 if state == "done" else 1)
    assert (str(done.steps[2].state), ran) == (state, ["TEST01"] * runs)


def test_the_results_of_a_campaign_are_reserved_while_it_runs_and_its_tests_run_all_the_same(campaign, monkeypatch):
    targets = [step.target for step in campaign.steps]

    def run(settings):
        for target in targets:
            with pytest.raises(Busy, match="another test or campaign is writing"), reserved(target, settings.tree):
                pass
        finish(next(step for step in campaign.steps if step.test == settings.test))
        return Ended(0, None)

    monkeypatch.setattr(module, "run_test", run)
    assert campaign.run() == 0
    for target in targets:
        with reserved(target, campaign.steps[0].settings.tree):
            pass


def test_a_campaign_beside_a_test_of_its_results_is_refused_and_touches_nothing(done, monkeypatch):
    monkeypatch.setattr(module, "run_test", lambda settings: pytest.fail("ran"))
    target = done.steps[0].target
    old = target.with_name(f".{target.name}.old")
    target.rename(old)  # the test is between the two renames of its replacement
    alone = replace(done, steps=done.steps[2:])
    with reserved(target, done.steps[0].settings.tree):
        for campaign in (done, alone):
            with pytest.raises(Busy, match=f"is writing {target}"):
                campaign.run()
    assert old.is_dir()
    assert not target.exists()


def test_rehearsals_side_by_side_have_different_results(done, request_, tmp_path, monkeypatch):
    other = planned(replace(request_, system="another"), tmp_path)

    def run(settings):
        if settings.scene.system == "rehearsal-another":
            with pytest.raises(Busy, match="another test or campaign is writing"):
                planned(replace(request_, system="another"), tmp_path).run()
            assert done.run() == 0
        finish(next(step for step in other.steps if step.test == settings.test))
        return Ended(0, None)

    monkeypatch.setattr(module, "run_test", run)
    assert other.run() == 0
