"""The world's language: every clip has one sentence, every sentence one meaning."""

from dataclasses import dataclass

COLOURS = {
    "red": (235, 60, 50),
    "green": (60, 215, 90),
    "blue": (80, 130, 255),
    "yellow": (245, 225, 60),
    "pink": (250, 110, 210),
    "white": (245, 245, 245),
}
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}  # unit steps (dy, dx), image coordinates
SPEEDS = {"slowly": 1, "quickly": 2}  # pixels per frame
PHOTOS = ("temple", "flower")


@dataclass(frozen=True)
class Meaning:
    """What a prompt asks for. A digit moves (`digit`, `colour`) or the camera pans (`photo`)."""

    direction: str
    speed: str
    digit: int | None = None
    colour: str | None = None
    photo: str | None = None

    @property
    def domain(self) -> str:
        return "digit" if self.photo is None else "scene"

    @property
    def velocity(self) -> tuple[int, int]:
        """(dy, dx) in pixels per frame of the digit, or of the camera over the photograph."""
        dy, dx = DIRECTIONS[self.direction]
        return dy * SPEEDS[self.speed], dx * SPEEDS[self.speed]


def describe(meaning: Meaning) -> str:
    """The one sentence that means `meaning`; undone by `parse`."""
    motion = f"{meaning.direction} {meaning.speed}"
    if meaning.domain == "scene":
        return f"the camera pans {motion} over the {meaning.photo}"
    return f"the {meaning.colour} digit {DIGITS[meaning.digit]} moves {motion}"


def parse(prompt: str) -> Meaning:
    """The meaning of a sentence of the grammar; ValueError names the word that does not belong."""
    words = prompt.split()
    try:
        if words[:3] == ["the", "camera", "pans"]:
            *direction, speed, over, the, photo = words[3:]
            if (over, the) != ("over", "the"):
                raise KeyError(over)
            meaning = Meaning(" ".join(direction), speed, photo=photo)
        else:
            the, colour, digit, number, moves, *direction, speed = words
            if (the, digit, moves) != ("the", "digit", "moves") or colour not in COLOURS:
                raise KeyError(colour)
            meaning = Meaning(" ".join(direction), speed, digit=DIGITS.index(number), colour=colour)
        if meaning.photo is not None and meaning.photo not in PHOTOS:
            raise KeyError(meaning.photo)
        DIRECTIONS[meaning.direction], SPEEDS[meaning.speed]
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"'{prompt}' is not a sentence of the world ({error}): write 'the red digit five moves up quickly' "
            "or 'the camera pans right slowly over the temple'"
        ) from None
    return meaning
