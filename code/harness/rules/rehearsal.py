"""Runs that are not for submission (development runs and rehearsals), and the notices that say so."""

from harness.paths import ROOT

DEVELOPMENT_SECONDS = 20.0
"""The default duration of a development run."""
NOTICE = "Development run: not for submission."
NOTICE_FILE = "NOT-FOR-SUBMISSION.txt"
"""The file with the notices, beside the logs of a run that is not for submission."""
REHEARSAL = "REHEARSAL with stand-ins, not a measurement: not for submission."
REHEARSAL_PREFIX = "rehearsal-"
"""Prefix of the system's name, so that every path of a rehearsal shows what it is."""
REHEARSAL_TREE = ROOT / "build" / "rehearsal"
