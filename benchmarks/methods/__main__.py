"""`python -m eto_gym.benchmarks.methods` runs the panel."""

import sys

from eto_gym.benchmarks.methods.panel import main

if __name__ == "__main__":
    sys.exit(main())
