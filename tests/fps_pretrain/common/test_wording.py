"""Words that messages have in common."""

from fps_pretrain.common.wording import counted, suggest


def test_a_number_has_its_noun() -> None:
    assert [counted(number, "seed") for number in (0, 1, 2)] == ["0 seeds", "1 seed", "2 seeds"]


def test_the_nearest_name_is_suggested_where_one_is_near() -> None:
    known = ("alpha", "rounds", "local_epochs", "local_lr")
    assert suggest(["alhpa", "xyz", "local_epoch"], known) == (
        "alhpa (did you mean alpha?), xyz, local_epoch (did you mean local_epochs?)"
    )
