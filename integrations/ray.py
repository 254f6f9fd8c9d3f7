"""Replays as Ray tasks, on this machine or a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from flyball.controller.errors import HostError
from flyball.controller.slices import Setting, Slices
from flyball.controller.tune import Evaluate, Result

LOCAL = "local"


@contextmanager
def ray_tasks(setting: Setting, count: int, address: str) -> Iterator[Evaluate]:
    """Replays in actors of a Ray cluster, as long as the block lasts.

    Args:
        setting: what they replay; the trace's folder must be there on every node.
        count: how many actors, at most.
        address: of the cluster; "local" starts one on this machine.

    Raises:
        HostError: Ray is not installed, the cluster cannot be reached, or a task failed.
    """
    try:
        import ray
    except ImportError as error:
        raise HostError("expected Ray for --ray; pip install 'flyball[ray]'") from error
    cluster: Any = ray  # whose own types say little
    own = {"num_cpus": count, "include_dashboard": False} if address == LOCAL else {}
    try:
        cluster.init(address=address, log_to_driver=False, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise HostError(f"cannot reach the Ray cluster at {address}: {reason}") from error
    try:
        actor = cluster.remote(num_cpus=1)(Slices)
        # An actor that finds no place would keep its tasks waiting for ever.
        places = min(count, int(cluster.cluster_resources().get("CPU", 1)), setting.num_slices)
        actors = [actor.remote(setting) for _ in range(max(1, places))]

        def evaluate(tasks: Sequence[tuple[str, int]]) -> list[Result]:
            pool = cluster.util.ActorPool(actors)
            try:
                return list(pool.map(lambda actor, task: actor.result.remote(*task), tasks))
            except cluster.exceptions.RayError as error:
                reason = str(error).strip().splitlines()[-1]
                raise HostError(
                    f"a Ray task failed: {reason}; the trace has to be there on every node"
                ) from error

        yield evaluate
    finally:
        cluster.shutdown()
