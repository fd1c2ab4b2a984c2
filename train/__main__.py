"""`python -m stepladder.train`: the command, where no console script is installed."""

import sys

from stepladder.train.cli.parser import main

sys.exit(main())
