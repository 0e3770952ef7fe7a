"""`stoical train` for a checkout, as in `accelerate launch train.py recipe=NAME`; train.py --help says more."""

import sys

from stoical.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
