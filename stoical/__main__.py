"""`python -m stoical COMMAND ...` is `stoical COMMAND ...`; `accelerate launch -m stoical train ...` works too."""

import sys

from stoical.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
