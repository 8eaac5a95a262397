"""The tables that a benchmark prints."""

import numpy as np

from experiments.benchmark import contenders
from svdrnn import transitions


def exponent(sizes: list[int], seconds: list[float]) -> float:
    """The slope of log(seconds) over log(sizes), by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def cell(title: str, rows: list[dict], baselines: tuple[str, ...]) -> None:
    """One table: milliseconds, spread, memory and the ratio to each baseline."""
    seconds = {row["contender"]: row.get("seconds") for row in rows}
    print(f"\n{title}")
    head = "".join(f"{'/ ' + name:>24}" for name in baselines)
    print(f"  {'':<28}{'ms':>10}{'range':>20}{'MiB':>9}{head}")
    for row in rows:
        if "skipped" in row:
            print(f"  {row['contender']:<28}{'skipped: ' + row['skipped']:>30}")
            continue
        spread = f"{row['low'] * 1e3:.1f} - {row['high'] * 1e3:.1f}"
        used = row["temp_bytes"]
        memory = "" if used is None else f"{used / 2**20:.0f}"
        ratios = "".join(
            f"{row['seconds'] / seconds[name]:>24.3f}"
            if seconds.get(name)
            else f"{'':>24}"
            for name in baselines
        )
        print(
            f"  {row['contender']:<28}{row['seconds'] * 1e3:>10.1f}{spread:>20}"
            f"{memory:>9}{ratios}"
        )


def ratios(rows: list[dict]) -> None:
    """Of each cell one line: what the README's headline is made of."""
    print(f"\n{contenders.HEADLINE} to {contenders.BASELINE}:")
    for row in rows:
        cell = f"n={row['n']}, T={row['steps']}, {devices(row['devices'])}"
        print(f"  {cell:<32}{row['ratio']:.3f}")


def devices(number: int) -> str:
    """How many, in words."""
    return "one device" if number == 1 else f"{number} devices"


def choice(rows: list[dict], n: int) -> None:
    """What `method="auto"` picks, against what was measured."""
    seconds = {row["contender"]: row.get("seconds") for row in rows}
    for m in (contenders.REFLECTORS, n):
        low = seconds.get(f"SpectralRNN low_rank m={m}")
        dense = seconds.get(f"SpectralRNN dense m={m}")
        if low and dense:
            chosen = transitions.auto_method(n, 2 * m)
            faster = "low_rank" if low < dense else "dense"
            print(f"  auto at m={m}: {chosen}; faster here: {faster}")


def scaling(rows: list[dict]) -> None:
    """Milliseconds, memory and the exponent of each series."""
    print(
        f"\nSpectralRNN, n=128, m={contenders.REFLECTORS}: time over T and over batch"
        " (T=200)"
    )
    for series in dict.fromkeys(row["series"] for row in rows):
        of_series = [row for row in rows if row["series"] == series]
        axis = "batch" if series == "batch" else "steps"
        for row in of_series:
            print(
                f"  {series:<18}{axis} {row[axis]:<8}{row['seconds'] * 1e3:>10.1f} ms"
                f"{row['temp_bytes'] / 2**20:>10.1f} MiB of temporaries"
            )
        slope = exponent(
            [r[axis] for r in of_series], [r["seconds"] for r in of_series]
        )
        print(f"  {series:<18}exponent {slope:.3f}")
