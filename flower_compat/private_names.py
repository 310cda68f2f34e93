"""Every name of Flower that is not of its public API, with the reason why it is used.

Public are `flwr.app`, `flwr.clientapp`, `flwr.serverapp` and `flwr.simulation`, and the commands.
`python -m flower_compat.private_names` prints the list.
"""

from flower_compat.private_name import PrivateName, functions, names_of

_CONTROL = "`flwr register` and `flwr run` print for people; there is no API to call them"
_EXECUTOR = (
    "flwr-clientapp imports whatever the centre sends and returns exception texts; "
    "no other executor can be configured"
)
_GATE = "the SuperLink's Control and Runtime APIs ask no caller for a key; no option closes them"
_INFLATING = "a message takes as much memory as its sender likes; no option bounds it"
_HEADS = "a look for a reply takes its content too"
_IDLE = "most of nine middlewares ignore a request, and take a quarter of its time; no option"
_INTERVALS = "fixed pauses of seconds are most of a short round; no option sets them"
_LINE = "a site's line belongs to others too; no option leaves them some of it"
_WORKER = "an instruction goes to the process that answers it as bytes, never as a pickle"

PRIVATE_NAMES = (
    *functions(
        "flwr.cli.build",
        "bundle",
        "the digest that a site approves is of a bundle in memory; `flwr build` writes one",
        build_fab_from_disk="app",
        build_fab_from_files="files",
    ),
    *functions("flwr.cli.utils", "bundle", "as `flwr build`", collect_files="root"),
    *functions(
        "flwr.common.serde",
        "control",
        _CONTROL,
        fab_to_proto="fab",
        user_config_to_proto="user_config",
    ),
    *names_of(
        "proto.control_pb2",
        "control",
        _CONTROL,
        "ListNodesRequest RegisterNodeRequest StartRunRequest StopRunRequest UnregisterNodeRequest",
    ),
    PrivateName(
        name="flwr.common.constant.HEARTBEAT_PATIENCE",
        used_by="control",
        reason="a node's last heartbeat is so many intervals before `online_until`",
    ),
    PrivateName(name="flwr.proto.node_pb2.NodeInfo", used_by="control", reason=_CONTROL),
    PrivateName(
        name="flwr.supercore.control.ControlHttpClient",
        used_by="control",
        reason=_CONTROL,
        attributes=(
            "ListNodes",
            "RegisterNode",
            "StartRun",
            "StopRun",
            "UnregisterNode",
            "close",
            "from_server_address",
        ),
    ),
    PrivateName(
        name="flwr.supercore.fab.Fab",
        used_by="control",
        reason=_CONTROL,
        parameters=("hash_str", "content", "verifications"),
    ),
    PrivateName(
        name="flwr.supercore.interceptors.RuntimeVersionHttpInterceptor",
        used_by="control, runtime",
        reason="a client of either API has to say its version",
        parameters=("component_name",),
    ),
    PrivateName(
        name="flwr.common.constant.ErrorCode",
        used_by="error_codes",
        reason="flwr.app.Error has a code, and no public name for what it means",
        attributes=(
            "CLIENT_APP_CRASHED",
            "CLIENT_APP_RAISED_EXCEPTION",
            "MESSAGE_UNAVAILABLE",
            "NODE_UNAVAILABLE",
            "REPLY_MESSAGE_UNAVAILABLE",
        ),
    ),
    PrivateName(
        name="flwr.app.message.remove_content_from_message",
        used_by="message_bytes",
        reason=_WORKER,
        parameters=("message",),
    ),
    *functions(
        "flwr.common.serde",
        "message_bytes",
        _WORKER,
        context_from_proto="context_proto",
        context_to_proto="context",
        message_from_proto="message_proto",
        message_to_proto="message",
    ),
    *names_of("proto.message_pb2", "message_bytes", _WORKER, "Context Message"),
    PrivateName(
        name="flwr.supercore.inflatable.inflatable_utils.pull_objects",
        used_by="inflating, polling",
        reason=f"patched: {_INTERVALS}; {_INFLATING}",
        parameters=(
            "object_ids",
            "pull_object_fn",
            "max_concurrent_pulls",
            "max_time",
            "max_tries_per_object",
            "initial_backoff",
            "backoff_cap",
        ),
    ),
    *functions(
        "flwr.supercore.inflatable.inflatable_utils",
        "inflating",
        _INFLATING,
        inflate_object_from_contents="object_id object_contents keep_object_contents objects",
    ),
    *functions(
        "flwr.supercore.inflatable.inflatable_object",
        "inflating",
        _INFLATING,
        get_object_body="object_content cls",
        get_object_head_values_from_object_content="object_content",
    ),
    *functions(
        "flwr.supercore.inflatable.inflatable_object",
        "inflating, superlink",
        _INFLATING,
        iterate_object_tree="tree",
    ),
    PrivateName(name="flwr.proto.message_pb2.ObjectTree", used_by="inflating", reason=_INFLATING),
    PrivateName(
        name="flwr.superlink.grid.http_grid",
        used_by="grid",
        reason=f"patched: {_INFLATING}",
        attributes=("HttpGrid", "inflate_object_from_contents", "pull_objects"),
    ),
    *names_of(
        "proto.runtime_pb2", "grid", _HEADS, "PullAppMessagesRequest PullAppMessagesResponse"
    ),
    PrivateName(
        name="flwr.app.message.array",
        used_by="chunks",
        reason="patched: each chunk is a request and a commit at every hop",
        attributes=("FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE",),
    ),
    PrivateName(
        name="flwr.supernode.runtime.run_clientapp",
        used_by="runtime",
        reason=f"patched: {_INFLATING}",
        attributes=("pull_and_inflate_object_from_tree",),
    ),
    PrivateName(
        name="flwr.common.constant.SubStatus",
        used_by="runtime",
        reason=_EXECUTOR,
        attributes=("COMPLETED", "FAILED"),
    ),
    *names_of(
        "proto.runtime_pb2", "runtime", _EXECUTOR, "AcquireTaskRequest SendTaskHeartbeatRequest"
    ),
    PrivateName(
        name="flwr.supercore.constant.TaskType",
        used_by="runtime",
        reason=_EXECUTOR,
        attributes=("CLIENT_APP",),
    ),
    *functions(
        "flwr.supercore.interceptors",
        "runtime",
        _EXECUTOR,
        RuntimeTokenHttpInterceptor="token",
        SuperExecAuthHttpInterceptor="master_secret protected_methods",
    ),
    PrivateName(
        name="flwr.supercore.protobuf.client.ProtobufClientInterceptor",
        used_by="runtime",
        reason=_EXECUTOR,
    ),
    PrivateName(
        name="flwr.supercore.runtime.RuntimeHttpClient",
        used_by="runtime",
        reason=_EXECUTOR,
        attributes=("AcquireTask", "SendTaskHeartbeat", "close", "from_server_address"),
    ),
    *functions(
        "flwr.supernode.runtime.run_clientapp",
        "runtime",
        _EXECUTOR,
        pull_task_input="client",
        push_message="client message context",
        push_task_output="client context sub_status details",
    ),
    PrivateName(
        name="flwr.superlink.servicer.fleet.fleet_handlers",
        used_by="superlink",
        reason="patched: a site may push messages in the name of another, or of the centre",
        attributes=("push_messages",),
    ),
    *names_of("superlink", "middleware", f"patched: {_IDLE}", "main"),
    *names_of(
        "superlink.routers.control.middlewares",
        "middleware",
        _IDLE,
        "ControlAuthenticationMiddleware ControlEventLogMiddleware ControlLicenseMiddleware"
        " ControlSensitiveResponseMiddleware",
    ),
    *names_of(
        "superlink.routers.fleet.middlewares", "middleware", _IDLE, "FleetEventLogMiddleware"
    ),
    *names_of("superlink.routers.fleet.node_auth", "middleware", _IDLE, "NodeAuthMiddleware"),
    *names_of("supercore.routers.runtime.tracing", "middleware", _IDLE, "RuntimeTracingMiddleware"),
    PrivateName(
        name="flwr.superlink.extensions",
        used_by="superlink",
        reason=f"patched: {_GATE}",
        attributes=("get_middleware",),
    ),
    PrivateName(
        name="flwr.superlink.cli.flower_superlink",
        used_by="superlink",
        reason="the command, in the process with the gate; its module's `uvicorn` has no limits",
        parameters=(),
    ),
    PrivateName(
        name="flwr.superlink.cli.flower_superlink._get_superexec_command",
        used_by="superlink",
        reason=f"patched, for SuperExec to call with the owner's token: {_GATE}",
        parameters=(
            "runtime_address",
            "runtime_certificates",
            "runtime_root_certificates_path",
            "parent_pid",
            "runtime_dependency_install",
        ),
    ),
    PrivateName(
        name="flwr.supercore.protobuf.client.ProtobufClient",
        used_by="owner",
        reason=f"patched, for ServerApps to call with the owner's token: {_GATE}",
        parameters=("base_url", "interceptors", "verify", "timeout", "retry_invoker"),
    ),
    *names_of("supercore.protobuf.client", "owner", _GATE, "ProtobufCall ProtobufRequestContext"),
    PrivateName(
        name="flwr.supercore.superexec.executor.subprocess_executor",
        used_by="owner",
        reason=f"patched, for ServerApps to be started with the owner's token: {_GATE}",
        attributes=("subprocess",),
    ),
    PrivateName(
        name="flwr.supernode.start_client_internal",
        used_by="supernode",
        reason=f"patched: {_INTERVALS}; {_INFLATING}",
        attributes=("pull_objects", "time"),
    ),
    PrivateName(
        name="flwr.supernode.fleet_http_client.FleetHttpClient",
        used_by="pacing",
        reason=f"patched: {_LINE}",
        attributes=("from_server_address",),
    ),
    PrivateName(
        name="flwr.supernode.fleet_http_connection",
        used_by="supernode",
        reason=f"patched: {_LINE}",
        attributes=("FleetHttpClient",),
    ),
    PrivateName(
        name="flwr.supernode.cli.flower_supernode",
        used_by="supernode",
        reason="the command, in the process in which the pauses are set",
        parameters=(),
    ),
    PrivateName(
        name="flwr.supercore.task_identity.TaskIdentity",
        used_by="task_identity",
        reason="the executor answers in a process of its own, which has to know the task",
        attributes=("node_id", "run_id", "task_id"),
    ),
)


if __name__ == "__main__":
    for private in PRIVATE_NAMES:
        print(f"{private.name}\n    flower_compat/{private.used_by}: {private.reason}")
