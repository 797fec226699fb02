# SPDX-License-Identifier: Apache-2.0
"""`python -m flashwam` is the `flashwam` command."""

import sys

from flashwam.cli import main

if __name__ == "__main__":
    sys.exit(main())
