"""`python -m medqa` is the command `medqa`."""

import sys

from medqa.commands.cli import main

sys.exit(main())
