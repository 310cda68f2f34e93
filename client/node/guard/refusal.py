"""An instruction that is refused: one word for the centre, a sentence for the site's own log."""


class Refusal(Exception):
    """An instruction that this site does not follow.

    Args:
        word: For the centre; one of `protocol.wire.error_words`.
        sentence: Location, rule, value and remedy; it never leaves.
    """

    def __init__(self, word: str, sentence: str) -> None:
        super().__init__(sentence)
        self.word = word
