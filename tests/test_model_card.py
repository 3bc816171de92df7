"""The model card is what the cards beside the weights say."""

import model_card  # of benchmarks/

from flare_lib.ct.labels import ORGANS


def test_the_page_is_made_from_the_cards_as_they_are():
    page = model_card.page(model_card.load_cards(), picture=model_card.stored_caption())
    assert model_card.PAGE.read_text(encoding="utf-8") == page, "run python benchmarks/model_card.py"


def test_every_organ_and_every_measure_is_in_the_table():
    fine = model_card.load_cards()["fine"]
    lines = model_card.figures_table(fine).splitlines()
    [pancreas] = [line for line in lines if line.startswith("| pancreas |")]
    scores = [fine[key]["pancreas"] for key in model_card.ORGAN_COLUMNS.values()]
    assert pancreas.split("|")[2:-1] == [f" {score:.3f} " for score in scores]
    assert sum(line.startswith(tuple(f"| {organ.name} |" for organ in ORGANS)) for line in lines) == len(ORGANS)


def test_the_table_of_slabs_says_what_the_card_of_thin_scans_says():
    slabs = model_card.load_cards()["thin"]["dice_of_slabs"]
    lines = model_card.slabs_table({"dice_of_slabs": slabs}).splitlines()
    assert slabs["means"]
    for what, (alone, whole) in slabs["means"].items():
        assert f"| {what} | {alone:.3f} | {whole:.3f} |" in lines
