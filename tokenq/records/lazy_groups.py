"""Groups of tokens that are built whenever they are asked for: data that stay on the disk look like a list."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
from numpy.typing import NDArray

from tokenq.records.examples import TokenGroup


@dataclass(frozen=True, eq=False)
class LazyGroups(Sequence[TokenGroup]):
    """Groups that are built whenever they are asked for, so that none of them stays in memory.

    Attributes:
        get: builds the group of a place.
        examples: [groups] how many examples a loss counts in each.
        responses: in all groups.
        extremes: gives the groups with the longest row and with the highest token id.
    """

    get: Callable[[int], TokenGroup]
    examples: NDArray[np.int32]
    responses: int
    extremes: Callable[[], list[TokenGroup]]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.examples)

    @overload
    def __getitem__(self, place: int) -> TokenGroup: ...

    @overload
    def __getitem__(self, place: slice) -> list[TokenGroup]: ...

    def __getitem__(self, place: int | slice) -> TokenGroup | list[TokenGroup]:
        """Return a group, or some of them."""
        places = range(len(self))[place]
        return self.get(places) if isinstance(places, int) else [self.get(one) for one in places]

    def map(self, change: Callable[[TokenGroup], TokenGroup]) -> "LazyGroups":
        """Return the groups, each changed when it is built."""

        def get(place: int) -> TokenGroup:
            return change(self.get(place))

        return replace(self, get=get, extremes=lambda: [change(group) for group in self.extremes()])


def each(groups: Sequence[TokenGroup], change: Callable[[TokenGroup], TokenGroup]) -> Sequence[TokenGroup]:
    """Return every group changed, as lazily as they are."""
    return groups.map(change) if isinstance(groups, LazyGroups) else [change(group) for group in groups]


def count_responses(groups: Sequence[TokenGroup]) -> int:
    """Return the number of responses of all groups."""
    return groups.responses if isinstance(groups, LazyGroups) else sum(len(group.responses) for group in groups)
