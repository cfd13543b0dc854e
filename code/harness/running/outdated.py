"""Compliance tests of a result that was replaced: they were compared with logs that no longer exist."""

import os
import shutil

from harness.errors import ConfigError
from harness.files.digest import sha256_of
from harness.results.layout import RUN, RUN_1, Classic
from harness.results.record import read_record, reference
from harness.rules.audits import AUDITS
from harness.settings.run import RunSettings
from harness.terminal import console


def set_aside(settings: RunSettings) -> None:
    """Move the compliance tests of the result that a run replaced to build/campaign/replaced.

    The new result is already stored, so a test that cannot be read or moved only causes a warning.
    """
    if not (settings.official and settings.force) or settings.audit:
        return
    layout, scene = Classic(settings.tree), settings.scene
    for test in AUDITS:
        folder = layout.compliance(scene, test)
        logs = folder / RUN_1
        try:
            record = read_record(logs)
            if record is None or record.reference == reference(layout.results(scene), test):
                continue
        except ConfigError as error:
            console.warn(str(error))
            continue
        name = "-".join((scene.system, scene.benchmark, scene.scenario, test, sha256_of(logs / RUN)[:8]))
        kept = settings.runs_dir.parent / "campaign" / "replaced" / name
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(kept, ignore_errors=True)
            shutil.move(folder, kept)
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            console.warn(
                f"{folder} belongs to the replaced result, but cannot be moved to {kept} ({why}): move it away."
            )
            continue
        console.warn(
            f"{test} was compared with the replaced result: it is now in {kept}; repeat it with `make compliance "
            f"{settings.make_variables}`, with the same settings."
        )
