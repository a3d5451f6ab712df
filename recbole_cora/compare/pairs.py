"""The pairs of systems that an experiment names, to be compared in its report."""

from __future__ import annotations

from collections.abc import Sequence

from recbole_cora.errors import nearest


def read_pairs(value: object, names: Sequence[str], problems: list[str]) -> tuple[tuple[str, str], ...]:
    """Return the pairs of an experiment's entry `pairs`; None is no pair. Mistakes go to `problems`.

    Args:
        names: the names of the experiment's systems.
    """
    if value is None:
        return ()
    if not isinstance(value, list):
        problems.append(f"pairs is {value!r}; expected a list of pairs of systems, such as [[CoRA, MF]]")
        return ()
    pairs: list[tuple[str, str]] = []
    for entry in value:
        if not isinstance(entry, list) or len(entry) != 2:
            problems.append(f"pairs has {entry!r}; expected the names of two systems, such as [CoRA, MF]")
            continue
        first, second = (" ".join(str(name).split()) for name in entry)
        unknown = [name for name in (first, second) if name not in names]
        problems += [f"pairs has '{name}', which no system is named{nearest(name, names)}" for name in unknown]
        if first == second:
            problems.append(f"pairs has ['{first}', '{second}']; expected two different systems")
        elif not unknown and {first, second} in map(set, pairs):
            problems.append(f"pairs has '{first}' and '{second}' twice; name each pair once")
        elif not unknown:
            pairs.append((first, second))
    return tuple(pairs)
