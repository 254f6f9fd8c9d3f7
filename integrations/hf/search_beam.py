"""Beam search by a process reward model: candidates compete step by step."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle

import numpy as np

from flyball.integrations.hf.heat import Heat, Member, Origin, State, derive_seed
from flyball.integrations.hf.question import Question
from flyball.integrations.hf.search_result import Candidate, SearchResult, best_of, ranked


@dataclass(frozen=True)
class Beams:
    """How beams grow.

    Attributes:
        num_beams: expansions of a step.
        width: expansions for each place, of which on average one survives.
        step_token_id: ends a step; None where only `max_step_tokens` does.
        max_step_tokens: tokens of a step.
        max_steps: steps.
    """

    num_beams: int
    width: int
    step_token_id: int | None
    max_step_tokens: int
    max_steps: int

    @property
    def num_places(self) -> int:
        """Beams that survive a step."""
        return self.num_beams // self.width


def beam_search(question: Question, beams: Beams) -> Generator[Heat, None, SearchResult]:
    """A heat for every step: the best expansions survive and are expanded again.

    The score of an expansion is that of its whole text. Whoever a policy stops would most likely
    have ended like those that began alike, so these stand in for it (`_survivors`): if the places
    of duplicates of the best went to the next best texts, fewer expansions would go on from the
    best than without rejection, and the search be worse. Where places stay free all the same, the
    beams share the expansions out among them, the best getting one more where that is uneven.
    Beams that have ended keep their places; the search is over when all have, or after the last
    step, and the highest score wins.
    """
    prompts, origin = question.prepare()
    ends = _Ends(beams, tuple(prompts.ending.eos.tolist()), prompts.ending.max_length)
    if beams.step_token_id is not None:
        eos = np.append(prompts.ending.eos, beams.step_token_id)
        prompts = replace(prompts, ending=replace(prompts.ending, eos=eos))
    limit = prompts.ending.max_length
    live = [_Place(Member.begin(-1, -1, question.seed, origin, limit), question.seed)]
    ended, heats = list[_Place](), list[Heat]()
    for step in range(beams.max_steps):
        count = beams.num_beams - beams.width * len(ended)
        members = _expand(question, live, count, step, limit, beams.max_step_tokens)
        heat = Heat(
            prompts,
            members,
            keep=min(beams.num_places - len(ended), len(members)),
            branches=step + 1 < beams.max_steps,
            has_ended=ends,
        )
        heats.append(heat)
        yield heat
        survivors = _survivors(members, heat.keep)
        ended += [place for place in survivors if ends(place.member)]
        live = [place for place in survivors if not ends(place.member)]
        going = {place.member for place in live}
        for member in members:
            if member not in going:
                member.saved = None
        if not live:
            break
    every = [member for heat in heats for member in heat.members]
    left = list(dict.fromkeys(place.member for place in ended + live)) or heats[-1].members
    length = prompts.tokens.shape[1]
    return SearchResult(
        prompt=prompts.tokens[0],
        best=best_of(left),
        candidates=[Candidate.of(member, length) for member in left],
        num_tokens=sum(len(member.tokens) - member.start for member in every),
        num_stopped=sum(member.state is State.STOPPED for member in every),
        audited=all(heat.audited for heat in heats),
    )


@dataclass(frozen=True)
class _Place:
    """One of the places that survive a step.

    Attributes:
        member: whose text goes on.
        seed: of its expansions.
    """

    member: Member
    seed: int


@dataclass(frozen=True)
class _Ends:
    """Whether a text has ended for good where a step may end, too.

    Attributes:
        beams: how they grow.
        eos: tokens that end a text.
        max_length: tokens with which a text is full.
    """

    beams: Beams
    eos: tuple[int, ...]
    max_length: int

    def __call__(self, member: Member) -> bool:
        """Whether the text of a member that finished its step goes no further."""
        last, length = int(member.tokens[-1]), len(member.tokens)
        full = length - member.start == self.beams.max_step_tokens
        step_ends = full or last == self.beams.step_token_id
        return length >= self.max_length or last in self.eos or not step_ends


def _expand(
    question: Question,
    live: Sequence[_Place],
    count: int,
    step: int,
    max_length: int,
    max_step_tokens: int,
) -> list[Member]:
    """So many candidates that go on from the beams; those of one text share its cache."""
    origins: dict[Member, Origin] = {}
    members = []
    for number, place in enumerate(live):
        beam = place.member
        if beam not in origins:
            origins[beam] = beam.origin or beam.here(beam.saved)
            beam.origin = beam.saved = None
        origin = origins[beam]
        limit = min(max_length, len(origin.tokens) + max_step_tokens)
        for child in range(len(range(number, count, len(live)))):
            seed = derive_seed(place.seed, step, child)
            members.append(Member.begin(question.next_number(), beam.number, seed, origin, limit))
    return members


def _survivors(members: Sequence[Member], count: int) -> list[_Place]:
    """The best of those that finished, the best first; of equals those that come first.

    Those that were stopped count as if they had ended like one that finished and began alike, in
    turns where there are several; their seeds stay their own. So where they would have, the search
    goes on as it does without rejection, to the token.
    """
    finished = [member for member in members if member.state is State.FINISHED]
    alike: dict[bytes, Iterator[Member]] = {}
    places = []
    for member in members:
        stand_in: Member | None = member
        if member.state is State.STOPPED and member.num_tokens > 0:
            begun = member.tokens.tobytes()
            if begun not in alike:
                alike[begun] = cycle(m for m in finished if m.tokens.tobytes().startswith(begun))
            stand_in = next(alike[begun], None)
        if stand_in is not None and stand_in.state is State.FINISHED:
            places.append(_Place(stand_in, member.seed))
    order = np.argsort(-ranked([place.member for place in places]), kind="stable")[:count]
    return [places[number] for number in order.tolist()]
