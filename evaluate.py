"""`stoical evaluate` for a checkout, as in `accelerate launch evaluate.py ...`; evaluate.py --help says more."""

import sys

from stoical.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
