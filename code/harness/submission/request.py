"""A package as a user requests it, and as it is made."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ConfigError
from harness.paths import ROOT
from harness.registry import SCENARIOS, choose
from harness.results.layout import Classic, check_checkout
from harness.rules.rehearsal import REHEARSAL_PREFIX, REHEARSAL_TREE
from harness.rules.rounds import DIVISIONS, Round, find_round
from harness.settings.advised import default_output

_MAX_NAME_LENGTH = 80  # characters: file systems and the checkers' messages can hold these


@dataclass(frozen=True, kw_only=True)
class PackageRequest:
    """A package as a user requests it; `resolve` decides on everything else."""

    division: str
    submitter: str
    systems: Sequence[str] = ()
    """By default all that have results."""
    scenarios: Sequence[str] = ()
    """By default all that have results."""
    models: Sequence[str] = ()
    """Each ``NAME`` or ``NAME@ENGINE``, or the path of a file; by default all that have results."""
    tree: Path | None = None
    """The folder with results/ and compliance/; by default this repository, or that of rehearsals."""
    output: Path | None = None
    round_name: str | None = None
    """By default the round of the runs."""
    rehearsal: bool = False
    infer: bool = False
    """Whether to add the results that the rules let a submitter infer."""


@dataclass(frozen=True)
class Submission:
    """The content of a package, its source and its submitter."""

    division: str
    submitter: str
    systems: tuple[str, ...]
    source: Classic
    output: Path
    """The root of the tree; the package goes to <output>/<division>/<submitter>."""
    round: Round | None
    """The round that the runs must belong to; None for any."""
    rehearsal: bool
    infer: bool = False
    scenarios: tuple[str, ...] = ()
    """The only ones to package; empty for all."""
    models: tuple[str, ...] = ()
    """Likewise, each as in `PackageRequest`."""

    @property
    def closed(self) -> bool:
        """Whether the rules of the closed division apply."""
        return self.division == "closed"


def resolve(request: PackageRequest) -> Submission:
    """The submission that a user requests; in a rehearsal, submitter and systems get `REHEARSAL_PREFIX`.

    Raises:
        ConfigError: a name is wrong, or there are no results at all.
    """
    check_checkout("`harness package`")
    submitter, rehearsal = request.submitter, request.rehearsal
    if request.division not in DIVISIONS:
        raise ConfigError(f"unknown division '{request.division}': choose {' or '.join(DIVISIONS)}.")
    if not submitter:
        raise ConfigError("the submitter is missing: give the name of your organisation with --submitter (SUBMITTER=).")
    if not submitter.strip() or not all(c.isalnum() or c in "._-" for c in submitter) or submitter.startswith("."):
        raise ConfigError(f"'{submitter}' is not a valid submitter name: use letters, digits, '.', '_' and '-'.")
    output = (request.output or default_output(rehearsal)).resolve()
    _check_output(output)
    source = Classic(request.tree or (REHEARSAL_TREE if rehearsal else ROOT))
    names = (submitter, *(request.systems or _systems(source, rehearsal)))
    if rehearsal:
        names = tuple(name if name.startswith(REHEARSAL_PREFIX) else REHEARSAL_PREFIX + name for name in names)
    for name in names:
        if len(name) > _MAX_NAME_LENGTH:
            raise ConfigError(f"the name '{name[:20]}...' is too long: use at most {_MAX_NAME_LENGTH} characters.")
    return Submission(
        division=request.division,
        submitter=names[0],
        systems=names[1:],
        source=source,
        output=output,
        round=find_round(request.round_name) if request.round_name else None,
        rehearsal=rehearsal,
        infer=request.infer,
        scenarios=tuple(choose("scenario", SCENARIOS, scenario) for scenario in request.scenarios),
        models=tuple(request.models),
    )


def _check_output(output: Path) -> None:
    """Check that a submission may be written to this folder.

    Raises:
        ConfigError: it is a file, or holds something else.
    """
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output} is a file: choose a folder with --output.")
    others = [path.name for path in sorted(output.glob("[!.]*")) if path.is_dir() and path.name not in DIVISIONS]
    if others:
        raise ConfigError(
            f"{output} holds {others[0]}, which is not part of a submission: choose another folder with --output."
        )


def _systems(source: Classic, rehearsal: bool) -> tuple[str, ...]:
    """The systems that have results.

    Raises:
        ConfigError: there are none.
    """
    found = tuple(sorted({scene.system for scene in source.scenes()}))
    if not found:
        command = f"make submission{' REHEARSAL=1' if rehearsal else ''}"
        raise ConfigError(f"there are no official results in {source.root / 'results'}: make them with `{command}`.")
    return found
