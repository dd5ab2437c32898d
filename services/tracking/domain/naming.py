"""Names for runs that were given none: easy to tell apart and to say aloud."""

from __future__ import annotations

import secrets

__all__ = ["random_run_name"]

_QUALITIES = """
    able amber arctic bold brave brisk bright calm candid clear clever cobalt copper crisp daring
    deft dapper eager early fair fleet fluent fond gentle glad golden grand hardy honest humble
    jolly keen kind level light lively loyal lucid mellow merry mild modest neat nimble noble
    olive open patient placid polite proud quick quiet rapid ready royal rustic serene sharp
    silent silver sincere sleek smooth solid spry stately steady still stout sturdy subtle sunny
    swift tidy tranquil trusty upbeat valiant vivid warm wise witty zesty
""".split()  # noqa: SIM905
_THINGS = """
    anchor antelope badger beacon bison brook canyon cedar comet condor coral crane delta dolphin
    eagle ember falcon fern finch fjord fox gale garnet gazelle glacier grove gull harbor hare
    hawk heron hill ibis island jaguar jay juniper kestrel lagoon lark lemur linden lynx maple
    marten meadow mesa mosaic moss newt oak ocelot opal orca osprey otter owl panda peak pearl
    pine plover prairie quail raven reef ridge river robin sable salmon seal shore sparrow spruce
    stork summit swan tern thistle tiger trout tundra valley walrus willow wolf wren yak zebra
""".split()  # noqa: SIM905


def random_run_name() -> str:
    """Return a name such as `brisk-heron-412`."""
    quality, thing = secrets.choice(_QUALITIES), secrets.choice(_THINGS)
    return f"{quality}-{thing}-{secrets.randbelow(1000)}"
