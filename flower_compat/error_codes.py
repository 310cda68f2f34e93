"""Flower's numbers for the reasons why a reply has no content."""

from flwr.common.constant import ErrorCode

CLIENT_APP_RAISED = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
# The SuperLink drops the instruction of a node that it has not heard of for a minute.
INSTRUCTION_DROPPED = frozenset({ErrorCode.NODE_UNAVAILABLE, ErrorCode.MESSAGE_UNAVAILABLE})
# The worker died, or the reply was lost on the way: the next attempt may succeed.
REPLY_LOST = frozenset({ErrorCode.CLIENT_APP_CRASHED, ErrorCode.REPLY_MESSAGE_UNAVAILABLE})
