"""`python -m stepladder.train`: the command, where no console script is installed."""

import sys

from stepladder.train.cli import main

sys.exit(main())
