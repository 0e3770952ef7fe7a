"""`python -m data_prep.esci`, for a checkout, is `stoical prepare esci`."""

import sys

from stoical.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["prepare", "esci", *sys.argv[1:]]))
