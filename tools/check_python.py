"""Check of the Python that `make` uses: 64-bit, 3.11 or later, with venv. It has to run on any Python 3 to say so."""

import struct
import sys

bits, version = 8 * struct.calcsize("P"), "%d.%d" % sys.version_info[:2]
if bits != 64 or sys.version_info < (3, 11):
    got = "%d-bit Python %s" % (bits, version)
    sys.exit("FairEdge needs 64-bit Python 3.11 or later, got %s: make PYTHON=..., or a 64-bit system" % got)
try:
    import ensurepip  # noqa: F401
    import venv  # noqa: F401
except ImportError:
    sys.exit("Python %s lacks venv: sudo apt install python3-venv" % version)
