"""A Flask app with about 120 MB of live Python objects, as an ORM's identity map or a model's tables are."""

from __future__ import annotations

import itertools
import random

from flask import Flask

ROWS, READ = 120_000, 10
_counter = itertools.count()


def _row(number: int) -> dict[str, object]:
    return {
        "id": number,
        "name": f"customer number {number}",
        "mail": f"customer{number}@example.org",
        "balance": number * 1.01,
        "tags": [f"tag{number % 97}", f"group {number % 1013}", number],
        "address": {
            "street": f"{number} Long Street",
            "city": f"city {number % 4099}",
            "code": f"{number:08d}",
        },
    }


TABLE = [_row(number) for number in range(ROWS)]
app = Flask(__name__)


@app.get("/")
def read() -> str:
    """Reads ten rows, nine of them of the tenth of the table that everybody wants, as in the RAM matrix.

    Reading an object writes its reference count: its page is shared no longer.
    """
    chosen = random.Random(next(_counter))
    total, names = 0.0, []
    for number in range(READ):
        row = TABLE[chosen.randrange(ROWS if number == 0 else ROWS // 10)]
        total += row["balance"]  # type: ignore[operator]
        names.append(row["address"]["city"])  # type: ignore[index]
    return f"{total:.2f} {','.join(names)}"
