"""A Ray cluster of two nodes of one core each: `python -m tests.support.ray_nodes`.

It prints its address, then does as each line of its standard input says: `kill` the second node
with all that runs there, as when its machine goes down, or `add` another.
"""

import os
import signal
import sys

import psutil

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from ray.cluster_utils import Cluster


def kill(cluster: Cluster) -> None:
    node = cluster.worker_nodes.copy().pop()
    [raylet] = node.all_processes["raylet"]
    lost = psutil.Process(raylet.process.pid).children(recursive=True)
    cluster.remove_node(node, allow_graceful=False)
    for process in lost:
        if process.is_running():
            process.send_signal(signal.SIGKILL)


def main() -> None:
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    print(f"address {cluster.address}", flush=True)
    for line in sys.stdin:
        match line.strip():
            case "kill":
                kill(cluster)
            case "add":
                cluster.add_node(num_cpus=1)
                cluster.wait_for_nodes()
        print(f"done {line.strip()}", flush=True)
    cluster.shutdown()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
