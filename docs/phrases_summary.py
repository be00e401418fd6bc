"""Phrases of the summary, and of README, that quote a figure; see `phrases`."""

import benchmark_tables as tables
from benchmark_tables import ms, others_periodic, read, select, short
from sources import (
    RACED,
    THREE,
    bench,
    dynamics,
    listed,
    number,
    points,
    power,
    race,
    run,
    runs,
    step_of,
    training_minutes,
)


def comparison() -> list[str]:
    """Return the table that names other programs."""
    mace, ours = (select(read("against_mace"), model=m, of="all") for m in ("MACE", "ours"))
    mev = "{energy_mae:.1f} meV{forces} {forces_rmse:.0f} meV/Å"
    numbers = [
        {k: float(v) for k, v in row.items() if k not in ("model", "of")} for row in (ours, mace)
    ]
    here, there = (
        mev.format(**n, forces=f) for n, f in zip(numbers, (", forces", ","), strict=True)
    )
    speed = [number(row, "training, energy and forces") for row in read("published_speed")]
    sizes = (("22", "1000"), ("60", "3000"), ("200", "3000"))
    old = [
        run(f"AMP-BMS, original code, comparable core: {n} atoms in {m} charges") for n, m in sizes
    ]
    wheel = " / ".join(short(bench(case, "fmm3dpy")) for case in THREE)
    rivals = [" / ".join(race(case, p) for case in RACED) for p in ("exafmm-t", "FMM3D")]
    ratios = [
        bench(case, "fmm3dpy") / bench(case)
        * float(race(raced, "exafmm-t", "seconds")) / float(race(raced, "FMM3D (wheel)", "seconds"))
        for case, raced in zip(THREE, RACED, strict=True)
    ]  # fmt: skip
    now = listed(ratios, ".1f")
    return [
        f"{listed(map(bench, THREE), '.3f')} s | the wheel of FMM3D 2.1 from PyPI, which is built "
        f"for generic x86-64, in the same run: {wheel} s. Native builds were raced earlier, on a "
        f"Zen 4 against the *anisole* of then: exafmm-t took {rivals[0]} times as long, FMM3D "
        f"{rivals[1]} times. By what exafmm-t took against the wheel there, it takes {now} times",
        f"energy drifts by {power(abs(dynamics('NVE drift of the energy')))} kT per degree of",
        f"energy MAE {here}; one frame {number(ours, 'single_ms'):.1f} ms",
        f"{there}, {number(mace, 'single_ms'):.1f} ms",
        f"{speed[0]:.1f} / {speed[1]:.1f} / {speed[2]:.0f} ms, energies within "
        f"{run('AMP-BMS against the original: energies')} kJ/mol",
        f"comparable core: {' / '.join(old)} ms",
    ]


def periodic() -> list[str]:
    """Return the times of periodic sums beside those of others."""
    ours = [row for row in read("periodic_peers") if row["program"] == "ours"]
    small, large = (
        [number(row, "ms_with_lists") for row in ours if row["case"] == f"{n} charges"]
        for n in (10_000, 100_000)
    )
    theirs = {
        (row["program"].split(",")[0].split(" ")[0], row["case"], float(row["bound"])): row
        for row in others_periodic()
    }

    def of(program: str, n: int, *bounds: float) -> str:
        found = (theirs[program, f"{n} charges", bound] for bound in bounds)
        return " / ".join(ms(row["ms_with_lists"]) for row in found)

    few, many = ([of("OpenMM", n, 1e-4), of("helpme", n, 1e-6, 1e-9)] for n in (10_000, 100_000))
    return [
        f"{listed(small, '.1f')} ms; 10⁵ charges: {listed(large, '.0f')} ms",
        f"{few[0]} ms at 1e-4, helpme with a compiled loop over pairs {few[1]} ms at "
        f"1e-6 / 1e-9; 10⁵ charges: {many[0]}, {many[1]} ms",
    ]


def ahead() -> list[str]:
    """Return what is said about where others are ahead."""
    big, first, small = "1e6 charges, 1e-3", "first field of a process", "1e4 charges, 1e-6"
    theirs = " / ".join(race(c, "exafmm-t", first) for c in RACED)
    took = {row["what"]: number(row, "seconds") for row in read("first_call")}
    cases = [f"100 000 points at {tolerance}" for tolerance in ("1e-3", "3e-7", "1e-9")]
    starts = listed((took[f"first field of a process, {case}"] for case in cases), ".2f")
    seconds = listed((took[f"second field, {case}"] for case in cases), ".2f")
    ever = took["first call ever, fmm.field, 10 000 points"]
    memory = [race(big, p, "peak memory") for p in ("anisole", "DMK", "exafmm-t", "FMM3D")]
    wheel = race(small, "FMM3D (wheel)", "first call ever")
    now = number(select(read("fmm_scaling"), n="1000000", threads="1", channels="1"), "memory")
    return [
        f"takes {starts} s, which loads kernels for longer than a second one takes ({seconds} s); "
        f"exafmm-t needed {theirs} s in that race",
        f"takes {ever:.1f} s (10⁴ charges), summed directly as nothing is compiled yet, where the "
        f"wheel of FMM3D answered after {wheel} s",
        f"now it is {now / 1e9:.2f} GB",
        f"{memory[0]} GB at 10⁶ charges and 1e-3, against {memory[1]} (DMK), "
        f"{memory[2]} (exafmm-t) and {memory[3]} GB (FMM3D)",
    ]


def demo() -> list[str]:
    """Return the demonstration and the model that ships."""
    of = runs("make demo")
    ships = select(read("shipped_model_errors"), molecule="all")
    return [
        f"about {tables.count(of['steps'])} steps in {of['training']} s on one core",
        f"energy MAE {of['energy MAE, least of three runs']} to "
        f"{of['energy MAE, greatest of three runs']} meV in three runs",
        f"QM forces RMSE {of['QM forces RMSE']} meV/Å, {of['QM forces RMSE over spread']} % of "
        f"their spread; forces on water charges {of['MM forces RMSE']} meV/Å, "
        f"{of['MM forces RMSE over spread']} %",
        f"energy MAE {of['energy MAE, blind']} meV; QM forces RMSE "
        f"{of['QM forces RMSE, blind']} meV/Å",
        f"The model that ships ({training_minutes()} minutes of training on one core)",
        f"energy MAE {number(ships, 'energy_mae'):.1f} meV; QM forces RMSE "
        f"{number(ships, 'forces_rmse'):.0f} meV/Å, {100 * number(ships, 'forces_ratio'):.1f} % of "
        f"their spread; MM forces {number(ships, 'mm_forces_rmse'):.1f} meV/Å, "
        f"{100 * number(ships, 'mm_forces_ratio'):.1f} %",
    ]


def measured() -> list[str]:
    """Return models, dynamics and large systems."""
    order = [select(read("direction"), order=str(k), frames="730") for k in range(4)]
    steps = [number(row, "ratio") for row in read("direction_time")]
    energies, forces = (
        listed((number(row, key) for row in order), ".0f", ", ")
        for key in ("energy_mae", "forces_rmse")
    )
    mace, ours = (select(read("against_mace"), model=m, of="all") for m in ("MACE", "ours"))
    exponents = [tables.exponent(tables.far_apart(kind), "electrostatics") for kind in tables.KINDS]
    keys = ("energy_mae", "forces_rmse", "single_ms", "batch_ms")
    pair = [number(row, key) for key in keys for row in (ours, mace)]
    error = dynamics("NVE drift, standard error")
    amoeba = run("216 AMOEBA waters: relative difference to OpenMM")
    ways = [step_of(kind) for kind in ("periodic", "cutoff")]
    steps_md, alone = (
        [of[part] for of in ways] for part in ("a step", "force field alone, a step")
    )
    million = select(read("surroundings_scaling"), n="1000000", method="direct")
    s66 = number(select(read("published_s66x8"), scale="all"), "mae")
    return [
        f"energies within {run('AMP-BMS against the original: energies')} kJ/mol, forces "
        f"within {run('AMP-BMS against the original: forces')} kJ/mol/Å; S66x8 MAE "
        f"{s66:.2f} kJ/mol",
        f"energy MAE {energies} meV; QM forces RMSE {forces} meV/Å; a step "
        f"costs 1, {listed(steps[1:], '.2f', ', ')}",
        f"{', '.join(exponents)}; without electrostatics 0",
        "energy MAE {:.1f} meV (MACE {:.1f}), forces RMSE {:.0f} meV/Å ({:.0f}); one frame {:.1f} "
        "ms ({:.1f}), in batches {:.1f} ms ({:.1f})".format(*pair),
        f"{steps_md[0]:.1f} ms a step at best, with charges cut off {steps_md[1]:.1f} ms; the "
        f"force field alone {listed(alone, '.1f', ' and ')} ms; "
        f"{dynamics('QM/MM, 300 K: length'):g} ps at 300 K stable; energy drift "
        f"{power(dynamics('NVE drift of the energy'))} ± {power(error)} kT",
        f"{run('two clusters of 4000 stars: one step')} ms a step (direct sum: "
        f"{run('two clusters of 4000 stars: direct sum')} ms)",
        f"{run('potential at 390 000 points of a protein: fmm')} s (direct sum: "
        f"{run('potential at 390 000 points of a protein: direct sum')} s)",
        f"{run('216 AMOEBA waters: iterations of conjugate gradients')} iterations; relative "
        f"difference to OpenMM's {power(float(amoeba))}",
        f"{number(million, 'again'):.1f} s, {number(million, 'memory') / 1e9:.1f} GB",
    ]


def speed_of_sums() -> list[str]:
    """Return sums, operators and training steps."""
    direct = {(r["case"], r["dtype"], r["loop"], r["threads"]): r for r in read("direct_sum")}
    rates, plain, columns, slow = {}, [], [], []
    for dtype in ("float64", "float32"):
        for case in ("charges", "quadrupoles"):
            rate = number(direct[case, dtype, "multipoles", "1"], "rate")
            rates[case, dtype] = rate
            loop = rate / number(direct[case, dtype, "plain Numba", "1"], "rate")
            (plain if case == "charges" else slow).append(loop)
        rows = number(direct["charges", dtype, "plain, (n, 3)", "1"], "rate")
        columns.append(rates["charges", dtype] / rows)
    edges = {
        r["operator"]: number(r, "ratio_min")
        for r in read("edge_operators_order2_channels16")
        if r["part"] == "all"
    }
    step = {r["variant"]: number(r, "ratio") for r in read("training_step")}
    wheel = [bench(case, "fmm3dpy") / bench(case) for case in THREE]
    passes = 1 / number(select(read("compiled_training"), way="compiled passes"), "ratio")
    return [
        f"{rates['charges', 'float64'] / 1e9:.1f}·10⁹ pairs/s in float64, "
        f"{rates['charges', 'float32'] / 1e9:.1f}·10⁹ in float32: as fast as a plain Numba loop "
        f"over separate x, y, z arrays ({plain[0]:.1f}×, {plain[1]:.1f}×), {columns[0]:.0f} and "
        f"{columns[1]:.0f} times one over (n, 3)",
        f"{rates['quadrupoles', 'float64'] / 1e8:.1f}·10⁸ unordered pairs/s in float64, "
        f"{rates['quadrupoles', 'float32'] / 1e8:.1f}·10⁸ in float32: {slow[0]:.0f} and "
        f"{slow[1]:.0f} times the same formulas",
        f"{listed(map(bench, THREE), '.3f')} s: {wheel[0]:.0f}, {wheel[1]:.0f} and {wheel[2]:.0f} "
        "times faster than FMM3D's wheel from PyPI (built for generic x86-64) in the same run; "
        f"10⁶ charges at tolerance 1e-6: {points(1000000, '1e-06'):.1f} s",
        f"error below 1e-6 | {bench('… quadrupoles → third derivatives, 1e-06'):.2f} s",
        f"state {edges['anisotropic_state']:.0f}×, pair invariants {edges['pair_invariants']:.0f}× "
        "faster",
        f"{step['torch edges']:.1f}× / {step['torch edges, not split']:.1f}× / "
        f"{step['torch everything']:.1f}× faster",
        f"{passes:.1f}× faster than autograd's graph of our operators",
        " | " + ", ".join(f"{step[f'order {k}']:.2f}×" for k in (1, 2, 3)),
    ]


def summary() -> list[str]:
    """Return all phrases of the summary."""
    return comparison() + periodic() + ahead() + demo() + measured() + speed_of_sums()


def readme() -> list[str]:
    """Return the few figures of README."""
    minutes = int(run("make demo: whole time, two cores"))
    sums = select(
        read("direct_sum"), case="charges", dtype="float64", loop="multipoles", threads="1"
    )
    ships = select(read("shipped_model_errors"), molecule="all")
    return [
        f"takes {('', 'one', 'two', 'three', 'four', 'five')[minutes]} minutes on two cores",
        f"{number(sums, 'rate') / 1e9:.1f}·10⁹ pairs/s: charges to potential and gradient",
        f"{bench(THREE[1]):.3f} s: 10⁵ charges to potential and gradient, error below 3e-7",
        f"energy MAE {number(ships, 'energy_mae'):.1f} meV on held-out MD runs",
    ]
