"""Tables of features in the JSON document of a session, by column with their types."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

SCALARS = (str, int, float, bool, type(None))
"""Plain JSON values."""

_DTYPES = {"object", "str", "string", "bool", "boolean", "category", "float32", "float64",
           *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}  # fmt: skip


def encode_table(table: pd.DataFrame, name: str) -> list[dict[str, Any]]:
    """Encode the table of layer `name` by column, because JSON alone forgets the types.

    Raises
    ------
    ValueError
        If a column holds something else than numbers, texts, truth values and categories.
    """
    columns = []
    for column in table.columns:
        series = table[column]
        item: dict[str, Any] = {"name": str(column), "dtype": str(series.dtype)}
        if item["dtype"] not in _DTYPES:
            raise ValueError(f"the column {column!r} of {name!r} holds {item['dtype']}; turn it into text or numbers")
        if item["dtype"] == "category":
            item |= {"categories": _cells(series.cat.categories, column, name), "ordered": bool(series.cat.ordered)}
            series = series.cat.codes
        columns.append(item | {"values": _cells(series, column, name)})
    return columns


def _cells(values: pd.Series | pd.Index, column: object, name: str) -> list[Any]:
    cells = [None if value is pd.NA else value.item() if isinstance(value, np.generic) else value for value in values]
    for cell in cells:
        if not isinstance(cell, SCALARS):
            raise ValueError(f"the column {column!r} of {name!r} holds a {type(cell).__name__}; turn it into text")
    return cells


def decode_table(columns: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the table that `encode_table` took apart.

    Raises
    ------
    KeyError, TypeError, ValueError
        If something is missing or of the wrong type.
    """
    table: dict[str, pd.Series] = {}
    for item in columns:
        dtype, values = item["dtype"], item["values"]
        if dtype not in _DTYPES or not all(isinstance(value, SCALARS) for value in values):
            raise ValueError(f"the features {item['name']!r} are of the type {dtype!r}")
        if dtype == "category":
            kinds = pd.CategoricalDtype(item["categories"], ordered=item["ordered"])
            table[text(item["name"])] = pd.Series(pd.Categorical.from_codes(values, dtype=kinds))
        else:
            table[text(item["name"])] = pd.Series(values, dtype=dtype)
    if len({len(series) for series in table.values()}) > 1:
        raise ValueError("the columns of the features differ in length")
    return pd.DataFrame(table)


def text(value: Any) -> str:
    """Return the value, which must be a text.

    Raises
    ------
    TypeError
        If it is none.
    """
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:40]!r} should be a text")
    return value
