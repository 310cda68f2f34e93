"""Which instruction may follow which: the order of rounds, how often, and the same again."""

import hashlib

from client.node.guard.form import Instruction
from client.node.guard.history import Digests, Record
from client.node.guard.refusal import Refusal
from client.node.guard.weights import Compared
from protocol.config.limits import SiteLimits
from protocol.config.schedule import RoundPlan
from protocol.wire.error_words import TOO_OFTEN, WRONG_ROUND, WRONG_WEIGHTS

# A centre that is started anew asks what there is; so often may one be.
MOST_QUERIES = 100


def followed(past: Record, asked: Instruction, compared: Compared) -> Record:
    """The record once an instruction with weights has passed."""
    update: dict[str, object] = {"digests": {asked.number: compared.digests}}
    if asked.statements:
        update["statements"] = text_digest(asked.statements)
    if asked.plan is not None:
        again = asked.number == past.round
        update |= {"round": asked.number, "plan": _plan_text(asked.plan)}
        update["trainings"] = past.trainings if again else 0
    else:
        number = asked.number - 1
        again = number == past.evaluation_round
        update["digests"] = {number: compared.before, asked.number: compared.digests}
        update |= {"evaluation_round": number, "evaluations": past.evaluations if again else 0}
    return past.model_copy(update=update)


def require_order(
    asked: Instruction, past: Record, evaluation_rounds: tuple[int, ...], limits: SiteLimits
) -> None:
    """A round that is due now: the last one again, or a later one.

    Raises:
        Refusal: WRONG_ROUND or TOO_OFTEN.
    """
    training = asked.plan is not None
    number = asked.number if training else asked.number - 1
    latest = max(past.round, past.evaluation_round)
    asked_for = "training is asked" if training else "scores are asked"
    if number < latest:
        raise Refusal(
            WRONG_ROUND,
            f"round {number}: {asked_for} of a round that is over, this site has followed the"
            f" study to round {latest}; no round is done again once a later one was begun: ask the"
            " centre whether it has lost its record",
        )
    if training:
        done = past.trainings if number == past.round else 0
        require_fewer(done, limits.attempts_per_round, f"round {number}: answers to training")
        return
    if number not in evaluation_rounds:
        raise Refusal(
            WRONG_ROUND,
            f"round {number}: scores are asked after a round in which the protocol has none; the"
            f" signed rounds are {', '.join(map(str, evaluation_rounds))}: ask the centre why",
        )
    done = past.evaluations if number == past.evaluation_round else 0
    require_fewer(done, limits.evaluations_per_round, f"round {number}: scores")


def require_fewer(done: int, most: int, what: str) -> None:
    """So many answers have left so far.

    Raises:
        Refusal: If that is as many as may.
    """
    if done >= most:
        raise Refusal(
            TOO_OFTEN,
            f"{what} have left this site {done} times, at most {most} may; ask the centre why it"
            " asks again, and raise the limit in the site's file if there is a reason",
        )


def require_same(asked: Instruction, past: Record, digests: Digests) -> None:
    """A round that is done again has the same weights and plan; what was scored is trained on.

    The organ box may be another one: a centre that was started anew has heard of new sites.

    Raises:
        Refusal: WRONG_WEIGHTS.
    """
    number, known = asked.number, past.digests.get(asked.number)
    if asked.plan is not None and number == past.round and _plan_text(asked.plan) != past.plan:
        raise Refusal(
            WRONG_WEIGHTS,
            f"round {number}: is to be trained again by another plan; a round that is done again is"
            " the same round: ask the centre what was changed",
        )
    # A site that did not train in the round before cannot know whether it was trained again.
    binding = number in (past.round, past.round + 1) or (
        asked.plan is not None and number == past.evaluation_round
    )
    if binding and known is not None and known != digests:
        raise Refusal(
            WRONG_WEIGHTS,
            f"round {number}: its weights are not those that came for it before, to train or to"
            " score; a round that is done again is the same round: ask the centre what was changed",
        )


def _plan_text(plan: RoundPlan) -> str:
    return plan.model_copy(update={"organ_box": None}).model_dump_json()


def text_digest(text: str) -> str:
    """SHA-256 of it."""
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()
