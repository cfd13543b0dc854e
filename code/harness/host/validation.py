"""Settings from user input."""

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from harness.errors import ConfigError

S = TypeVar("S", bound=BaseModel)


def validated(settings: type[S], values: Mapping[str, object]) -> S:
    """Settings of that class from user input.

    Raises:
        ConfigError: a value is wrong; the message names the first one.
    """
    try:
        return settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else settings.__name__
        reason = first["msg"][:1].lower() + first["msg"][1:]
        raise ConfigError(f"{name} = {first['input']}: {reason}.") from None
