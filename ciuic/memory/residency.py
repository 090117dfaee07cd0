"""Residency: which weights stay in a tier of memory and which stream through it. No I/O.

A token uses the weights of a device in one known order, again and again. In such a cycle a cache
that evicts the least recently used hits nothing. So what fits is pinned, and the rest streams
through a few slots ahead of its use (`Cycle`): each weight is read once a cycle, and the pinned
ones once and for all. The streamed ones are spread evenly over the cycle, since while pinned ones
are computed with, the slots fill once and then the link waits.

A time per cycle is at least that of the computation and at least that of the transfers; with slots
for both it is the larger of the two (`cycle_seconds`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from ciuic.errors import OutOfMemory

SLOTS = (4, 3, 2)
"""Slots that may be tried; of as fast ones the first."""
AS_FAST = 1.01
SHARES_OWED = (0.1, 0.3, 0.5, 0.7)
"""What must be owed of a weight's bytes for it to stream: which spreads them best is tried."""
Key = Hashable


@dataclass(frozen=True, kw_only=True)
class Use:
    """One weight in the order of use.

    Attributes
    ----------
    key
        Which weight.
    nbytes
        What it takes in the tier.
    streams
        Whether it may stream; others must be pinned.
    seconds
        Of the computation with it, up to the next use.
    """

    key: Key
    nbytes: int
    streams: bool = True
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Residency:
    """What is where.

    Attributes
    ----------
    pinned, streamed
        Keys, in the order of use.
    pinned_bytes, streamed_bytes
        Of all of them; the latter are read every cycle.
    slots, slot_bytes
        Room for streamed weights, one in each slot; 0 if nothing streams.
    seconds
        Of a cycle, predicted.
    """

    pinned: tuple[Key, ...]
    streamed: tuple[Key, ...]
    pinned_bytes: int
    streamed_bytes: int
    slots: int
    slot_bytes: int
    seconds: float

    @property
    def used_bytes(self) -> int:
        """Bytes of the tier that pinned weights and slots take."""
        return self.pinned_bytes + self.slots * self.slot_bytes


def plan_residency(
    uses: Sequence[Use], room: int, *, tier: str, link_bytes_per_second: float = 1e9
) -> Residency:
    """Return the residency with the shortest cycle within ``room`` bytes.

    Parameters
    ----------
    uses
        A cycle; keys are distinct.
    room
        Bytes for weights, what else the tier holds taken off.
    tier
        Its name, for errors.
    link_bytes_per_second
        How fast weights arrive.

    Raises
    ------
    OutOfMemory
        If not even two slots for the smallest of the streamed weights fit beside the others; it
        says how much would.
    """
    total = sum(use.nbytes for use in uses)
    if total <= room:
        return _residency(uses, frozenset(), 0, link_bytes_per_second)
    found = [
        _residency(uses, streamed, slots, link_bytes_per_second)
        for slots in SLOTS
        for limit in sorted({use.nbytes for use in uses if use.streams})
        for owed in SHARES_OWED
        if (streamed := _spread(uses, room, slots, limit, owed)) is not None
    ]
    if not found:
        least = min([total, *_least_rooms(uses)])
        raise OutOfMemory(tier, wanted=least, available=max(0, room), capacity=max(0, room))
    fastest = min(one.seconds for one in found)
    # Of as fast ones that which reads least; more slots first, as times are not so even.
    return min(
        (one for one in found if one.seconds <= AS_FAST * fastest),
        key=lambda one: (one.streamed_bytes, -one.slots),
    )


def _least_rooms(uses: Sequence[Use]) -> Iterator[int]:
    """Yield the bytes that are needed if all weights up to a size stream through two slots."""
    for limit in {use.nbytes for use in uses if use.streams}:
        pinned = sum(use.nbytes for use in uses if not use.streams or use.nbytes > limit)
        yield pinned + min(SLOTS) * limit


def _spread(
    uses: Sequence[Use], room: int, slots: int, limit: int, share_owed: float
) -> frozenset[Key] | None:
    """Return which weights of at most ``limit`` bytes stream, evenly over the cycle.

    As few bytes as possible stream; None if the rest does not fit.
    """
    may = [use for use in uses if use.streams and use.nbytes <= limit]
    candidates = sum(use.nbytes for use in may)
    must = sum(use.nbytes for use in uses) - candidates
    budget = room - slots * limit - must
    if budget < 0 or not candidates:
        return None
    share, owed = max(0.0, 1 - budget / candidates), 0.0
    streamed: set[Key] = set()
    for use in may:
        owed += share * use.nbytes
        if owed >= share_owed * use.nbytes:
            streamed.add(use.key)
            owed -= use.nbytes
    kept = [use for use in may if use.key not in streamed]
    over = sum(use.nbytes for use in kept) - budget
    while over > 0:
        # The smallest one that is enough, else the largest.
        enough = [use for use in kept if use.nbytes >= over]
        gone = min(enough, key=_size) if enough else max(kept, key=_size)
        kept.remove(gone)
        streamed.add(gone.key)
        over -= gone.nbytes
    for use in sorted((use for use in may if use.key in streamed), key=_size, reverse=True):
        if use.nbytes <= -over:
            streamed.remove(use.key)
            over += use.nbytes
    return frozenset(streamed)


def _size(use: Use) -> int:
    return use.nbytes


def _residency(uses: Sequence[Use], streamed: frozenset[Key], slots: int, link: float) -> Residency:
    moving = [use for use in uses if use.key in streamed]
    staying = [use for use in uses if use.key not in streamed]
    return Residency(
        pinned=tuple(use.key for use in staying),
        streamed=tuple(use.key for use in moving),
        pinned_bytes=sum(map(_size, staying)),
        streamed_bytes=sum(map(_size, moving)),
        slots=slots if moving else 0,
        slot_bytes=max(map(_size, moving), default=0),
        seconds=cycle_seconds(uses, streamed, slots, link),
    )


def cycle_seconds(
    uses: Sequence[Use], streamed: frozenset[Key], slots: int, link_bytes_per_second: float
) -> float:
    """Return the seconds of a cycle that follows others like it.

    Loads follow one another on the link; each waits for the slot of the load ``slots`` before it,
    which is free when the computation with that weight has ended.
    """
    now = link_free = before = 0.0
    freed: deque[float] = deque([0.0] * slots)
    for _ in range(3):
        before = now
        for use in uses:
            if use.key in streamed:
                link_free = max(link_free, freed.popleft()) + use.nbytes / link_bytes_per_second
                now = max(now, link_free)
                freed.append(now + use.seconds)
            now += use.seconds
    return now - before


@dataclass
class Cycle:
    """Which streamed weight is loaded next: decides, moves nothing.

    Whoever loads asks `next` whenever a slot is free; whoever computes tells `use`. If that is not
    what the order foresees (a token was given up half-way), what was loaded in vain is dropped and
    loading goes on from the weight that is used.

    Parameters
    ----------
    order
        Keys in the order of use. Others are loaded when they are used.
    """

    order: Sequence[Key]
    _position: int = 0
    _ahead: deque[Key] = field(default_factory=deque)  # loaded or being loaded, not used yet

    def __post_init__(self) -> None:
        self._index = {key: position for position, key in enumerate(self.order)}

    def next(self) -> Key | None:
        """Return what to load into a free slot, or None if nothing is foreseen."""
        if not self.order or len(self._ahead) >= len(self.order):
            return None
        key = self.order[self._position]
        self._position = (self._position + 1) % len(self.order)
        self._ahead.append(key)
        return key

    def use(self, key: Key) -> tuple[bool, list[Key]]:
        """Return whether a weight was loaded ahead, and which others are to be dropped.

        If it was not, the caller loads it, before all else.
        """
        if self._ahead and self._ahead[0] == key:
            self._ahead.popleft()
            return True, []
        if key not in self._index:
            return False, self._drop_last()
        dropped: list[Key] = []
        while self._ahead and self._ahead[0] != key:
            dropped.append(self._ahead.popleft())
        if self._ahead:
            self._ahead.popleft()
            return True, dropped
        self._position = (self._index[key] + 1) % len(self.order)
        return False, dropped

    def _drop_last(self) -> list[Key]:
        """Make room: drop what was loaded last, and load it again after this."""
        if not self._ahead:
            return []
        last = self._ahead.pop()
        self._position = self._index[last]
        return [last]
