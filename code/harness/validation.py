"""Settings from user input."""

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from harness.errors import ConfigError

S = TypeVar("S", bound=BaseModel)


class FirstError(NamedTuple):
    """The first of pydantic's errors about an object."""

    place: tuple[str, ...]
    """The keys that lead to the value; empty for the object itself."""
    message: str
    """Pydantic's, without a period."""
    value: object

    @property
    def key(self) -> str:
        """The object's key that is wrong, or that leads to the wrong value; "" for the object itself."""
        return self.place[0] if self.place else ""

    @property
    def where(self) -> str:
        """All keys, joined by periods."""
        return ".".join(self.place)

    @property
    def reason(self) -> str:
        """The message for the middle of a sentence."""
        return self.message[:1].lower() + self.message[1:]

    def __str__(self) -> str:
        """Where the error is, and what: ``steps: Input should be greater than 0``."""
        what = self.message.removeprefix("Value error, ")  # of the harness's own checks
        return f"{self.where}: {what}" if self.place else what


def first_error(error: ValidationError) -> FirstError:
    """The first error."""
    first = error.errors()[0]
    return FirstError(tuple(map(str, first["loc"])), first["msg"], first["input"])


def validated(settings: type[S], values: Mapping[str, object]) -> S:
    """Settings of that class from user input.

    Raises:
        ConfigError: a value is wrong; the message names the first one.
    """
    try:
        return settings.model_validate(values)
    except ValidationError as error:
        first = first_error(error)
        raise ConfigError(f"{first.key or settings.__name__} = {first.value}: {first.reason}.") from None
