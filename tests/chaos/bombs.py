"""Bombs as tests write them: which act on which path, before or after its effect, the how-manieth, and who dies."""

from dataclasses import dataclass

DRIVER, GROUP, RAYLET, SELF = "driver", "group", "raylet", "self"


@dataclass(frozen=True, slots=True)
class Bomb:
    """Goes off once, in whatever process of the command does the act.

    Attributes:
        act: a key of ACTS in bomb/sitecustomize.py.
        when: before or after the effect; amid a deletion, half done.
        path: a pattern of the path relative to the lake; the act's own for what has none.
        nth: the match that sets it off, counted over all processes of the command.
        victim: driver, its group (with Ray's daemons), raylet (the parent of a worker), self, child (of the decoder);
            or sleep: self is stopped; or linger: self dies and does the act later. Several are joined with +.
    """

    act: str
    when: str
    path: str
    nth: int
    victim: str

    def __str__(self) -> str:
        return f"{self.act}:{self.when}:{self.path}:{self.nth}:{self.victim}"


def bomb(text: str) -> Bomb:
    """Read `act:when:path[:nth[:victim]]`; the first match kills the driver if nothing else is said."""
    act, when, path, nth, victim = (*text.split(":"), *("1", DRIVER)[text.count(":") - 2 :])
    return Bomb(act, when, path, int(nth), victim)
