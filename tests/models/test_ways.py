"""Which rows may share what, by hand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rfbench.models.hf.ways import NEVER, Ways, grouped


def test_by_default_everything_is_shared() -> None:
    ways = Ways()
    assert ways.may_share_batch(50, 3, 100)
    assert ways.shares(50, 3, 100)
    assert ways.keeps(10**6)
    assert ways.full_pass_group(3) == ways.full_pass_group(5000)


def test_without_padding_rows_of_one_length_share_a_batch_and_their_beginning() -> None:
    ways = Ways(left=NEVER, between=NEVER)
    assert (ways.may_share_batch(9, 9, 4), ways.may_share_batch(9, 8, 4)) == (True, False)
    assert (ways.shares(9, 9, 4), ways.shares(9, 8, 4)) == (True, False)


def test_padding_holds_up_to_its_reach() -> None:
    ways = Ways(left=20, between=15)
    assert (ways.may_share_batch(16, 3, 4), ways.may_share_batch(17, 3, 4)) == (True, False)  # 20 and 21 columns
    assert (ways.shares(11, 3, 4), ways.shares(12, 3, 4)) == (True, False)


def test_without_a_cache_every_length_stands_for_itself() -> None:
    ways = Ways(caches=False)
    assert (ways.may_share_batch(9, 9, 4), ways.may_share_batch(9, 8, 4)) == (True, False)
    assert not ways.shares(9, 9, 4)
    assert not ways.keeps(9)
    assert not ways.serves(13, 9)


def test_rows_that_bear_no_company_are_alone() -> None:
    ways = Ways(batches=False)
    assert not ways.may_share_batch(9, 9, 4)
    assert len({ways.full_pass_group(9), ways.full_pass_group(9)}) == 2


def test_a_border_parts_the_short_from_the_long() -> None:
    ways = Ways(border=64)
    assert ways.may_share_batch(60, 20, 4)  # neither gets beyond it
    assert not ways.may_share_batch(61, 20, 4)  # the longer one ends beyond
    assert ways.may_share_batch(61, 61, 4)  # they cross it together
    assert not ways.may_share_batch(70, 64, 4)
    assert ways.may_share_batch(70, 65, 4)  # both stand beyond it
    assert [ways.keeps(n) for n in (63, 64, 65)] == [True, False, True]  # the 65th token changes all others
    assert [ways.serves(total, prompt) for total, prompt in ((64, 60), (65, 60), (90, 64), (90, 65))] == [
        *(True, False),
        *(False, True),
    ]
    assert (ways.shares(60, 20, 4), ways.shares(61, 61, 4), ways.shares(70, 70, 4)) == (True, False, False)
    assert (
        ways.full_pass_group(64) == ways.full_pass_group(3),
        ways.full_pass_group(65) == ways.full_pass_group(64),
        ways.full_pass_group(65) == ways.full_pass_group(999),
    ) == (
        *(True, False),
        True,
    )


def test_beyond_a_border_at_which_nothing_settles_nothing_is_kept() -> None:
    ways = Ways(border=64, steady=False)
    assert [ways.keeps(n) for n in (63, 64, 65)] == [True, False, False]
    assert (ways.may_share_batch(70, 66, 4), ways.may_share_batch(70, 70, 4)) == (False, True)
    assert ways.full_pass_group(65) != ways.full_pass_group(66)


@given(st.lists(st.integers(0, 4)))
def test_groups_hold_every_item_once_and_only_kin(items: list[int]) -> None:
    groups = grouped(items, lambda item: item)
    assert sorted(i for group in groups for i in group) == list(range(len(items)))
    assert all(len({items[i] for i in group}) == 1 for group in groups)
    assert len(groups) == len(set(items))
