"""Write the stored answers anew: ``python -m tests.golden.make``, optionally with the names of some.

This is legitimate only when the answers were meant to change: a new bundle is shipped, or a change of the pipeline
was decided on, measured on held-out images, and is in the changelog. Then it is a commit of its own that says why, and
the printed Dice with the old answers belongs into its message. It is not legitimate to make a failing test pass after
a change that should have left the masks alone: then the change is wrong.
"""

from __future__ import annotations

import sys

from tests.golden.cases import CASES, FOLDER, answer, dice, shipped, stored, write


def main(names: list[str]) -> None:
    """Run the cases, say how far each mask is from the one stored before, and store it."""
    pipeline = shipped()
    for name in names or CASES:
        new = answer(pipeline, CASES[name])
        old = stored(name).masks if (FOLDER / f"{name}.npz").exists() else {}
        for key, mask in new.masks.items():
            before = f"Dice with the one before {dice(old[key], mask):.4f}" if key in old else "new"
            print(f"{name} {key}: {mask.sum()} pixels, {before}")
        write(name, new)


if __name__ == "__main__":
    main(sys.argv[1:])
