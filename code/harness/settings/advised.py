"""The submission commands that messages recommend, and the folder that these use by default."""

from pathlib import Path

from harness.paths import ROOT
from harness.results.layout import Scene
from harness.settings.run import make_variables


def package_command(rehearsal: bool = False) -> str:
    """The command that makes a submission, or a rehearsal of one."""
    return f"harness package --division <open or closed> --submitter <you>{' --rehearsal' if rehearsal else ''}"


def campaign_command(scene: Scene, rehearsal: bool = False) -> str:
    """The command that makes the performance and the accuracy run of a scenario."""
    return f"make submission {make_variables(scene, rehearsal, '<model>')}"


def default_output(rehearsal: bool) -> Path:
    """The default root of a submission, or of a rehearsal of one."""
    return ROOT / "build" / ("rehearsal-submission" if rehearsal else "submission")
