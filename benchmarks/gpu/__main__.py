"""`python -m eto_gym.benchmarks.gpu` measures this machine's GPU."""

from eto_gym.benchmarks.gpu.run import main

if __name__ == "__main__":
    main()
