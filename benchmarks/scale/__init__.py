"""Rollouts and loops rehearsed over several hosts, which are namespaces of this machine."""
