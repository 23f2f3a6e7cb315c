"""`python -m eto_gym.benchmarks.scale` rehearses rollouts and loops over hosts that fail (root)."""

from eto_gym.benchmarks.scale.run import main

if __name__ == "__main__":
    main()
