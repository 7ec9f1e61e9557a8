"""``python -m napari_claps.cli``: the command line where ``claps`` is not on the path."""

import sys

from napari_claps.cli import main

sys.exit(main())
