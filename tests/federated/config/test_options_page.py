"""The page of options says what the fields say."""

from tests.tools.options_page import PAGE, page


def test_the_page_of_options_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tests.tools.options_page"
