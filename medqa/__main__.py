"""`python -m medqa` is the command `medqa`."""

import sys

from medqa.cli import main

sys.exit(main())
