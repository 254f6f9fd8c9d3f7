"""What another policy would have done on recorded texts: their rounds again, in virtual time."""

from __future__ import annotations

from dataclasses import replace

from flyball.controller.contract import DraftInfo, HostInfo
from flyball.controller.corpus import Corpus
from flyball.controller.cost_table import CostTable
from flyball.controller.errors import TraceError
from flyball.controller.policy_file import PolicyFile
from flyball.controller.replayed import Replayed
from flyball.controller.still_host import StillHost
from flyball.controller.virtual_host import VirtualHost

__all__ = ["HOSTS", "Replayed", "replay"]

_DRAFT = (DraftInfo("recorded"),)
HOSTS = {
    "transformers": HostInfo("replay", drafts=_DRAFT),
    "vllm": HostInfo(
        "replay",
        padded=False,
        mid_draft_stop=False,
        reads=False,
        rounds_overlap=True,
        drafts=_DRAFT,
    ),
}


def replay(
    corpus: Corpus,
    policy: PolicyFile,
    costs: CostTable,
    host: HostInfo = HOSTS["transformers"],
    batch_size: int = 1,
    told: CostTable | None = None,
) -> Replayed:
    """Decode the texts again, in their order; as one ends, the next takes its place.

    With one request at a time, on texts that were decoded greedily, these are the very rounds of
    the host of that name that is told the same costs.

    Args:
        corpus: the texts.
        policy: to be tried.
        costs: of the steps.
        host: how it decodes.
        batch_size: requests at a time, at most.
        told: what the governor is told that steps cost; the same by default.

    Raises:
        TraceError: the trace does not look as far ahead as the policy may draft, or holds offers
            that the host would not make.
        CostTableError: the table does not reach as far as the policy may draft, or as so many
            requests.
    """
    costs.check_covers(batch_size, min(policy.length.longest, host.max_draft_len) + 1)
    if not corpus.steps:
        if host.rounds_overlap:
            raise TraceError(
                "expected a draft that steps for host vllm, whose own lookup proposes other "
                "tokens, but the trace is of prompt lookup; choose --host transformers"
            )
        host = replace(host, drafts=(DraftInfo("recorded", steps=False),))
        corpus.check_ahead(min(policy.length.max_draft_len, host.max_draft_len))
    own = policy.make_length_policy()
    if corpus.steps and own.still and not policy.make_shadows():
        return StillHost(corpus, own, costs, host, batch_size).run()
    return VirtualHost(corpus, policy.offline(), costs, host, batch_size, told).run()
