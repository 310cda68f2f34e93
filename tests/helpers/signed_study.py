"""A centre that signs, sites that sign, and the instructions of a study between them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch
from flwr.app import Message, MessageType

from protocol.agreement.digests import weights_digest
from protocol.agreement.first_weights import digests_sent, first_weights
from protocol.agreement.manifest import Asks, InitialWeights, Manifest
from protocol.agreement.statements import SignedStatement, Statement, sign
from protocol.config.schedule import RoundPlan, evaluation_rounds, plan_round
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol, merged
from protocol.keys import make_key, make_signing_key, openssh_line, openssh_private
from protocol.wire.compression import as_sent
from protocol.wire.messages import CONFIDENCE, SEGMENTER, pack_instruction
from protocol.wire.proofs import Proofs, add_proofs
from protocol.wire.weights import Weights

RUN, CODE = "tiny-1", "c" * 64
Networks = dict[str, Weights]


def tiny_protocol(**changes: object) -> StudyProtocol:
    """Two small networks, five rounds, scores after the second and the last but one."""
    protocol = StudyProtocol(organs={"ball": 2}, seed=4)
    content = {
        "network": {"width": 2, "kernel": 3},
        "confidence": {"width": 2},
        "training": {
            "rounds": 5,
            "local_steps": 2,
            "ramp": {"adversarial_start": 0.0, "region_start": 0.0, "length": 0.0},
        },
        "evaluation": {"every_rounds": 2},
    }
    return merged(merged(protocol, content), changes)


class SignedStudy:
    """What the centre would send; `weights` are those of the next instruction."""

    def __init__(self, protocol: StudyProtocol | None = None, sites: str = "ABC") -> None:
        self.protocol = protocol or tiny_protocol()
        self.centre_key = make_signing_key()
        self.keys = {site: make_key() for site in sites}
        self.first = first_weights(self.protocol)
        self.manifest = self.manifest_with()

    def manifest_with(self, **changes: object) -> Manifest:
        digests = digests_sent(self.protocol, self.first)
        content: dict[str, object] = {
            "version": 1,
            "run": RUN,
            "revision": 1,
            "protocol_digest": self.protocol.digest,
            "code": CODE,
            "weights": InitialWeights(
                segmenter=digests[SEGMENTER], confidence=digests.get(CONFIDENCE)
            ),
            "rounds": self.protocol.training.rounds,
            "evaluation_rounds": evaluation_rounds(self.protocol),
            "sites": {s: openssh_line(key.public_key()) for s, key in self.keys.items()},
            "issued": datetime.now(UTC),
        }
        return Manifest.model_validate(content | changes)

    def config(self, folder: Path, site: str = "A") -> SiteConfig:
        """A site of the study, with its key and the centre's."""
        state = folder / "state"
        state.mkdir(parents=True)
        (state / "site.key").write_bytes(openssh_private(self.keys[site]))
        (state / "site.key").chmod(0o600)
        pinned = openssh_line(self.centre_key.public_key())
        (state / "centre.pub").write_text(pinned + "\n")
        return SiteConfig(
            site=site, data=folder, cache=folder, state=state, centre="centre.example.org:9092"
        )

    # ---- weights --------------------------------------------------------------------------------

    def moved(self, networks: Networks, by: float, seed: int = 1) -> Networks:
        """The weights, each moved by so much up or down."""
        generator = torch.Generator().manual_seed(seed)
        return {
            network: {
                name: tensor
                + by * (2 * torch.randint(0, 2, tensor.shape, generator=generator).float() - 1)
                for name, tensor in sorted(weights.items())
            }
            for network, weights in networks.items()
        }

    def received(self, networks: Networks) -> Networks:
        """As a site has them."""
        return {name: as_sent(weights, self.protocol.wire) for name, weights in networks.items()}

    def statements(
        self, number: int, networks: Networks, sites: str = "BC", **changes: object
    ) -> list[SignedStatement]:
        """What sites say of the weights of a round."""
        digests = {n: weights_digest(w) for n, w in self.received(networks).items()}
        signed = []
        for site in sites:
            content: dict[str, object] = {
                "run": RUN,
                "round": number,
                "site": site,
                "segmenter": digests[SEGMENTER],
                "confidence": digests.get(CONFIDENCE, ""),
                "audit_seq": 10 * number,
                "audit_head": f"{number:064x}",
            }
            signed.append(sign(Statement.model_validate(content | changes), self.keys[site]))
        return signed

    # ---- instructions ---------------------------------------------------------------------------

    def query(self) -> Message:
        return self._message(MessageType.QUERY)

    def ask_fingerprint(self) -> Message:
        return self._message(MessageType.QUERY, ask="fingerprint")

    def train(
        self,
        number: int,
        networks: Networks,
        statements: Sequence[SignedStatement] = (),
        before: Mapping[str, Weights] | None = None,
        **plan: object,
    ) -> Message:
        due = plan_round(self.protocol, number).model_copy(update=plan)
        proofs = Proofs(statements=statements, before=before or {})
        return self._message(MessageType.TRAIN, networks, proofs, plan=due)

    def evaluate(
        self,
        number: int,
        networks: Networks,
        statements: Sequence[SignedStatement] = (),
        before: Mapping[str, Weights] | None = None,
    ) -> Message:
        proofs = Proofs(statements=statements, before=before or {})
        return self._message(MessageType.EVALUATE, networks, proofs, scored_round=number)

    def _message(
        self,
        kind: str,
        networks: Networks | None = None,
        proofs: Proofs | None = None,
        *,
        plan: RoundPlan | None = None,
        scored_round: int | None = None,
        ask: Asks = "training",
    ) -> Message:
        networks = networks or {}
        content = pack_instruction(
            self.protocol,
            plan,
            networks.get(SEGMENTER),
            networks.get(CONFIDENCE),
            run=RUN,
            agreement=self.manifest.signed(self.centre_key),
            scored_round=scored_round,
            ask=ask,
        )
        add_proofs(content, proofs or Proofs(), self.protocol.wire)
        message = Message(content, 17, kind, group_id="0")
        message.metadata.__dict__["_message_id"] = f"{kind}-1"
        return message
