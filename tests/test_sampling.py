"""medqa.sampling: a draw depends on the seed and the ids alone, and results rest on its order."""

from functools import partial

from medqa.sampling import draw_order


def test_the_order_of_a_draw_is_pinned() -> None:
    ids = [f"q{number}" for number in range(8)]
    assert draw_order(0, "q0").hex()[:16] == "a60376c176c7c697"
    assert sorted(ids, key=partial(draw_order, 0)) != sorted(ids, key=partial(draw_order, 1)) != ids
