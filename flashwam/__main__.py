# SPDX-License-Identifier: Apache-2.0
"""`python -m flashwam` is the `flashwam` command."""

import sys

from flashwam.cli import main

sys.exit(main())
