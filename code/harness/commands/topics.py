"""`harness help TOPIC`: the terms of MLPerf, from the Markdown files in help/."""

from importlib import resources

from harness.errors import ConfigError, did_you_mean


def overview() -> dict[str, str]:
    """Every topic and its title."""
    return {name: text.partition("\n")[0].lstrip("# ") for name, text in _texts().items()}


def text(topic: str) -> str:
    """The Markdown text of a topic; case, '-', '_' and spaces in its name do not matter.

    Raises:
        ConfigError: there is no such topic; the message gives the nearest.
    """
    texts = _texts()
    wanted = _plain(topic)
    found = next((name for name in texts if _plain(name) == wanted), None)
    if found is None:
        raise ConfigError(f"no help on '{topic}': {did_you_mean(topic, texts)} `harness help` lists all topics.")
    return texts[found]


def _plain(topic: str) -> str:
    return "".join(letter for letter in topic.casefold() if letter.isalnum())


def _texts() -> dict[str, str]:
    files = (
        file for file in resources.files("harness.commands").joinpath("help").iterdir() if file.name.endswith(".md")
    )
    return {file.name[:-3]: file.read_text(encoding="utf-8") for file in sorted(files, key=lambda file: file.name)}
