"""Detects that a user named the wrong tree: one level too high or too low, a tarball, or a tree of another round."""

import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from harness.checking.recorded import RECORDED, find_recorded
from harness.errors import ConfigError
from harness.rules.rounds import DIVISIONS, ROUNDS, Round
from harness.settings.advised import default_output, package_command

_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".zip")
_PARTS = ("results", "systems")
"""Folders of a submitter."""


def check_place(root: Path, rehearsal: bool) -> None:
    """Check that ``root`` is the folder that contains <division>/<submitter>.

    A folder without any part of a tree passes: the checks report what it lacks.

    Raises:
        ConfigError: it is not a folder, or the tree is above or below it; the message has the right command.
    """
    if root.is_file() and root.name.endswith(_ENDINGS):
        raise ConfigError(_unpack(root, rehearsal))
    if not root.is_dir():
        raise ConfigError(
            f"{root} is not a folder: create it with `{package_command(rehearsal)}`, or pass the folder to check."
        )
    if _holds_a_tree(root):
        return
    whole = root.resolve()
    for folder in (whole, *whole.parents):
        if folder.name in RECORDED and find_recorded(folder.parent):
            raise ConfigError(
                f"{root} is only a part of the official runs in {folder.parent}: check all of them with "
                f"`{_command(folder.parent, rehearsal=False)}`."
            )
        if folder.name in DIVISIONS and _holds_a_tree(folder.parent):
            raise ConfigError(
                f"{root} is only a part of the tree in {folder.parent}: check all of it with "
                f"`{_command(folder.parent, rehearsal)}`."
            )
    if below := list(_below(root)):
        names = ", ".join(str(folder.relative_to(root)) for folder in below)
        raise ConfigError(
            f"{root} does not contain a tree itself, but {names} {'does' if len(below) == 1 else 'do'}: check "
            f"{'it' if len(below) == 1 else 'one of them'} with `{_command(below[0], rehearsal)}`."
        )
    if all((root / part).is_dir() for part in _PARTS):
        raise ConfigError(
            f"{root} is the folder of a submitter without its division: move it to "
            f"<tree>/<closed or open>/<submitter>, and check it with `{_command(Path('<tree>'), rehearsal)}`."
        )


def _holds_a_tree(folder: Path) -> bool:
    """Whether a folder has <division>/<submitter> with parts of a submission in it."""
    return any((path / part).is_dir() for name in DIVISIONS for path in _folders(folder / name) for part in _PARTS)


def _below(root: Path) -> Iterator[Path]:
    """The trees one and two levels below a folder."""
    for child in _folders(root):
        if _holds_a_tree(child):
            yield child
        else:
            yield from filter(_holds_a_tree, _folders(child))


def _folders(folder: Path) -> list[Path]:
    try:
        found = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except OSError:
        return []
    return sorted(found)


def _unpack(archive: Path, rehearsal: bool) -> str:
    name = archive.name.removesuffix(next(each for each in _ENDINGS if archive.name.endswith(each)))
    target = archive.with_name(f"{name}-unpacked")
    unpack = "unzip -q" if archive.suffix == ".zip" else "tar -xf"
    into, quoted = "-d" if archive.suffix == ".zip" else "-C", shlex.quote(str(target))
    return (
        f"{archive} is an archive, not a folder: check what is in it with `mkdir {quoted} && {unpack} "
        f"{shlex.quote(str(archive))} {into} {quoted} && {_command(target, rehearsal)}`."
    )


def check_round(root: Path, logs: Iterable[Round | None], wanted: Round | None, rehearsal: bool) -> None:
    """Check that some of a tree's logs belong to the wanted round; ``logs`` has the round of each.

    Raises:
        ConfigError: all logs belong to another round, or to none that is known.
    """
    found = list(logs)
    known = {each for each in found if each}
    if len(found) > 1 and not known:
        names = ", ".join(each.name for each in ROUNDS)
        raise ConfigError(
            f"no log in {root} has the seeds of a round that this project knows ({names}): run the tests again with "
            "the LoadGen that `make setup` installs."
        )
    if wanted and len(known) == 1 and wanted not in known:
        (other,) = known
        raise ConfigError(
            f"{root} belongs to {other.name}, not to {wanted.name}: check with `{_command(root, rehearsal)} --round "
            f"{other.name}`, or run all tests again with LoadGen {'.'.join(map(str, wanted.first))} or a later version "
            "of that round."
        )


def _command(root: Path, rehearsal: bool) -> str:
    name = str(root)
    # `package --rehearsal` gives its folder this name, and its tarball a name that starts with it.
    flag = " --rehearsal" if rehearsal or root.name.startswith(default_output(rehearsal=True).name) else ""
    return f"harness check {name if name.startswith('<') else shlex.quote(name)}{flag}"
