"""`python -m data_prep.wordnet`, for a checkout, is `stoical prepare wordnet`."""

import sys

from stoical.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["prepare", "wordnet", *sys.argv[1:]]))
