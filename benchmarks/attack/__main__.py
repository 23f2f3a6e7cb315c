"""`python -m eto_gym.benchmarks.attack` attacks, in portions."""

import sys

from eto_gym.benchmarks.attack.portions import main

if __name__ == "__main__":
    sys.exit(main())
