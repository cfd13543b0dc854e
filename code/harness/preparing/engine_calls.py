"""Calls of an engine's own methods, which may raise anything but must not cause the loss of a result."""

from pydantic import ValidationError

from harness.engines.base import Engine, EngineSettings
from harness.errors import EngineError
from harness.results.parts import RecordedEngine
from harness.settings.run import RunSettings
from harness.terminal import console
from harness.validation import first_error


def close(engine: Engine, consequence: str) -> None:
    """Close the engine; an error is a warning that names the ``consequence``."""
    try:
        engine.close()
    except BaseException as error:  # noqa: BLE001  an engine may raise anything
        console.warn(f"{engine.name} failed to close ({_in_words(error)}); {consequence}.")


def remark(engine: Engine) -> None:
    """Print the engine's remark on the compiled model, if it has one."""
    try:
        if text := engine.remark():
            console.warn(text)
    except Exception as error:  # noqa: BLE001  an engine may raise anything
        console.warn(f"remark() of engine {engine.name} failed: {_in_words(error)}.")


def described(engine: Engine, settings: EngineSettings) -> RecordedEngine:
    """The engine's description, or its settings if ``describe()`` fails.

    Raises:
        EngineError: run.json cannot hold it; found before the test, so that no result is lost.
    """
    try:
        found = engine.describe()
    except Exception as error:  # noqa: BLE001  an engine may raise anything
        console.warn(f"describe() of engine {engine.name} failed, so run.json lacks its version: {_in_words(error)}.")
        found = {"name": engine.name, **settings.model_dump()}
    try:
        return RecordedEngine.of(found)
    except ValidationError as error:
        first = first_error(error)
        raise EngineError(
            f"describe() of engine {engine.name} returns {first.where} {first.value!r}, which run.json cannot hold "
            f"({first.message}): return another value."
        ) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise EngineError(
            f"describe() of engine {engine.name} returns what run.json cannot hold ({_in_words(error)}): return a "
            "dictionary of strings and numbers."
        ) from error


def activity(engine: type[Engine], verb: str, settings: RunSettings) -> str:
    """A sentence about an engine at work on the model, with advice in case the process crashes meanwhile."""
    hints = [engine.alternative] if engine.alternative else []
    if not console.output().verbose:
        hints.append("harness -v run shows what the engine printed")
    return f"{engine.name} {verb} {settings.model.path}" + (f": {'; '.join(hints)}" if hints else "")


def _in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")
