"""What was written is read back by a schema: a wrong value gives one sentence that names the file and the field."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import AllowInfNan, BaseModel, ConfigDict, Strict, TypeAdapter, ValidationError

from napari_claps.errors import ClapsError, InputError

Number = Annotated[float, Strict()]
"""A number, and no text that looks like one."""
Finite = Annotated[float, Strict(), AllowInfNan(False)]
Whole = Annotated[int, Strict()]
Switch = Annotated[bool, Strict()]

T = TypeVar("T")


class Part(BaseModel):
    """An object in a file; what a newer version adds to it is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", arbitrary_types_allowed=True)


def checked(kind: type[T], value: object, *, where: str = "", error: type[ClapsError] = InputError) -> T:
    """Return `value` as `kind`.

    Parameters
    ----------
    kind : type
        A `Part`, a dataclass, or a type with annotations.
    value : object
        Of plain types, as JSON and TOML have them.
    where : str
        File, for the message.
    error : type of ClapsError

    Raises
    ------
    ClapsError
        Of the type `error`, if something is missing or of the wrong type: the first thing that is.
    """
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as wrong:
        raise error(_placed(_sentence(wrong), where)) from None  # its own text repeats the whole value
    except (RecursionError, OverflowError) as wrong:
        raise error(_placed(f"has a value that is nested too deep or too large ({type(wrong).__name__}).",
                            where)) from None


def checked_fields(dataclass: type, values: Mapping[str, Any], *, where: str = "") -> dict[str, Any]:
    """Return the values of some fields of a dataclass, each of exactly the type that it is annotated with.

    Raises
    ------
    InputError
        If one is of another type.
    """
    types = get_type_hints(dataclass)
    found = {}
    for name, value in values.items():
        try:
            found[name] = _adapter(types[name], strict=True).validate_python(value)
        except ValidationError as wrong:
            raise InputError(_placed(_sentence(wrong, name), where)) from None
    return found


def read_json(path: Path, *, what: str = "a record") -> Any:
    """Return the content of a JSON file.

    Raises
    ------
    InputError
        If it cannot be read; `what` says in the message what it should be.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: cannot be read: there is no such file.") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except (ValueError, RecursionError) as error:  # damaged, nested too deep, or a number of thousands of digits
        raise InputError(f"{path}: cannot be read as {what}, it is not valid JSON ({_short(error)}).") from error


def parse_toml(text: str) -> dict[str, Any]:
    """Return the content of a TOML text.

    Raises
    ------
    ValueError
        If it is no TOML, nested too deep, or has a number of thousands of digits.
    """
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def _adapter(kind: Any, *, strict: bool = False) -> TypeAdapter[Any]:
    return _made(kind, strict)


@cache  # to make one takes a thousand times as long as to use it
def _made(kind: Any, strict: bool) -> TypeAdapter[Any]:
    return TypeAdapter(kind, config=ConfigDict(strict=True) if strict else None)


def _placed(sentence: str, where: str) -> str:
    return f"{where}: {sentence}" if where and where not in sentence else sentence


def _sentence(wrong: ValidationError, field: str = "") -> str:
    first = wrong.errors(include_url=False)[0]
    own = first.get("ctx", {}).get("error")
    if isinstance(own, ClapsError):
        return str(own)
    field = field or _field(first["loc"])
    match first["type"]:
        case "missing":
            return f"{field!r} is missing."
        case "extra_forbidden" | "unexpected_keyword_argument":
            return f"{field!r} is unknown."
        case _:
            value, reason = _shown(first["input"]), _reason(first["msg"])
            return f"{field + ' = ' if field else ''}{value} has the wrong type or value: {reason}."


def _field(place: tuple[int | str, ...]) -> str:
    """``layers[2].name`` of ``("layers", 2, "masks", "name")`` and the like."""
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _shown(value: object) -> str:
    """The value in few letters, without line ends or control characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, or lists in lists in lists
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _reason(message: str) -> str:
    return message[:1].lower() + message[1:].rstrip(".")


def _short(error: BaseException) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
