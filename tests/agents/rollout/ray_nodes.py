"""Two Ray nodes on the loopback of this machine, in a process of their own.

Prints the cluster's address and the second node's id; kills that node, or the cluster's head where
the line is "head", at a line of standard input, and the first node at its end.
"""

from __future__ import annotations

import sys
from typing import Any

from ray.cluster_utils import Cluster

if __name__ == "__main__":
    node: dict[str, Any] = {
        "num_cpus": 1,
        "object_store_memory": 80 * 2**20,
        "include_dashboard": False,
    }
    cluster = Cluster(initialize_head=True, head_node_args=node)
    second = cluster.add_node(**node)
    sys.stdout.write(f"{cluster.address}\n{second.node_id}\n")
    sys.stdout.flush()
    if line := sys.stdin.readline():
        if line == "head\n":
            head: Any = cluster.head_node
            head.kill_gcs_server(check_alive=False)
        else:
            cluster.remove_node(second, allow_graceful=False)
        sys.stdout.write("killed\n")
        sys.stdout.flush()
        sys.stdin.readline()
    cluster.shutdown()  # type: ignore[no-untyped-call]
