"""How far a long piece of work is."""

from flare_lib.machine.progress import of_stage


def test_the_progress_of_a_stage_is_told_under_its_name():
    told = []
    tell = of_stage(lambda *call: told.append(call), "coarse")
    tell(1, 3)
    tell(3, 3)
    assert told == [("coarse", 1, 3), ("coarse", 3, 3)]


def test_where_nobody_asks_no_stage_tells():
    assert of_stage(None, "coarse") is None
