"""What a hostile centre could send: its ServerApp is its own, all hospitals run what they approved.

`install` makes a folder whose `sitecustomize.py` lets every process of the centre spoil what it
sends to site C, a different way in each round; `ATTACKS` says how, and what comes of it.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Attack:
    """One round's attack on site C.

    Attributes:
        spoil: Body of a function of `content` (the instruction to C), `kind`, `number` (round) and
            `saved` (what was sent to C in earlier rounds); it may change `content` and set `kind`.
        word: What the centre hears; empty: C does not notice yet.
        sentence: What C's own log says.
    """

    name: str
    spoil: str
    word: str
    sentence: str


# By round, from 1; C is a late site after each.
ATTACKS = (
    Attack(
        "other weights in round 1",
        "content['segmenter'] = moved(content, 1e-3)",
        "WrongWeights",
        "round 1: the weights are not those whose digests the centre has signed",
    ),
    Attack(
        "weights that jump in round 2",
        "content['segmenter'] = moved(content, 3.0)",
        "WeightsJumped",
        "round 2: the segmenter moved by",
    ),
    Attack("nothing: C goes on with what the others have signed", "pass", "", ""),
    Attack(
        "an earlier round again",
        "replace(content, saved[1])",
        "WrongRound",
        "round 1: training is asked of a round that is over",
    ),
    Attack(
        "no manifest",
        "del content['study']['manifest']",
        "NotSigned",
        "comes without a signed manifest",
    ),
    Attack(
        "a protocol with one step and one patch",
        "content['study']['protocol'] = changed(content, 'protocol', training=ONE_STEP)",
        "NotSigned",
        "the protocol that came with it is not the one it was for",
    ),
    Attack(
        "another learning rate",
        "content['study']['plan'] = changed(content, 'plan', lr_factor=0.5)",
        "WrongPlan",
        "plan: lr_factor is 0.5, of round 7 it is",
    ),
    Attack(
        "without the unsupervised terms",
        "content['study']['plan'] = changed(content, 'plan', region_ramp=0.0)",
        "WrongPlan",
        "plan: region_ramp is 0.0",
    ),
    Attack(
        "scores in a round that has none",
        "del content['study']['plan']; content['study']['round'] = 9; kind = 'evaluate'",
        "WrongRound",
        "round 9: scores are asked after a round in which the protocol has none",
    ),
    Attack(
        "a question that carries weights",
        "kind = 'query'",
        "WrongForm",
        "instruction: lacks 0 agreed values and has",
    ),
    Attack(
        "weights of the round before that nobody has signed",
        "del content['study']['statements']; content['segmenter'] = moved(content, 1e-9)",
        "WrongWeights",
        "0 other sites have signed the weights of round 10",
    ),
    # What follows can be done once: C stops answering.
    Attack(
        "weights that only C gets, near enough to pass",
        "content['segmenter'] = moved(content, 1e-9)",
        "",
        "",
    ),
    Attack(
        "the statements of the others, which do not fit",
        "pass",
        "WeightsDiffer",
        "round 12: the centre sent other sites other weights: A, B",
    ),
    Attack("the same again", "pass", "WeightsDiffer", "round 12: the centre sent other sites"),
)

_HOOK = """
import importlib.abc, importlib.machinery, json, sys

ONE_STEP = {{"local_steps": 1, "batch_size": 1, "views": "none"}}


def moved(content, by):
    import torch
    from protocol.wire.weights import pack_weights, raw_weights

    generator = torch.Generator().manual_seed(1)
    return pack_weights({{
        name: w + by * torch.randn(w.shape, generator=generator)
        for name, w in raw_weights(content, "segmenter").items()
    }})


def changed(content, key, **changes):
    text = json.loads(content["study"][key])
    for name, value in changes.items():
        text[name] = text[name] | value if isinstance(value, dict) else value
    if key == "plan":
        from protocol.config.schedule import RoundPlan

        return RoundPlan.model_validate(text).model_dump_json()
    return json.dumps(text, sort_keys=True, separators=(",", ":"))


def replace(content, other):
    for key in list(content):
        del content[key]
    for key, record in other.items():
        content[key] = record


def copied(content):
    from flwr.app import ConfigRecord, RecordDict

    return RecordDict({{
        key: ConfigRecord(dict(record)) if isinstance(record, ConfigRecord) else record
        for key, record in content.items()
    }})


{attacks}

SAVED = {{}}


def spoil_sending(module):
    send = module.Exchange._send

    def hostile(self, requests):
        for request in requests:
            hostile_one(self, request)

    def hostile_one(self, request):
        site = self._channel.roster.name_of(request.node)
        number, kind = self._round_number, self._kind
        if site == "C" and kind == "train":
            request.content = copied(request.content)
            SAVED.setdefault(number, copied(request.content))
            self._kind = ATTACKS[number - 1](request.content, kind, number, SAVED)
        elif site == "C" and kind == "evaluate" and number in SCORED:
            request.content = copied(request.content)
            request.content["segmenter"] = moved(request.content, 3.0)
        send(self, [request])
        self._kind = kind

    module.Exchange._send = hostile


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "server.rounds.channel":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            spoil_sending(module)

        spec.loader.exec_module = exec_module
        return spec


SCORED = {scored}
sys.meta_path.insert(0, Finder())
"""


def install(folder: Path, scored: set[int]) -> Path:
    """A folder for PYTHONPATH; after the rounds in `scored`, C is to score crafted weights."""
    functions = [
        f"def attack_{number}(content, kind, number, saved):\n    {attack.spoil}\n    return kind\n"
        for number, attack in enumerate(ATTACKS)
    ]
    table = "ATTACKS = [" + ", ".join(f"attack_{n}" for n in range(len(ATTACKS))) + "]"
    folder.mkdir(parents=True)
    attacks = "\n\n".join([*functions, table])
    text = _HOOK.format(attacks=attacks, scored=scored)
    (folder / "sitecustomize.py").write_text(text, encoding="utf-8")
    return folder
