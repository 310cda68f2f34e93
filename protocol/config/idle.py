"""Settings of a study that its method does not read, or that keep it from what it is for."""

from collections.abc import Iterator

from asdnet_models.catalogue import METHODS
from asdnet_models.config import MethodConfig
from protocol.config.schedule import plan_round
from protocol.config.study import StudyProtocol

_GATED = "those with a teacher and a confidence map"


def idle_settings(protocol: StudyProtocol) -> Iterator[str]:
    """What is valid but does nothing, or not what it seems to, a line each.

    A setting that stands at its default is not named: nobody has asked for it.
    """
    yield from _unread(protocol.method)
    kind = METHODS[protocol.method.name]
    if kind.taught:
        yield from _silent(protocol)
    if kind.teacher and protocol.training.views == "none":
        yield (
            f"training.views: none: {protocol.method.name} shows the model what its teacher sees,"
            " so that it has little to learn from the teacher's labels; strong is what these"
            " methods are made for"
        )


def _unread(method: MethodConfig) -> Iterator[str]:
    kind, usual = METHODS[method.name], MethodConfig()
    chosen = method.gate == "mask" or (method.gate, method.gamma_rule) == ("softmax", "quantile")
    read = {
        "gate": (kind.gated, _GATED),
        "teacher_decay": (kind.teacher, "those with a teacher"),
        "gamma_rule": (
            kind.confidence and (chosen or not kind.gated),
            "gate mask, and quantile softmax too," if kind.gated else "those with a confidence map",
        ),
        "pseudo_labels_at": (kind.pseudo_labels, "semi-fcn"),
        "lambda_embedding": (kind.embedding, "semi-embed"),
        "embedding_margin": (kind.embedding, "semi-embed"),
    }
    for field, (is_read, readers) in read.items():
        value = getattr(method, field)
        if not is_read and value != getattr(usual, field):
            of = f"{method.name}, gate {method.gate}" if kind.gated else method.name
            yield f"method.{field}: {value}: has no effect with {of}; {readers} read it"


def _silent(protocol: StudyProtocol) -> Iterator[str]:
    """A teacher that never speaks, or never as loud as asked."""
    method, training = protocol.method, protocol.training
    if method.lambda_region == 0:
        yield f"method.lambda_region: 0: {method.name} learns nothing from unlabelled scans"
        return
    last = plan_round(protocol, training.rounds).region_ramp
    if last == 0:
        yield (
            f"training.ramp.region_start: {training.ramp.region_start:g}: {method.name} learns"
            " nothing from unlabelled scans before the study ends"
        )
    elif last < 1:
        yield (
            f"training.ramp.length: {training.ramp.length:g}: what unlabelled scans teach ends at"
            f" {last:.0%} of method.lambda_region; begin earlier or rise faster"
        )
