"""Verifies that the models on this machine are unchanged since they were shipped or fetched."""

from collections.abc import Sequence

from harness.catalog import manifests
from harness.catalog.contract import benchmark_class
from harness.catalog.models import fetch_record, identify_model, model_file
from harness.errors import ConfigError, did_you_mean
from harness.terminal import console


def verify(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Hash models again and read their graphs; by default all shipped and fetched ones.

    Returns:
        (a line for each good model, a line for each bad one); a missing model that was named is bad.

    Raises:
        ConfigError: a name is unknown.
    """
    known = manifests.models()
    for name in names:
        if name not in known:
            raise ConfigError(f"no model '{name}' to verify: {did_you_mean(name, known)}")
    here = [name for name, (_, entry) in known.items() if entry.file or model_file(name).exists()]
    good, problems = [], []
    for name in names or here:
        console.detail(f"{name}: hashing the file and reading its graph")
        try:
            model, file = identify_model(name)
            if not benchmark_class(model.benchmark).accepts(file.graph.inputs):
                raise ConfigError(f"the inputs of {model.path} do not match {model.benchmark}.")
        except ConfigError as error:
            problems.append(f"{name}: {error}")
        else:
            good.append(f"{name}: {verdict(model)}")
    return good, problems


def verdict(model: manifests.Model) -> str:
    """How a model was verified to be the published one, and its sha256."""
    record = fetch_record(model.name)
    _, entry = manifests.models()[model.name]
    by_md5 = record is not None and record.verified == "md5" and entry.sha256 is None
    return f"{model.remark or ('verified by md5' if by_md5 else 'verified')}, sha256 {model.sha256}"
