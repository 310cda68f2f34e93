"""The run, node and task that this process works for; Flower makes instructions within one only."""

from flwr.supercore.task_identity import TaskIdentity

Identity = tuple[int, int, int]


def current_task() -> Identity:
    """Ids of task, run and node.

    Raises:
        RuntimeError: Where Flower has set none.
    """
    return TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id


def work_for(identity: Identity) -> None:
    """From now on, this process works for this task."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = identity
