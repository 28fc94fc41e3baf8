"""`python -m deatbench` is `deatbench`."""

import sys

from deatbench.cli.main import main

sys.exit(main())
